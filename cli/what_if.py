"""The planner's inputs with one thing different. Pure."""

from dataclasses import replace

from orchestrator.types import ClusterState, DeviceState, ModelSpec, NodeState


def suppose(
    model: ModelSpec,
    cluster: ClusterState,
    *,
    link_bps: int | None = None,
    slo_ttft_ms: int | None = None,
    free_bytes: int | None = None,
) -> tuple[ModelSpec, ClusterState]:
    """The same model and cluster, had every link `link_bps` (bytes/s), the first token to come within `slo_ttft_ms`,
    or every device `free_bytes` free (a smaller device is then supposed to be as large as that). None changes nothing.
    """

    def device(one: DeviceState) -> DeviceState:
        if free_bytes is None:
            return one
        return replace(one, free_bytes=free_bytes, memory_bytes=max(one.memory_bytes, free_bytes))

    def node(one: NodeState) -> NodeState:
        link = one.link_bps if link_bps is None else link_bps
        return replace(one, link_bps=link, devices=tuple(device(d) for d in one.devices))

    supposed = replace(cluster, nodes=tuple(node(one) for one in cluster.nodes))
    return (model if slo_ttft_ms is None else replace(model, slo_ttft_ms=slo_ttft_ms)), supposed
