"""What a new noded makes of the stages that a killed one left."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from support.engine_node import EngineNode, short_directory
from support.manifest import API_KEY, stop_effect
from support.stand_in_node import TENSORS, drop_told_key, launch, prefetch, running_node

from engine.noded import processes


def test_a_noded_killed_during_a_load_keeps_its_hands_off_the_weights(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="loads"))
    node.wait_state("stg", "loading")
    segments = node.config.store_dir / "segments"

    def mapped() -> bool:
        return any(path.is_relative_to(segments) for path in processes.shared_memory(node.stage("stg")["pids"]))

    node.wait(mapped, "the mapping")
    node.kill_noded()
    node.start_noded()
    node.apply(prefetch(model, "other", "grp_b"))
    node.wait(lambda: node.stage("other")["verified"], "the one who shares the bytes")
    (node.config.stages_dir / "stg" / "go").touch()
    node.wait_state("stg", "ready")
    node.apply(stop_effect("grp"))
    node.wait_state("stg", "gone")
    assert len(list(segments.glob("*.safetensors"))) == 1
    node.apply(stop_effect("grp_b"))
    node.wait_state("other", "gone")
    node.apply(prefetch(model, "third", "grp_c"), launch("third", "grp_c"))
    assert node.wait_state("third", "ready")["bytes_to_fetch"] == 0


def test_segments_that_someone_removed_are_fetched_again(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg"))
    node.wait_state("stg", "ready")
    for path in (node.config.store_dir / "segments").iterdir():
        path.unlink()
    node.apply(prefetch(model, "other", "grp_b"), launch("other", "grp_b"))
    assert node.wait_state("other", "ready")["bytes_to_fetch"] > 0
    for group, stage in (("grp", "stg"), ("grp_b", "other")):
        node.apply(stop_effect(group))
        node.wait_state(stage, "gone")
    assert len(node.client.report()["store"]["digests"]) == TENSORS


def test_processes_are_known_below_a_home_that_is_a_symbolic_link(model: Path) -> None:
    with short_directory() as real, short_directory() as elsewhere:
        home = elsewhere / "link"
        home.symlink_to(real)
        with running_node(home) as node:
            node.apply(prefetch(model, "stg"), launch("stg", name="children"))
            node.wait_state("stg", "ready")
            node.wait(lambda: len(processes.in_directory(node.config.stages_dir / "stg")) == 3, "its children")
            node.kill_noded()
            node.start_noded()
            assert len(node.wait_state("stg", "ready")["pids"]) == 3
            (node.config.stages_dir / "stg" / "record.json").unlink()
            node.kill_noded()
            node.start_noded()
            node.wait(lambda: processes.under(real) == {}, "the orphans' end")


def test_an_adopted_engine_serves_on_when_its_source_and_its_bytes_are_gone(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg"))
    before = node.wait_state("stg", "ready")
    node.kill_noded()
    shutil.rmtree(model)
    for path in (node.config.store_dir / "segments").iterdir():
        path.unlink()
    node.start_noded()
    after = node.wait_state("stg", "ready")
    assert (after["pids"], after["verified"], after["marks"]) == (before["pids"], True, before["marks"])
    node.kill_noded()
    node.start_noded()
    assert node.wait_state("stg", "ready")["verified"]
    assert node.client.counters("grp")["completion_tokens"]


def test_a_held_model_starts_cold_while_its_source_is_gone(node: EngineNode, model: Path) -> None:
    effects = [prefetch(model, "other", "grp_b"), launch("other", "grp_b")]
    node.apply(prefetch(model, "stg"))
    node.wait(lambda: node.stage("stg")["verified"], "the fetch")
    node.apply(stop_effect("grp"))
    node.wait_state("stg", "gone")
    shutil.rmtree(model)
    node.apply(*effects)
    assert node.wait_state("other", "ready")["bytes_to_fetch"] == 0


def test_how_a_stage_ended_is_told_after_a_restart_and_it_is_not_started_again(node: EngineNode, model: Path) -> None:
    effects = [prefetch(model, "stg"), launch("stg", name="dies")]
    node.apply(*effects, prefetch(model, "other", "grp_b"))
    before = node.wait_state("stg", "failed")
    node.apply(stop_effect("grp_b"))
    gone = node.wait_state("other", "gone")
    node.kill_noded()
    node.start_noded()
    assert [node.stage("stg"), node.stage("other")] == [before, gone]
    node.apply(*effects)
    assert node.stage("stg") == before
    assert API_KEY not in "".join(path.read_text() for path in (node.config.run_dir / "ended").iterdir())
    drop_told_key(node, "stg")


def test_a_failure_keeps_its_reason_when_noded_dies_of_it(node: EngineNode, model: Path) -> None:
    node.kill_noded()
    node.environ["HYDRANT_FAILPOINT"] = "noded.stopping"
    node.start_noded()
    node.apply(prefetch(model, "stg"), launch("stg", name="dies"))
    assert node.noded is not None
    assert node.noded.wait(30) == -signal.SIGKILL
    del node.environ["HYDRANT_FAILPOINT"]
    node.start_noded()
    assert "no luck" in node.wait_state("stg", "failed")["reason"]
    drop_told_key(node, "stg")


def test_a_rate_outlives_noded(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"))
    node.wait(lambda: node.stage("stg")["verified"], "the fetch")
    node.apply({"v": 1, "kind": "rate", "group_id": "grp", "version": 1, "stage_id": "stg", "rate_bps": 12345})
    saved = json.loads((node.config.stages_dir / "stg" / "prefetch.json").read_text())
    assert saved["rate_bps"] == 12345
    node.apply(prefetch(model, "stg", rate_bps=777))
    saved = json.loads((node.config.stages_dir / "stg" / "prefetch.json").read_text())
    assert saved["rate_bps"] == 777
