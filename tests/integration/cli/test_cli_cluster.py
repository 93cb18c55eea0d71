"""Nodes, plans, status and cold starts, from what SQL says of a cluster."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select
from support.safetensors_writer import write_model

from orchestrator.explain import why_text
from orchestrator.types import NoPlan, NoPlanReason, Plan
from orchestrator.why import Why, WhyCode
from registry.ids import now_ms
from registry.models import Calibration, ColdStart, ColdStartEvent, Group, Model, ModelUse, Node, Stage
from registry.ops.models import resolve_name
from registry.ops.nodes import upsert_from_report

PROFILE = {"tpot_ms": 10, "prefill_ms": 10, "runtime_floor_ms": 0, "tail_ms": 0, "per_stage_floor_ms": 0, "hop_ms": 1}


@pytest.fixture
def cluster(hydrant, report, tmp_path: Path):
    """Two nodes with slow links, and a model that needs both of them to meet its service level."""
    source = write_model(tmp_path / "tiny", layers=8, tied=True)
    hydrant.run("model", "register", "tiny", str(source), "--input-price", "1", "--output-price", "1")
    with hydrant.sql() as session:
        for name in ("node-a", "node-b"):
            upsert_from_report(session, report(name), now_ms())
        row = resolve_name(session, "tiny")
        row.profile = PROFILE
        weights = row.weight_bytes
    # One link alone takes 1000 ms for the whole model; the service level allows three quarters of that.
    with hydrant.sql() as session:
        for name in ("node-a", "node-b"):
            upsert_from_report(session, {**report(name), "link_bps": weights, "seq": 2}, now_ms())
    hydrant.run("model", "update", "tiny", "--slo-ttft-ms", "800", "--kv-reserve", "0.5")
    return hydrant


def test_nodes_are_listed_cordoned_and_drained(cluster) -> None:
    nodes = cluster.json("node", "list")["nodes"]
    assert [(n["name"], n["state"], n["warm"]) for n in nodes] == [
        ("node-a", "ready", True),
        ("node-b", "ready", True),
    ]
    assert nodes[0]["devices"][0]["free_bytes"] == 8_000_000_000
    woken = len(cluster.woken())
    assert cluster.json("node", "cordon", "node-a")["node"]["state"] == "cordoned"
    assert cluster.json("node", "drain", "node-a")["node"]["state"] == "draining"
    assert cluster.json("node", "uncordon", "node-a")["node"]["state"] == "ready"
    assert len(cluster.woken()) == woken + 3
    assert "8.00 GB" in cluster.run("node", "show", "node-b").stdout
    assert "noded first reports" in cluster.run("node", "show", "node-z", expect=1).stderr
    assert "error" in cluster.json("node", "drain", "node-z", expect=1)


def test_a_node_that_fell_silent_is_lost_and_not_planned_on(cluster, report) -> None:
    with cluster.sql() as session:
        upsert_from_report(session, {**report("node-b"), "seq": 9}, now_ms() - 60_000)
    assert [n["state"] for n in cluster.json("node", "list")["nodes"]] == ["ready", "lost"]
    planned = cluster.json("plan", "tiny")
    assert any("node-b" in note for note in planned["notes"])
    assert {stage["node"] for stage in planned["plan"]["stages"]} == {"node-a"}


def test_the_plan_needs_both_links_and_each_what_if_changes_one_thing(cluster) -> None:
    planned = cluster.json("plan", "tiny", "--explain")["plan"]
    assert (planned["s"], planned["degraded"]) == (2, False)
    assert [c["s"] for c in planned["candidates"]] == [1, 2]
    assert Plan.from_json(planned).s == 2

    faster = cluster.json("plan", "tiny", "--link-gbps", "1")
    assert faster["plan"]["s"] == 1
    assert faster["what_if"] == {"link_bps": 125_000_000, "slo_ttft_ms": None, "free_bytes": None}
    assert cluster.json("plan", "tiny", "--slo-ms", "5000")["plan"]["s"] == 1
    refused = cluster.json("plan", "tiny", "--free-gb", "0.0001", expect=1)
    assert refused["plan"] is None
    assert refused["refusal"]["reason"] == "no_memory"
    assert cluster.json("plan", "tiny")["plan"]["s"] == 2, "a what-if changes nothing"


def test_a_plan_in_words(cluster) -> None:
    short = cluster.run("plan", "tiny").stdout
    assert short.startswith("tiny: s=2 w=1 on node-a/0, node-b/0")
    assert len(short.splitlines()) == 1
    long = cluster.run("plan", "tiny", "--explain", "--slo-ms", "1").stdout
    assert "what if: the first token had to come within 0.00 s" in long
    assert "first token too late" in long
    assert "were not judged" in cluster.run("plan", "tiny", "--explain").stdout
    assert "no plan" in cluster.run("plan", "tiny", "--free-gb", "0.0001", expect=1).stdout
    cluster.run("model", "disable", "tiny")
    assert "hydrant model enable tiny" in cluster.run("plan", "tiny").stdout


def test_a_plan_counts_how_long_the_oldest_request_has_waited(cluster) -> None:
    at_ms = now_ms()
    activity = {"at_ms": at_ms, "waiting": 1, "oldest_at_ms": at_ms - 700, "running": 0, "last_request_at_ms": at_ms}
    with cluster.redis.client() as client:
        client.sadd("hyd:activity:models", "tiny")
        client.hset("hyd:activity:tiny", "gw_1", json.dumps(activity))
    assert "waited" in "\n".join(cluster.json("plan", "tiny")["explanation"])


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["plan", "nope"], 1),
        (["plan", "tiny", "--link-gbps", "0"], 2),
        (["plan", "tiny", "--link-gbps", "fast"], 2),
        (["plan", "tiny", "--slo-ms", "0"], 2),
        (["plan", "tiny", "--free-gb", "-1"], 2),
        (["plan", "tiny", "--instances", "0"], 2),
        (["coldstart", "show", "tiny"], 1),
        (["coldstart", "show", "cst_nope"], 1),
        (["coldstart", "list", "--model", "nope"], 1),
    ],
)
def test_bad_input(cluster, words: list[str], status: int) -> None:
    assert "Traceback" not in cluster.run(*words, expect=status).output
    assert cluster.json(*words, expect=status)["error"]["message"]


def test_without_redis_a_plan_is_made_all_the_same(cluster) -> None:
    cluster.redis.kill()
    planned = cluster.json("plan", "tiny")
    assert planned["plan"]["s"] == 2
    assert "Redis" in planned["warnings"][0]


OUT_OF_MEMORY = Why(WhyCode.STAGE_FAILED, {"rank": 1, "node": "node-b", "error": "out of memory"})


def start(session, *, at_ms: int, failed: Why | None = None) -> str:
    """A cold start on two nodes with its events, as the controller would have left it."""
    model = session.query(Model).filter_by(name="tiny").one()
    cold = ColdStart(
        id=f"cst_{at_ms}",
        model_id=model.id,
        cause="demand",
        plan={"stages": [{}, {}]},
        predicted_ttft_ms=700,
        requested_at_ms=at_ms,
        ready_at_ms=None if failed else at_ms + 900,
        first_token_at_ms=None if failed else at_ms + 1000,
        failed_at_ms=at_ms + 500 if failed else None,
        reason=why_text(failed) if failed else None,
        why=failed.to_json() if failed else None,
    )
    group = Group(
        id=f"grp_{at_ms}",
        model_id=model.id,
        cold_start_id=cold.id,
        state="failed" if failed else "pipeline",
        plan=_plan_of(model),
        api_key="group-secret",
        created_at_ms=at_ms,
        deadline_ms=at_ms + 10_000,
    )
    session.add_all([cold, group])
    session.flush()
    for rank, node in enumerate(("node-a", "node-b")):
        stage = Stage(
            id=f"stg_{at_ms}_{rank}",
            group_id=group.id,
            rank=rank,
            node_name=node,
            device_idx=0,
            first_layer=4 * rank,
            layer_count=4,
            full=rank == 0,
            reserved_bytes=1_000_000_000,
            port=31000 + rank,
            state="failed" if failed else "ready",
        )
        session.add(stage)
        session.flush()
        marks = {"queued": 1, "prefetch_start": 20, "fork": 20, "runtime": 300, "prefetch_end": 600, "load_start": 200}
        if not failed:
            marks |= {"load_end": 700, "up": 850, "ready": 850, "stopped": 9_000_000}
        for kind, offset in marks.items():
            session.add(ColdStartEvent(cold_start_id=cold.id, stage_id=stage.id, kind=kind, at_ms=at_ms + offset))
    session.add(ColdStartEvent(cold_start_id=cold.id, kind="planned", at_ms=at_ms))
    return cold.id


def _plan_of(model: Model) -> dict:
    return Plan(
        model=model.name,
        s=2,
        w=1,
        stages=(),
        predicted_ttft_ms=700,
        predicted_tpot_ms=None,
        degraded=False,
        consolidate=None,
        candidates=(),
        reasons=(),
    ).to_json()


def test_a_cold_start_is_listed_and_drawn_from_sql(cluster) -> None:
    with cluster.sql() as session:
        start(session, at_ms=1_000_000, failed=OUT_OF_MEMORY)
        latest = start(session, at_ms=2_000_000)
    listed = cluster.json("coldstart", "list", "--model", "tiny")["cold_starts"]
    assert [(c["state"], c["ready_after_ms"], c["first_token_after_ms"]) for c in listed] == [
        ("ready", 900, 1000),
        ("failed", None, None),
    ]
    assert "cst_2000000" in cluster.run("coldstart", "list").stdout

    shown = cluster.json("coldstart", "show", "tiny")
    assert shown["cold_start"]["cold_start_id"] == latest
    bars = {(b["label"], b["step"]): (b["start_ms"], b["end_ms"]) for b in shown["waterfall"]}
    assert bars["rank 0 on node-a", "prefetch"] == (20, 600)
    assert bars["rank 1 on node-b", "load"] == (200, 700)
    drawn = cluster.run("coldstart", "show", "tiny", "--width", "100").stdout.splitlines()
    rows = [line for line in drawn if line.startswith("rank ")]
    assert ["|" in line for line in rows] == [False, False, True, True], "a table and a drawing, a line a stage in each"
    assert max(len(line) for line in drawn[-10:]) <= 100
    assert any("= prefetch" in line for line in drawn)

    failed = cluster.run("coldstart", "show", "cst_1000000").stdout
    assert "out of memory" in failed
    assert "not ended" not in failed
    document = cluster.json("coldstart", "show", "cst_1000000")["cold_start"]
    assert (document["reason"], Why.from_json(document["why"])) == ("stage 1 on node-b: out of memory", OUT_OF_MEMORY)
    assert shown["cold_start"]["why"] is None


def test_status_shows_everything_and_no_secret(cluster) -> None:
    with cluster.redis.client() as client:
        client.hset("hyd:gateways", "gw_1", json.dumps({"at_ms": now_ms(), "routes_version": 1}))
        client.hset("hyd:gateways", "gw_dead", json.dumps({"at_ms": 1, "routes_version": 1}))
    with cluster.sql() as session:
        start(session, at_ms=2_000_000)
    cluster.run("tenant", "create", "acme")
    cluster.run("tenant", "top-up", "acme", "7")
    document = cluster.json("status")
    assert document["reachable"] == {"database": "ok", "redis": "ok"}
    assert document["gateways"] == ["gw_1"]
    assert [(g["model"], g["state"], g["nodes"]) for g in document["groups"]] == [
        ("tiny", "pipeline", ["node-a", "node-b"])
    ]
    assert document["nodes"][0]["devices"][0]["free_bytes"] == 7_000_000_000
    assert document["nodes"][0]["stages"] == 1
    assert document["tenants"][0]["balance_usd"] == "7.00"
    memory = sum(device["memory_bytes"] for node in document["nodes"] for device in node["devices"])
    assert document["idle_memory"] == {"percent": 30, "budget_bytes": memory * 30 // 100, "held_bytes": 0}
    text = cluster.run("status").stdout
    for expected in ("node-a", "tiny", "pipeline", "acme", "7.00", "idle workers hold 0"):
        assert expected in text
    (stage,) = cluster.json("node", "show", "node-a")["node"]["running"]
    assert (stage["model"], stage["rank"], stage["layers"], stage["state"]) == ("tiny", 0, "0-3", "ready")
    cluster.run("model", "show", "tiny")
    assert all("group-secret" not in printed for printed in cluster.printed)


def test_a_group_that_drains_is_shown_with_why(cluster) -> None:
    why = Why(WhyCode.MAKES_ROOM, {"model": "other"})
    with cluster.sql() as session:
        start(session, at_ms=2_000_000)
        group = session.get_one(Group, "grp_2000000")
        group.state, group.why, group.reason = "draining", why.to_json(), why_text(why)
    for groups in (cluster.json("status")["groups"], cluster.json("model", "show", "tiny")["model"]["groups"]):
        (shown,) = groups
        assert (shown["state"], shown["reason"]) == ("draining", "makes room for other")
        assert Why.from_json(shown["why"]) == why


def test_the_keep_alive_in_force_is_shown_with_why(cluster) -> None:
    def shown() -> str:
        (line,) = (one for one in cluster.run("model", "show", "tiny").stdout.splitlines() if "keep-alive" in one)
        return line.removeprefix("keep-alive").strip()

    assert shown() == "300 s, as set: there is no pause to learn from yet"
    with cluster.sql() as session:
        start(session, at_ms=2_000_000)
        model_id = resolve_name(session, "tiny").id
        session.add(ModelUse(model_id=model_id, busy_until_ms=1, pauses_ms=[86_400_000] * 3))
        for stage in session.scalars(select(Stage)):
            stage.reserved_bytes = 1
    learned = "% of all device memory is reserved), learned from 3 pauses (set: 300 s)"
    assert shown() == f"75 s (1 s once more than 30 {learned}"
    with cluster.sql() as session:
        for stage in session.scalars(select(Stage)):
            stage.reserved_bytes = 8 * 10**9
    assert shown() == f"1 s (75 s while at most 30 {learned}"
    cluster.run("model", "update", "tiny", "--keep-alive-mode", "fixed")
    assert shown() == "300 s, fixed"


def test_weights_that_are_held_are_not_fetched_and_a_model_that_runs_is_deleted_with_stop_only(cluster) -> None:
    with cluster.sql() as session:
        start(session, at_ms=2_000_000)
        for stage in session.get_one(Group, "grp_2000000").stages:
            stage.bytes_fetched = stage.bytes_to_fetch = 0
    assert "from memory" in cluster.run("status").stdout
    assert "add --stop" in cluster.run("model", "delete", "tiny", "--yes", expect=1).stderr
    cluster.run("model", "delete", "tiny", "--yes", "--stop")


def test_status_says_what_does_not_answer(hydrant) -> None:
    hydrant.redis.kill()
    document = hydrant.json("status", expect=1)
    assert document["reachable"]["database"] == "ok"
    assert "does not answer" in document["reachable"]["redis"]
    (hydrant.home / "hydrant.db").unlink()
    text = hydrant.run("status", expect=1).stdout
    assert "hydrant db upgrade" in text
    assert "run: hydrant up (" in text
    assert "run: hydrant up (" in hydrant.run("plan", "tiny", expect=1).stderr


def test_a_start_that_could_not_be_planned_is_listed_with_its_reason(cluster) -> None:
    refusal = NoPlan("tiny", NoPlanReason.NO_NODES, {"cordoned": 2}, (), None)
    with cluster.sql() as session:
        session.add(
            ColdStart(
                id="cst_refused",
                model_id=resolve_name(session, "tiny").id,
                cause="demand",
                plan=refusal.to_json(),
                requested_at_ms=1_000_000,
                failed_at_ms=1_000_000,
                reason="No node can take anything (2 cordoned).",
            )
        )
    (listed,) = cluster.json("coldstart", "list")["cold_starts"]
    assert (listed["state"], listed["stages"], listed["predicted_ttft_ms"]) == ("failed", 0, None)
    assert "cst_refused" in cluster.run("coldstart", "list").stdout
    shown = cluster.run("coldstart", "show", "tiny").stdout
    assert "No node can take anything (2 cordoned)." in shown


def test_what_starts_have_taught_is_listed(cluster) -> None:
    assert "nothing yet" in cluster.run("coldstart", "learnt").stdout
    with cluster.sql() as session:
        model_id = resolve_name(session, "tiny").id
        fields = {"runtime_floor_ms": 1_310, "per_stage_floor_ms": 240}
        for owner in (model_id, ""):
            session.add(
                Calibration(
                    kind="cpu", model_id=owner, profile=fields, starts=5, error_permille=83, updated_at_ms=now_ms()
                )
            )
    listed = cluster.json("coldstart", "learnt")["learnt"]
    assert [(row["model"], row["fields"]) for row in listed] == [(None, fields), ("tiny", fields)]
    assert [row["model"] for row in cluster.json("coldstart", "learnt", "--model", "tiny")["learnt"]] == ["tiny"]
    shown = cluster.run("coldstart", "learnt").stdout
    assert "1.31 s" in shown
    assert "8.3 %" in shown


def test_a_link_slower_than_its_node_says_is_shown_and_planned_with(cluster) -> None:
    before = cluster.json("plan", "tiny")["plan"]["predicted_ttft_ms"]
    with cluster.sql() as session:
        for name in ("node-a", "node-b"):
            node = session.get_one(Node, name)
            node.fetch_bps = [node.link_bps // 2] * 3
    assert "fetches have had" in cluster.run("node", "show", "node-a").stdout
    assert cluster.json("plan", "tiny")["plan"]["predicted_ttft_ms"] > before
