"""What noded remembers on disk, so that a killed one can be replaced: a file for each stage, and the groups' versions.

Every file is replaced by a rename, so a reader finds the old content or the new. They hold workers' keys: mode 0600.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from engine.noded.effects import Launch
from engine.noded.processes import Identity

log = structlog.get_logger(__name__)

MAX_GROUPS = 2000
"""Group versions kept; beyond, the longest untouched are forgotten."""

RECORD_FILE = "record.json"
PREFETCH_FILE = "prefetch.json"


class StaleEffect(Exception):
    """A newer version of the group has been seen; the message gives both."""


@dataclass
class StageRecord:
    """What must survive noded of one stage. `marks`: ms since the epoch. `probe`: what came of asking its engine for a
    token, as the report has it; `probed`: tokens that this used.

    `stopping`: it is being ended, to become `ended` ("gone" or "failed") for this `reason`.
    """

    stage_id: str
    group_id: str
    version: int
    launch: dict[str, Any] | None = None
    leader: Identity | None = None
    stopping: bool = False
    ended: str | None = None
    reason: str | None = None
    marks: dict[str, int] = field(default_factory=dict)
    probe: dict[str, Any] | None = None
    probed: dict[str, int] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write to `directory`, which is made. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        leader = None if self.leader is None else [self.leader.pid, self.leader.start_ticks, self.leader.boot]
        write_json(directory / RECORD_FILE, {**self.__dict__, "leader": leader})

    @staticmethod
    def load(directory: Path) -> StageRecord | None:
        """The record in `directory`; None when there is none that can be read."""
        content = read_json(directory / RECORD_FILE)
        try:
            if content is None:
                return None
            leader = content.pop("leader")
            return StageRecord(**content, leader=None if leader is None else Identity(*leader))
        except (KeyError, TypeError):
            return None


class GroupVersions:
    """The highest version seen of every group, and the version at which a whole group was stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._groups: dict[str, dict[str, int]] = read_json(path) or {}
        self._unwritten = False

    def admit(self, group_id: str, version: int, starts: bool) -> None:
        """Remember `version`. Raises StaleEffect for a lower one than seen, or to start what was stopped as a whole.

        Raises OSError when it cannot be written; it is remembered until noded ends, and written with the next.
        """
        known = self._groups.get(group_id, {"version": -1, "stopped": -1})
        if version < known["version"]:
            raise StaleEffect(f"group {group_id} is at version {known['version']}; this effect is of {version}")
        if starts and version <= known["stopped"]:
            raise StaleEffect(
                f"group {group_id} was stopped at version {known['stopped']}; this effect is of {version}"
            )
        if version > known["version"] or self._unwritten:
            self._put(group_id, {**known, "version": version})

    def stopped(self, group_id: str, version: int) -> None:
        """The whole group was stopped at `version`. Raises OSError as `admit` does."""
        known = self._groups[group_id]
        if version > known["stopped"]:
            self._put(group_id, {**known, "stopped": version})

    def _put(self, group_id: str, value: dict[str, int]) -> None:
        self._groups.pop(group_id, None)
        self._groups[group_id] = value
        while len(self._groups) > MAX_GROUPS:
            del self._groups[next(iter(self._groups))]
        self._unwritten = True
        write_json(self._path, self._groups)
        self._unwritten = False


def launch_from(record: StageRecord) -> Launch | None:
    """The launch effect of a record, parsed again."""
    from engine.noded.effects import parse

    if record.launch is None:
        return None
    launch = parse(record.launch)
    if not isinstance(launch, Launch):
        raise TypeError(f"the record of {record.stage_id} holds a {type(launch).__name__} for its launch")
    return launch


def write_json(path: Path, content: object) -> None:
    """Replace `path` by `content`, atomically, readable by this user alone."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
    fresh.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None when there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
