"""A what-if changes one thing and nothing else."""

from dataclasses import replace

from support.clusters import GB, GBIT, a_cluster, a_model

from cli.what_if import suppose


def test_without_a_what_if_nothing_changes() -> None:
    model, cluster = a_model(), a_cluster(3)
    assert suppose(model, cluster) == (model, cluster)


def test_only_the_link_rate_changes() -> None:
    model, cluster = a_model(), a_cluster(2)
    same, faster = suppose(model, cluster, link_bps=100 * GBIT)
    assert same == model
    assert {node.link_bps for node in faster.nodes} == {100 * GBIT}
    assert [replace(node, link_bps=cluster.nodes[0].link_bps) for node in faster.nodes] == list(cluster.nodes)


def test_only_the_service_level_changes() -> None:
    model, cluster = a_model(), a_cluster(2)
    strict, same = suppose(model, cluster, slo_ttft_ms=1234)
    assert same == cluster
    assert strict == replace(model, slo_ttft_ms=1234)


def test_free_memory_changes_and_a_small_device_is_supposed_to_be_larger() -> None:
    model, cluster = a_model(), a_cluster(1, free_gb=(10, 40))
    _same, supposed = suppose(model, cluster, free_bytes=100 * GB)
    (node,) = supposed.nodes
    assert [(device.free_bytes, device.memory_bytes) for device in node.devices] == [(100 * GB, 100 * GB)] * 2
    _same, supposed = suppose(model, cluster, free_bytes=5 * GB)
    (node,) = supposed.nodes
    assert [(device.free_bytes, device.memory_bytes) for device in node.devices] == [(5 * GB, 80 * GB)] * 2
