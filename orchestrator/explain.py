"""Decisions in words, plans and ends of groups: for the CLI, the demo and the admin UI."""

from collections.abc import Mapping

from orchestrator.types import Candidate, ConsolidationMode, NoPlan, NoPlanReason, Plan, Reason, ReasonCode, Verdict
from orchestrator.why import SlowStage, Why, WhyCode

Facts = Mapping[str, int | str]

_REASONS: Mapping[ReasonCode, str] = {
    ReasonCode.MEETS_SLO: "{stages}, {w} with room for a whole worker: the smallest pipeline that meets the"
    " service level: first token in {ttft} of {slo_ttft} allowed{tpot}.",
    ReasonCode.DEGRADED: "No pipeline size meets the service level (first token within {slo_ttft}), so one whole worker"
    " serves as well as it can: first token in {ttft}{tpot}.",
    ReasonCode.WAITED: "The oldest request has waited {waited} already; that is counted.",
    ReasonCode.STORE: "The store gives no more, whatever the nodes' links are: its fetches take {fetch} at least.",
    ReasonCode.SPLIT_NEEDED: "Fewer stages are too slow: with up to {s}, the first token comes in {best_ttft} at best.",
    ReasonCode.BURST: "{instances} workers are needed, so the pipeline is planned to end as {w} standalone workers.",
    ReasonCode.FEWER_INSTANCES: "{instances} workers are needed, but this plan ends as {w}; the rest needs another.",
    ReasonCode.NOT_PROFILED: "Not measured yet for this model, so not counted: {what}.",
    ReasonCode.HELD: "Stage {rank}: {node} already holds {bytes} of its weights in host memory.",
    ReasonCode.PLAIN_START: "Stage {rank}: {node} has no warm runtime, so its process starts from nothing.",
    ReasonCode.BESIDE_STAGE: "Consolidation: the standalone worker starts beside stage {rank} on {node}, device"
    " {device}; memory for both is reserved.",
    ReasonCode.OTHER_DEVICE: "Consolidation: the standalone worker starts on {node}, device {device}, since stage"
    " {rank}'s own device cannot hold both.",
    ReasonCode.DRAIN_FIRST: "Consolidation: {node} cannot hold stage {rank} and a whole worker at once, so when no"
    " request has come for a while the pipeline drains, and then the standalone worker starts on device {device}.",
    ReasonCode.IN_PLACE: "Consolidation: stage {rank} on {node}, device {device}, grows into the standalone worker.",
}

_REFUSALS: Mapping[NoPlanReason, str] = {
    NoPlanReason.NO_NODES: "No node that reports can take anything ({cordoned} cordoned or drained). Start one that has"
    " stopped, add one, or lift a cordon or drain: hydrant node --help.",
    NoPlanReason.MODEL_TOO_LARGE: "A whole worker needs {need} of device memory and the largest device has {largest}."
    " Lower the model's KV reserve or context length, or add a larger device.",
    NoPlanReason.NO_MEMORY: "A whole worker needs {need} of device memory and the most that is free on one device is"
    " {free}. Stop an idle model, or wait for one to be evicted.",
    NoPlanReason.NO_PORTS: "Of {nodes}, none has enough free ports. Widen the port range of a node.",
    NoPlanReason.LINKS_BUSY: "Every link is taken: one more fetch would make one of the {fetches} admitted ones late.",
    NoPlanReason.LINKS_DOWN: "Of {nodes} with room, none has a working link to fetch the weights over."
    " Check the nodes' link_gbps.",
}

