"""What the controller learns from cold starts: from rows of SQL to the next prediction."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select

from orchestrator.lifecycle import GroupState
from orchestrator.types import Plan
from registry.db import session_scope
from registry.ids import new_id, now_ms
from registry.models import Calibration, ColdStart, ColdStartEvent, Group, Model, Node, Stage, StartObservation
from tasks import control, learning

TAIL_MS = 300
PLAN = Plan("m", 1, 1, (), 4_200, None, False, None, (), (), waited_ms=200)


def test_a_start_that_is_over_is_told_as_spans_of_the_request_that_waited(bench) -> None:
    bench.add_model()
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    start_id = a_start(bench, traceparent=f"00-{trace_id}-{span_id}-01", fetched_bytes=1000, fetch_ms=50)
    a_start(bench, reason="a stage broke", failed_at_ms=now_ms(), ready_at_ms=None, answered=False)
    kept = InMemorySpanExporter()
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(kept))
    with session_scope(bench.here.sessions) as session:
        assert learning.study(session, now_ms(), spans) == 2
        assert learning.study(session, now_ms(), spans) == 0
        start = session.get_one(ColdStart, start_id)
    starts = [span for span in kept.get_finished_spans() if span.name == "cold start"]
    told = {span.attributes["hydrant.cold_start"]: span for span in starts}
    assert len(told) == 2
    mine = told.pop(start_id)
    assert (f"{mine.context.trace_id:032x}", f"{mine.parent.span_id:016x}") == (trace_id, span_id)
    assert mine.start_time == start.requested_at_ms * 1_000_000
    assert mine.end_time >= start.first_token_at_ms * 1_000_000
    (stage,) = [span for span in within(kept, mine) if span.name == "stage"]
    about = {name.removeprefix("hydrant."): value for name, value in stage.attributes.items()}
    assert (about["node"], about["device"], about["rank"]) == ("n0", 0, 0)
    assert (about["bytes_to_fetch"], about["bytes_fetched"]) == (1000, 1000)
    steps = {step.name: step for step in within(kept, stage)}
    assert steps.keys() == {"queued", "prefetch", "runtime", "start"}
    assert steps["prefetch"].end_time - steps["prefetch"].start_time == 50 * 1_000_000
    assert all(stage.start_time <= step.start_time <= step.end_time <= stage.end_time for step in steps.values())
    (failed,) = told.values()
    assert (failed.parent, failed.status.is_ok, failed.status.description) == (None, False, "a stage broke")


def within(kept: InMemorySpanExporter, parent) -> list:
    return [span for span in kept.get_finished_spans() if span.parent and span.parent.span_id == parent.context.span_id]


def a_start(
    bench,
    model="m",
    *,
    floor_ms=1_000,
    tail_ms=TAIL_MS,
    ago_ms=100_000,
    cause="demand",
    answered=True,
    fetched_bytes=0,
    fetch_ms=1,
    stages=1,
    **row,
):
    """A cold start on n0, all its stages alike, as reports and the ledger have left it in SQL."""
    asked = now_ms() - ago_ms
    with session_scope(bench.here.sessions) as session:
        model_id = session.scalars(select(Model.id).where(Model.name == model)).one()
        start = ColdStart(
            id=new_id("cst"),
            model_id=model_id,
            cause=cause,
            plan=PLAN.to_json(),
            predicted_ttft_ms=PLAN.predicted_ttft_ms,
            requested_at_ms=asked,
            ready_at_ms=asked + floor_ms,
            first_token_at_ms=asked + floor_ms + tail_ms if answered else None,
        )
        for column, value in row.items():
            setattr(start, column, value)
        session.add(start)
        session.flush()
        group = Group(
            id=new_id("grp"),
            model_id=model_id,
            cold_start_id=start.id,
            state=GroupState.STOPPED.value,
            plan=start.plan,
            api_key="k",
            created_at_ms=asked,
            deadline_ms=asked,
        )
        marks = {"queued": 0, "prefetch_start": 0, "prefetch_end": fetch_ms, "fork": 2, "runtime": 12, "up": floor_ms}
        place = {"node_name": "n0", "device_idx": 0, "first_layer": 0, "layer_count": 1, "reserved_bytes": 1, "port": 1}
        fetched = {"bytes_to_fetch": fetched_bytes, "bytes_fetched": fetched_bytes}
        group.stages = [
            Stage(id=new_id("stg"), rank=rank, state="gone", full=True, **fetched, **place) for rank in range(stages)
        ]
        session.add(group)
        session.flush()
        session.add_all(
            ColdStartEvent(cold_start_id=start.id, stage_id=stage.id, kind=kind, at_ms=asked + at)
            for stage in group.stages
            for kind, at in marks.items()
        )
        return start.id


def on_cpu(bench, model="m"):
    """The profile by which the next start on these nodes is predicted, as a controller that starts now reads it."""
    return bench.load_state().models[model].spec.on("cpu").profile


def test_the_next_prediction_is_by_what_starts_have_taken(bench) -> None:
    bench.add_model()
    for floor_ms in (900, 1_000, 1_200):
        a_start(bench, floor_ms=floor_ms)
    control.reconcile_now()
    assert (on_cpu(bench).runtime_floor_ms, on_cpu(bench).tail_ms) == (1_000, TAIL_MS)
    bench.gateway.activity("m", waiting=1)
    bench.settle()
    group = bench.groups()[-1]
    plan = Plan.from_json(group.plan)
    (chosen,) = [candidate for candidate in plan.candidates if candidate.verdict == "chosen"]
    assert chosen.floor_ms == 1_000
    assert plan.predicted_ttft_ms - plan.waited_ms == chosen.fetch_ms + TAIL_MS


def test_the_error_of_the_predictions_is_kept_beside_what_was_learnt(bench) -> None:
    bench.add_model()
    for _ in range(3):
        a_start(bench, floor_ms=4_700)
    control.reconcile_now()
    with bench.here.sessions() as session:
        rows = {row.model_id != "": row for row in session.scalars(select(Calibration))}
        seen = session.scalars(select(StartObservation)).first()
    assert (seen.predicted_ms, seen.real_ms) == (4_000, 5_000)
    assert {row.error_permille for row in rows.values()} == {200}
    assert {row.starts for row in rows.values()} == {3}


def test_one_odd_start_changes_nothing(bench) -> None:
    bench.add_model()
    for floor_ms in (1_000, 1_000, 900_000, 1_000):
        a_start(bench, floor_ms=floor_ms)
    control.reconcile_now()
    assert on_cpu(bench).runtime_floor_ms == 1_000


@pytest.mark.parametrize(
    "row",
    [{"failed_at_ms": 1, "ready_at_ms": None, "answered": False}, {"cause": "consolidation"}, {"plan": {"s": "two"}}],
    ids=["failed", "consolidation", "another version's plan"],
)
def test_what_was_no_usual_start_teaches_nothing_and_is_not_looked_at_again(bench, row) -> None:
    bench.add_model()
    before = on_cpu(bench)
    for _ in range(4):
        a_start(bench, **row)
    control.reconcile_now()
    assert on_cpu(bench) == before
    with bench.here.sessions() as session:
        assert session.scalars(select(ColdStart).where(ColdStart.studied_at_ms.is_(None))).all() == []


def test_a_start_is_studied_once_its_first_token_has_been_told(bench) -> None:
    bench.add_model()
    unanswered = a_start(bench, ago_ms=10_000, answered=False)
    control.reconcile_now()
    with session_scope(bench.here.sessions) as session:
        start = session.get_one(ColdStart, unanswered)
        assert start.studied_at_ms is None
        start.first_token_at_ms = start.requested_at_ms + 1_500
    control.reconcile_now()
    control.reconcile_now()
    with bench.here.sessions() as session:
        assert [seen.real_ms for seen in session.scalars(select(StartObservation))] == [1_500]


def test_a_start_that_nobody_waited_for_tells_its_floor(bench) -> None:
    bench.add_model()
    before = on_cpu(bench).tail_ms
    for _ in range(3):
        a_start(bench, cause="warm", answered=False, ago_ms=learning.SETTLED_MS + 10_000)
    control.reconcile_now()
    assert (on_cpu(bench).runtime_floor_ms, on_cpu(bench).tail_ms) == (1_000, before)


def test_a_model_without_starts_of_its_own_is_predicted_by_the_others_unless_a_person_has_said_more(bench) -> None:
    bench.add_model()
    bench.add_model("new")
    bench.add_model("known")
    bench.change_model("known", profile={"runtime_floor_ms": 7_000})
    for _ in range(3):
        a_start(bench)
    control.reconcile_now()
    assert (on_cpu(bench, "new").runtime_floor_ms, on_cpu(bench, "new").tail_ms) == (1_000, TAIL_MS)
    assert (on_cpu(bench, "known").runtime_floor_ms, on_cpu(bench, "known").tail_ms) == (7_000, TAIL_MS)


def test_a_model_whose_pipelines_were_all_alike_goes_by_what_a_stage_adds_to_others(bench) -> None:
    bench.add_model()
    bench.add_model("others")
    for stages, floor_ms in ((1, 1_000), (3, 1_400), (2, 1_200), (1, 1_000)):
        a_start(bench, "others", stages=stages, floor_ms=floor_ms)
    for _ in range(3):
        a_start(bench, stages=3, floor_ms=2_400)
    control.reconcile_now()
    assert (on_cpu(bench).runtime_floor_ms, on_cpu(bench).per_stage_floor_ms) == (2_000, 200)


def test_a_controller_that_has_read_a_model_before_notices_what_was_learnt_since(bench) -> None:
    bench.add_model()
    with bench.here.sessions() as session:
        learnt = bench.here.facts.learnt(session)
        assert bench.here.facts.of_model(session.scalars(select(Model)).one(), learnt).spec.profiles == ()
    for _ in range(3):
        a_start(bench)
    control.reconcile_now()
    with bench.here.sessions() as session:
        learnt = bench.here.facts.learnt(session)
        spec = bench.here.facts.of_model(session.scalars(select(Model)).one(), learnt).spec
    assert spec.on("cpu").profile.runtime_floor_ms == 1_000


def test_more_starts_than_one_look_takes_are_studied_in_the_next_ones(bench, monkeypatch) -> None:
    monkeypatch.setattr(learning, "AT_ONCE", 2)
    bench.add_model()
    for _ in range(3):
        a_start(bench)
    control.reconcile_now()
    control.reconcile_now()
    with bench.here.sessions() as session:
        assert len(session.scalars(select(StartObservation)).all()) == 3


def test_a_link_that_is_slower_than_its_node_says_is_planned_with_as_it_is(bench) -> None:
    bench.add_model()
    told = link_bps(bench)
    for _ in range(3):
        a_start(bench, fetched_bytes=told // 2, fetch_ms=1_000, floor_ms=1_000)
    assert link_bps(bench) == told
    control.reconcile_now()
    assert link_bps(bench) == told // 2
    bench.nodes["n0"].touch()
    bench.report()
    assert link_bps(bench) == told // 2, "a report that says the same changes nothing"
    with session_scope(bench.here.sessions) as session:
        session.get_one(Node, "n0").link_bps += 1
    bench.nodes["n0"].touch()
    bench.report()
    assert link_bps(bench) == told, "another link, another measure"


def link_bps(bench):
    """Of n0, as the planner has it."""
    return next(node.link_bps for node in bench.load_state().nodes if node.name == "n0")
