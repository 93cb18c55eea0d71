"""What noded remembers, and what it makes of an engine's log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.noded import record, stage_files
from engine.noded.log_tail import MAX_REASON, reason_from
from engine.noded.processes import Identity
from engine.noded.record import MAX_GROUPS, GroupVersions, StageRecord, StaleEffect, read_json, write_json
from engine.private_directory import make_private


def test_a_record_survives(tmp_path: Path) -> None:
    kept = StageRecord(
        "stg", "grp", 3, {"kind": "launch"}, Identity(12, 3456, "boot"), True, "failed", "why", {"fork": 7}
    )
    kept.save(tmp_path / "stg")
    assert StageRecord.load(tmp_path / "stg") == kept


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage_id": "x"}', '{"leader": [1], "stage_id": 1}'])
def test_a_damaged_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    assert StageRecord.load(tmp_path) is None
    assert StageRecord.load(tmp_path / "nowhere") is None


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_versions_only_rise(tmp_path: Path) -> None:
    versions = GroupVersions(tmp_path / "groups.json")
    versions.admit("g", 2, starts=True)
    versions.admit("g", 2, starts=True)
    with pytest.raises(StaleEffect, match="at version 2; this effect is of 1"):
        versions.admit("g", 1, starts=False)
    versions.admit("g", 3, starts=False)
    versions.stopped("g", 3)
    again = GroupVersions(tmp_path / "groups.json")
    again.admit("g", 3, starts=False)
    with pytest.raises(StaleEffect, match="was stopped at version 3"):
        again.admit("g", 3, starts=True)
    again.admit("g", 4, starts=True)
    again.admit("other", 0, starts=True)


def test_old_groups_are_forgotten(tmp_path: Path) -> None:
    versions = GroupVersions(tmp_path / "groups.json")
    write_json(tmp_path / "groups.json", {f"g{n}": {"version": 5, "stopped": -1} for n in range(MAX_GROUPS)})
    versions = GroupVersions(tmp_path / "groups.json")
    versions.admit("new", 1, starts=True)
    versions.admit("g0", 1, starts=True)
    with pytest.raises(StaleEffect):
        versions.admit("g5", 1, starts=True)


def test_a_version_that_could_not_be_written_is_written_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = GroupVersions(tmp_path / "groups.json")
    with monkeypatch.context() as patch:
        patch.setattr(record, "write_json", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            versions.admit("g", 2, starts=True)
    versions.admit("g", 2, starts=True)
    with pytest.raises(StaleEffect):
        GroupVersions(tmp_path / "groups.json").admit("g", 1, starts=True)


def test_a_long_log_is_cut_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_files, "LOG_MOST", 1000)
    monkeypatch.setattr(stage_files, "LOG_KEPT", 100)
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 1000)
        stage_files.bound_log(log)
        assert log.stat().st_size == 1000
        writer.write(b"the end")
        stage_files.bound_log(log)
        writer.write(b", and on")
    assert log.read_bytes().endswith(b"xxthe end, and on")
    assert log.stat().st_size < 200
    stage_files.bound_log(tmp_path / "none")


def test_a_directory_of_our_own_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    make_private(tmp_path / "open")
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(PermissionError, match="symbolic link"):
        make_private(tmp_path / "link")


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid()
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match="another user"):
        make_private(tmp_path / "theirs")


CRASH = """\
[2026-01-01 00:00:00] Load weight begin.
[2026-01-01 00:00:01 PP0] Scheduler hit an exception: Traceback (most recent call last):
  File "scheduler.py", line 1, in run
ValueError: context length 9 is too long for key sekrit-sekrit
[2026-01-01 00:00:01] Received sigquit from a child process. It usually means the child failed.
RuntimeError: Rank 0 scheduler died during initialization (exit code: -3).
nanobind: leaked 3 instances!
"""


def test_the_first_exception_is_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(CRASH)
    assert reason_from(log, ("sekrit-sekrit",)) == "ValueError: context length 9 is too long for key ***"


def test_a_death_without_a_word_is_called_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert reason_from(log) == "it left no log"
    log.write_text("\n\n")
    assert "empty log" in reason_from(log)
    log.write_text("serving well\n")
    assert "probably killed" in reason_from(log)
    log.write_bytes(b"\xff" * 200_000 + b"\nValueError: " + b"x" * 5000)
    assert len(reason_from(log)) == MAX_REASON