_WHYS: Mapping[WhyCode, str] = {
    WhyCode.STAGE_FAILED: "stage {rank} on {node}: {error}",
    WhyCode.STAGE_GONE: "stage {rank} on {node}: {error}",
    WhyCode.NODE_LOST: "stage {rank} on {node}: the node has stopped reporting;"
    " check that its noded and node worker run",
    WhyCode.NODE_TAKES_NOTHING: "stage {rank} on {node}: the node worker of {node} reports but takes no work;"
    " restart it",
    WhyCode.PROBE_FAILED: "no token came out of the group: {error}",
    WhyCode.NOT_READY_IN_TIME: "not ready in time: {stages}; it had {allowed}",
    WhyCode.MODEL_DELETED: "no longer wanted: its model was deleted",
    WhyCode.MODEL_DISABLED: "no longer wanted: its model is disabled",
    WhyCode.MODEL_STOPPED: "no longer wanted: its model was told to stop",
    WhyCode.NODE_EMPTIED: "no longer wanted: {node} is being emptied",
    WhyCode.IDLE: "idle past its keep-alive of {keep_alive}: unused for {idle}",
    WhyCode.IDLE_BUDGET: "idle past its set keep-alive of {set}: unused for {idle}; of the {budget} that idle workers"
    " may hold beyond theirs, others are likely to save more with the {held} that it held",
    WhyCode.DRAINS_FIRST: "drains first: its standalone worker needs its memory",
    WhyCode.REPLACED: "replaced by its standalone worker",
    WhyCode.MAKES_ROOM: "makes room for {model}",
}

_NO_ERROR: Mapping[WhyCode, str] = {
    WhyCode.STAGE_FAILED: "failed without giving a reason",
    WhyCode.STAGE_GONE: "its processes ended",
    WhyCode.PROBE_FAILED: "the probe gave no reason",
}

_TIMES: Mapping[str, str] = {"tpot": "the time per token", "prefill": "the time for a prompt"}

_VERDICTS: Mapping[Verdict, str] = {
    Verdict.CHOSEN: "chosen",
    Verdict.MEETS: "meets the service level, but gives fewer workers than the burst needs",
    Verdict.TTFT_TOO_LONG: "first token too late",
    Verdict.TPOT_TOO_LONG: "too slow per token",
    Verdict.NO_ROOM: "not enough device memory",
    Verdict.LINKS_DOWN: "no working link",
    Verdict.LINKS_BUSY: "links are taken",
    Verdict.NO_PORTS: "not enough ports",
    Verdict.TOO_FEW_NODES: "too few nodes",
}

_MODES: Mapping[ConsolidationMode, str] = {
    ConsolidationMode.BESIDE_STAGE: "beside the stage",
    ConsolidationMode.OTHER_DEVICE: "on another device of the node",
    ConsolidationMode.DRAIN_FIRST: "after the pipeline has drained",
    ConsolidationMode.IN_PLACE: "in the stage's place",
}


def reason_text(reason: Reason) -> str:
    """One reason of a plan as a sentence."""
    words = _words(reason.facts)
    if reason.code is ReasonCode.NOT_PROFILED:
        words["what"] = " and ".join(_TIMES.get(name, name) for name in words["what"].split(" and "))
    return _REASONS[reason.code].format_map(words)


def refusal_text(refusal: NoPlan) -> str:
    """Why nothing can be started and what would help, in one or two sentences."""
    text = _REFUSALS[refusal.reason].format_map(_words(refusal.detail))
    if "silent" in refusal.detail:
        text += (
            f" Not counted, because they have stopped reporting: {refusal.detail['silent']}."
            " Check that their noded and node worker run."
        )
    if refusal.retry_after_ms is None:
        return text
    return f"{text} Asked again in {_seconds(refusal.retry_after_ms)}."


def why_text(why: Why) -> str:
    """Why a group ends, as a clause: to be read after the group's name or state."""
    words = {"error": _NO_ERROR.get(why.code, ""), **_words(why.facts)}
    words["stages"] = ", ".join(_how_far(stage) for stage in why.stages) or "no token came"
    return _WHYS[why.code].format_map(words)


def explain(outcome: Plan | NoPlan) -> list[str]:
    """The whole decision as lines of text: what was decided, why, where, and every candidate that was judged."""
    if isinstance(outcome, NoPlan):
        lines = [f"{outcome.model}: no plan", f"  {refusal_text(outcome)}"]
    else:
        lines = [f"{outcome.model}: s={outcome.s} w={outcome.w}" + (" (degraded)" if outcome.degraded else "")]
        lines += [f"  - {reason_text(reason)}" for reason in outcome.reasons]
        lines += placement_lines(outcome)
    return lines + candidate_lines(outcome.candidates)


