"""noded as a process, with a small stand-in for SGLang: effects, versions, ends, restarts, sweeps."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.engine_node import EngineNode
from support.manifest import API_KEY, prefetch_effect, stop_effect
from support.stand_in_node import TENSORS, drop_told_key, launch, pipeline, prefetch

from engine.client import BadEffect, NodedClient, NodedUnavailable, StaleVersion
from engine.noded import inventory, processes

# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("launch_first", [False, True], ids=["prefetch-first", "launch-first"])
def test_a_stage_becomes_ready_in_either_order(node: EngineNode, model: Path, launch_first: bool) -> None:
    effects = [prefetch(model, "stg"), launch("stg")]
    node.apply(*(reversed(effects) if launch_first else effects))
    stage = node.wait_state("stg", "ready")
    assert stage["verified"]
    assert stage["bytes_total"] == stage["bytes_fetched"] == stage["bytes_to_fetch"] > 0
    order = ["queued", "fork", "runtime", "load_start", "load_end", "up", "ready"]
    times = [stage["marks"][name] for name in order]
    assert times == sorted(times)
    assert stage["url"] == f"http://127.0.0.1:{stage['port']}"
    assert len(stage["pids"]) == 1


def test_without_weights_a_launched_stage_waits_and_without_launch_it_only_fetches(
    node: EngineNode, model: Path
) -> None:
    node.apply(prefetch(model, "stg_a", "grp_a"), launch("stg_b", "grp_b"))
    node.wait(lambda: node.stage("stg_a")["verified"], "the fetch")
    node.wait(lambda: "runtime" in node.stage("stg_b")["marks"], "the runtime")
    assert node.stage("stg_a")["state"] == "fetching"
    assert node.stage("stg_b")["state"] == "starting"
    node.apply(launch("stg_a", "grp_a"), prefetch(model, "stg_b", "grp_b"))
    node.wait_state("stg_a", "ready")
    node.wait_state("stg_b", "ready")


def test_the_same_effects_again_change_nothing(node: EngineNode, model: Path) -> None:
    effects = [prefetch(model, "stg"), launch("stg")]
    node.apply(*effects)
    before = node.wait_probed("stg")
    node.apply(*effects, *effects)
    assert node.stage("stg") == before
    stop = stop_effect("grp", version=2)
    node.apply(stop, stop)
    node.wait_state("stg", "gone")
    node.apply(stop)
    assert node.stage("stg")["state"] == "gone"


def test_a_second_stage_fetches_only_what_the_node_lacks(node: EngineNode, model: Path) -> None:
    node.apply(prefetch_effect(model, "grp_a", "stg_a", 0, [1, 1]))
    node.wait(lambda: node.stage("stg_a")["verified"], "the first stage")
    node.apply(prefetch(model, "stg_b", "grp_b"))
    node.wait(lambda: node.stage("stg_b")["verified"], "the whole model")
    whole = node.stage("stg_b")
    assert (
        whole["bytes_to_fetch"] == whole["bytes_fetched"] == whole["bytes_total"] - node.stage("stg_a")["bytes_total"]
    )
    assert len(node.client.report()["store"]["digests"]) == TENSORS


# --- versions and bad input -------------------------------------------------------------------------------------------


def test_an_older_version_is_refused_also_after_a_restart(node: EngineNode, model: Path) -> None:
    node.apply(stop_effect("grp", version=7))
    node.kill_noded(signal.SIGKILL)
    node.start_noded()
    for effect in (prefetch(model, "stg", version=6), launch("stg", version=6), stop_effect("grp", version=6)):
        with pytest.raises(StaleVersion, match="version 7"):
            node.apply(effect)
    with pytest.raises(StaleVersion, match="was stopped at version 7"):
        node.apply(launch("stg", version=7))
    node.apply(prefetch(model, "stg", version=8))
    assert node.stage("stg")["version"] == 8


def test_a_stop_that_overtakes_its_launch_wins(node: EngineNode, model: Path) -> None:
    node.apply(stop_effect("grp", version=1, stage="stg"))
    node.apply(prefetch(model, "stg"), launch("stg"))
    assert node.wait_state("stg", "gone")["pids"] == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "explode"}, "kind"),
        ({"v": 2}, "version 1"),
        ({"stage_id": "../../etc"}, "stage_id"),
        ({"device": 5}, "this node has 1"),
        ({"port": 80}, "port"),
        ({"port": True}, "port"),
        ({"world": 2}, "layers"),
        ({"rank": 1}, "rank"),
        ({"api_key": "short"}, "api_key"),
        ({"model_name": "--host=0.0.0.0"}, "model_name"),
        ({"settings": {"dtype": "int3"}}, "settings.dtype"),
        ({"settings": {"trust_remote_code": True}}, "settings.trust_remote_code"),
        ({"settings": {"tool_parser": "a b; rm"}}, "settings.tool_parser"),
        ({"settings": []}, "settings"),
    ],
)
def test_a_bad_launch_is_refused_with_the_field(idle_node: EngineNode, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadEffect, match=complaint):
        idle_node.apply({**launch("stg"), **change})
    assert idle_node.client.report()["stages"] == []


def test_noded_refuses_what_is_not_an_effect(idle_node: EngineNode) -> None:
    for body in (b"{", b"[]", b"null", b'"x"', b"\xff"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(idle_node.config.api_socket))
            head = f"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 422"), answer
        assert b'"bad_effect"' in answer
    with pytest.raises(BadEffect, match="tensors"):
        idle_node.apply({**prefetch_effect_without_tensors(), "tensors": []})


def prefetch_effect_without_tensors() -> dict[str, Any]:
    """A prefetch effect with nothing to fetch."""
    common = {"v": 1, "kind": "prefetch", "group_id": "grp", "version": 1, "stage_id": "stg"}
    return {**common, "source": "file:///nowhere", "tensors": [], "files": [], "config_overrides": {}, "rate_bps": None}


def test_a_stage_belongs_to_one_group(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg", "grp_a"))
    with pytest.raises(BadEffect, match="belongs to group grp_a"):
        node.apply(launch("stg", "grp_b"))


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_stage_that_dies_while_starting_fails_with_its_reason(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="dies"))
    stage = node.wait_state("stg", "failed")
    assert "while starting" in stage["reason"]
    assert "no luck with key ***" in stage["reason"]
    assert API_KEY not in json.dumps(stage)
    assert not (node.config.stages_dir / "stg").exists()
    drop_told_key(node, "stg")


def test_missing_weights_fail_the_stage_and_end_its_process(node: EngineNode, model: Path) -> None:
    effect = prefetch(model, "stg")
    effect["source"] = f"file://{model}/elsewhere"
    node.apply(launch("stg"))
    node.wait(lambda: node.stage("stg")["pids"], "its process")
    node.apply(effect)
    stage = node.wait_state("stg", "failed")
    assert stage["reason"].startswith("weights:")
    assert processes.under(node.config.stages_dir) == {}


def test_corrupt_weights_are_never_ready(node: EngineNode, model: Path) -> None:
    effect = prefetch(model, "stg")
    effect["tensors"][1]["sha256"] = "0" * 64
    node.apply(effect, launch("stg"))
    assert "weights:" in node.wait_state("stg", "failed")["reason"]


def test_an_engine_that_cannot_be_run_says_how_to_mend_it(node: EngineNode, model: Path) -> None:
    (node.home / "python").unlink()
    node.apply(prefetch(model, "stg"), launch("stg"))
    assert "engine_python" in node.wait_state("stg", "failed")["reason"]


def test_a_killed_engine_fails_and_its_children_go(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="children"))
    node.wait_state("stg", "ready")
    node.wait(lambda: len(processes.in_directory(node.config.stages_dir / "stg")) == 3, "its children")
    first = processes.leader(processes.in_directory(node.config.stages_dir / "stg"))
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    stage = node.wait_state("stg", "failed")
    assert "while serving" in stage["reason"]
    assert processes.under(node.config.stages_dir) == {}
    assert list(node.config.temp_dir.iterdir()) == []


def test_one_dead_rank_ends_its_pipeline_and_no_other(node: EngineNode, model: Path) -> None:
    node.apply(*pipeline(model, "grp_a"), *pipeline(model, "grp_b"))
    for stage in ("grp_a_0", "grp_a_1", "grp_b_0", "grp_b_1"):
        node.wait_state(stage, "ready")
    os.kill(node.stage("grp_a_1")["pids"][0], signal.SIGKILL)
    node.wait_state("grp_a_1", "failed")
    assert "another stage of its pipeline" in node.wait_state("grp_a_0", "failed")["reason"]
    assert [node.stage(f"grp_b_{rank}")["state"] for rank in range(2)] == ["ready", "ready"]


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_frees_everything_but_the_weights(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg"))
    pids = node.wait_state("stg", "ready")["pids"]
    node.apply(stop_effect("grp"))
    stage = node.wait_state("stg", "gone")
    assert (stage["reason"], stage["pids"]) == (None, [])
    assert "stopped" in stage["marks"]
    assert processes.identify(pids[0]) is None
    assert not (node.config.stages_dir / "stg").exists()
    assert len(node.client.report()["store"]["digests"]) == TENSORS
    node.apply({"v": 1, "kind": "evict", "digests": None})
    assert node.client.report()["store"]["digests"] == []


def test_a_stubborn_engine_is_killed_after_its_grace(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="stubborn"))
    node.wait_state("stg", "ready")
    node.apply(stop_effect("grp", grace_s=0.2))
    assert node.wait_state("stg", "gone")["pids"] == []


def test_a_stop_in_mid_start_leaves_no_process(node: EngineNode, model: Path) -> None:
    for round_number in range(5):
        stage = f"stg_{round_number}"
        node.apply(launch(stage, f"grp_{round_number}"))
        time.sleep(0.03 * round_number)
        node.apply(stop_effect(f"grp_{round_number}"))
        node.wait_state(stage, "gone")
    assert processes.under(node.config.stages_dir) == {}


def test_stopping_one_stage_leaves_the_groups_others(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg_a"), launch("stg_a"), prefetch(model, "stg_b"), launch("stg_b"))
    node.wait_state("stg_a", "ready")
    node.wait_state("stg_b", "ready")
    node.apply(stop_effect("grp", stage="stg_a"))
    node.wait_state("stg_a", "gone")
    assert node.stage("stg_b")["state"] == "ready"


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_a_new_noded_adopts_what_serves(node: EngineNode, model: Path, number: signal.Signals) -> None:
    node.apply(prefetch(model, "stg"), launch("stg"))
    before = node.wait_state("stg", "ready")
    seq = node.client.report()["seq"]
    node.kill_noded(number)
    with pytest.raises(NodedUnavailable, match="is it running"):
        node.client.report()
    node.start_noded()
    after = node.wait_state("stg", "ready")
    assert (after["pids"], after["port"], after["marks"]["ready"] > 0) == (before["pids"], before["port"], True)
    assert node.client.report()["seq"] > seq
    assert node.client.counters("grp")["completion_tokens"]
    # It still watches it.
    os.kill(after["pids"][0], signal.SIGKILL)
    node.wait_state("stg", "failed")


def test_a_death_while_noded_was_away_is_reported(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg"))
    pids = node.wait_state("stg", "ready")["pids"]
    node.kill_noded()
    os.kill(pids[0], signal.SIGKILL)
    node.start_noded()
    assert "noded was away" in node.wait_state("stg", "failed")["reason"]


def test_a_new_noded_resumes_what_was_begun(node: EngineNode, model: Path) -> None:
    slow = prefetch(model, "stg", rate_bps=100)
    node.apply(slow, launch("stg"))
    node.kill_noded()
    node.start_noded()
    node.apply({"v": 1, "kind": "rate", "group_id": "grp", "version": 1, "stage_id": "stg", "rate_bps": None})
    stage = node.wait_state("stg", "ready")
    assert len(stage["pids"]) == 1


def test_a_new_noded_finishes_a_stop(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="stubborn"))
    node.wait_state("stg", "ready")
    node.apply(stop_effect("grp", grace_s=60))
    node.wait_state("stg", "stopping")
    node.kill_noded()
    node.start_noded()
    assert node.wait_state("stg", "gone")["pids"] == []


def test_a_new_noded_kills_what_it_has_no_record_of(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="children"))
    node.wait_state("stg", "ready")
    node.kill_noded()
    (node.config.stages_dir / "stg" / "record.json").unlink()
    node.start_noded()
    node.wait(lambda: processes.under(node.config.stages_dir) == {}, "the orphans' end")
    assert node.client.report()["stages"] == []


def test_a_half_written_record_costs_only_its_stage(node: EngineNode, model: Path) -> None:
    node.apply(*(effect for s in ("a", "b") for effect in (prefetch(model, s, f"g{s}"), launch(s, f"g{s}"))))
    node.wait_state("a", "ready")
    node.wait_state("b", "ready")
    node.kill_noded()
    record = node.config.stages_dir / "a" / "record.json"
    record.write_text(record.read_text()[:40])
    node.start_noded()
    assert [(stage["stage_id"], stage["state"]) for stage in node.client.report()["stages"]] == [("b", "ready")]


def test_only_one_noded_runs_for_a_node(idle_node: EngineNode) -> None:
    swept = idle_node.sweep()
    assert swept.returncode == 1
    assert "another noded runs" in swept.stderr
    assert idle_node.answers()


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_a_long_poll_returns_with_the_change(node: EngineNode, model: Path) -> None:
    seq = node.client.report()["seq"]
    reports: list[dict[str, Any]] = []
    waiter = threading.Thread(target=lambda: reports.append(node.client.events(after=seq, wait_s=30)))
    waiter.start()
    node.apply(prefetch(model, "stg"))
    waiter.join(20)
    assert reports[0]["seq"] > seq
    assert reports[0]["stages"][0]["stage_id"] == "stg"
    assert node.client.events(after=10**14, wait_s=0)["seq"] < 10**14


def test_a_ready_stage_is_probed_once_and_counters_leave_that_out(node: EngineNode, model: Path) -> None:
    with pytest.raises(BadEffect, match="no stage here"):
        node.client.counters("grp")
    node.apply(launch("stg"))
    assert node.stage("stg")["probe"] is None
    node.apply(prefetch(model, "stg"))
    stage = node.wait_probed("stg")
    assert stage["probe"]["ok"]
    assert stage["probe"]["ms"] >= 0
    # What a probe used is nobody's: the stand-in always counts ten and five, of which the probe had one each.
    left = {"prompt_tokens": 9, "cached_tokens": 0, "completion_tokens": 4}
    assert node.client.counters("grp") == left
    node.kill_noded()
    node.start_noded()
    assert node.wait_probed("stg")["probe"] == stage["probe"]
    assert node.client.counters("grp") == left, "the new noded has not asked again"
    os.kill(stage["pids"][0], signal.SIGSTOP)
    with pytest.raises(NodedUnavailable, match="does not answer"):
        node.client.counters("grp")
    os.kill(stage["pids"][0], signal.SIGCONT)


def test_a_noded_killed_before_the_token_came_is_followed_by_one_that_asks(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="slow"))
    node.wait_state("stg", "ready")
    node.kill_noded()
    node.start_noded()
    assert node.stage("stg")["probe"] is None
    (node.config.stages_dir / "stg" / "go").touch()
    assert node.wait_probed("stg")["probe"]["ok"]


def test_only_the_first_rank_is_probed(node: EngineNode, model: Path) -> None:
    node.apply(*pipeline(model, "grp"))
    assert node.wait_probed("grp_0")["probe"]["ok"]
    assert node.wait_state("grp_1", "ready")["probe"] is None


def test_an_engine_that_refuses_its_probe_is_told_and_left(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="refuses"))
    stage = node.wait_probed("stg")
    assert (stage["state"], stage["probe"]["ok"]) == ("ready", False)
    assert "answered 500" in stage["probe"]["error"]


def test_an_engine_that_dies_of_its_probe_has_failed(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="faints"))
    stage = node.wait_state("stg", "failed")
    assert "no breath" in stage["reason"]
    assert stage["probe"] is None


def test_the_report_describes_the_node(idle_node: EngineNode) -> None:
    report = idle_node.client.report()
    assert (report["v"], report["node"], report["address"], report["ports"]) == (
        1,
        "node-t",
        "127.0.0.1",
        [31000, 31099],
    )
    assert report["devices"] == [
        {"index": 0, "kind": "cpu", "name": "CPU, 1 core", "memory_bytes": 6_000_000_000, "cores": [0]}
    ]
    assert report["warm"] == {"ready": False, "pid": None, "engine": None, "memory_bytes": None}
    assert report["store"] == {"bytes": 0, "limit_bytes": 10_000_000, "digests": []}
    assert report["link_bps"] == inventory.ASSUMED_LINK_BPS, "nobody says how fast the loopback is"


def test_the_engine_is_pinned_and_keeps_its_secrets(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg"))
    pid = node.wait_state("stg", "ready")["pids"][0]
    assert os.sched_getaffinity(pid) == {0}
    assert API_KEY not in Path(f"/proc/{pid}/cmdline").read_text()
    for path in (node.config.stages_dir / "stg").rglob("*.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.config.api_socket.stat().st_mode) == 0o600


def test_a_client_without_a_noded_says_so(tmp_path: Path) -> None:
    with pytest.raises(NodedUnavailable, match="is it running"):
        NodedClient.for_node(tmp_path, "nowhere").report()