def placement_lines(plan: Plan) -> list[str]:
    """The stages and standalone workers of a plan, one a line, under headings."""
    lines = ["  stage  node             device  layers    reserved     to fetch          rate"]
    for stage in plan.stages:
        layers = f"{stage.first_layer}-{stage.first_layer + stage.layer_count - 1}"
        lines.append(
            f"  {stage.rank:>5}  {stage.node:<15}  {stage.device:>6}  {layers:>6}  {_size(stage.reserved_bytes):>10}"
            f"  {_size(stage.fetch_bytes):>11}  {_rate(stage.rate_bps):>12}"
        )
    for target in plan.consolidate.targets if plan.consolidate else ():
        lines.append(
            f"  becomes standalone on {target.node}, device {target.device}, {_MODES[target.mode]}:"
            f" {_size(target.memory_bytes)} of device memory, {_size(target.fetch_bytes)} more to fetch"
        )
    return lines


def candidate_lines(candidates: tuple[Candidate, ...]) -> list[str]:
    """The candidates as a table, one a line, under headings; nothing for none."""
    if not candidates:
        return []
    lines = ["  s  w   first token  per token      fetch      floor  verdict"]
    for c in candidates:
        numbers = f"{_maybe(c.ttft_ms):>12}  {_maybe(c.tpot_ms):>9}  {_maybe(c.fetch_ms):>9}  {_maybe(c.floor_ms):>9}"
        lines.append(f"  {c.s}  {c.w}  {numbers}  {_VERDICTS[c.verdict]}")
    return lines


def _words(facts: Facts) -> dict[str, str]:
    """The facts as people read them: `x_ms` becomes `x` in seconds, `x_bytes` and `bytes` a size."""
    words = {"tpot": ""}
    for name, value in facts.items():
        if not isinstance(value, int):
            words[name] = value
        elif name.endswith("_ms"):
            words[name.removesuffix("_ms")] = _seconds(value)
        elif name.endswith("bytes"):
            words[name.removesuffix("_bytes")] = _size(value)
        elif name == "s":
            words |= {"s": str(value), "stages": _count(value, "stage")}
        else:
            words[name] = _count(value, "node") if name == "nodes" else str(value)
    if "slo_tpot_ms" in facts:
        words["tpot"] = f", {facts['tpot_ms']} ms per token of {facts['slo_tpot_ms']} ms"
    return words


def _how_far(stage: SlowStage) -> str:
    words = f"stage {stage.rank} on {stage.node} is {stage.state}"
    if stage.bytes_fetched is None or stage.bytes_to_fetch is None:
        return words
    return f"{words}, with {stage.bytes_fetched / 1e6:.1f} of {stage.bytes_to_fetch / 1e6:.1f} MB fetched"


def _count(value: int, what: str) -> str:
    return f"{value} {what}" if value == 1 else f"{value} {what}s"


def _maybe(value_ms: int | None) -> str:
    """For tables: seconds with two decimals, below each other."""
    if value_ms is None:
        return "-"
    return f"{value_ms} ms" if value_ms < 1000 else f"{value_ms / 1000:.2f} s"


def _seconds(value_ms: int) -> str:
    """For sentences: at most two decimals, and no zeros that say nothing."""
    return f"{value_ms / 1000:.2f}".rstrip("0").rstrip(".") + " s"


def _size(value: int) -> str:
    """Bytes as GB (1e9 bytes) or MB (1e6 bytes)."""
    return f"{value / 1e9:.2f} GB" if value >= 10**9 else f"{value / 1e6:.1f} MB"


def _rate(value_bps: int) -> str:
    """Bytes per second as Gbit/s, the unit in which links are sold."""
    return f"{value_bps * 8 / 1e9:.2f} Gbit/s" if value_bps else "-"
