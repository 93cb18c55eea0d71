"""One stage on this node: its weights, its processes, and what is known of both. State is derived, never set.

fetching -> starting -> loading -> ready -> stopping -> gone, or failed(reason) from any
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from engine.node_config import NodeConfig
from engine.noded import processes
from engine.noded.effects import Launch
from engine.noded.log_tail import reason_from
from engine.noded.processes import Identity
from engine.noded.record import PREFETCH_FILE, StageRecord, launch_from, read_json, write_json
from engine.noded.stage_files import keep_log, logged, remove_tree, temp_dir_of
from engine.private_directory import make_private
from engine.runtime import stage as runtime
from engine.weights.stage import StageWeights

log = structlog.get_logger(__name__)

ENGINE_EVENTS = frozenset({"runtime", "load_start", "load_end", "wanted", "up"})
SERVING = frozenset({"load_end", "up"})
"""Of these events, in either order, a serving engine has told both: it may be up before its last tensor has come."""
EVENTS_FILE = "events"
KILL_ROUNDS = 5
KILL_WAIT_S = 5.0
"""How long killed processes may take to disappear; one that is stuck in the kernel is reported, not waited for."""


class Stage:
    """A stage and its files. Everything happens on noded's event loop."""

    def __init__(self, record: StageRecord, config: NodeConfig) -> None:
        self.record = record
        self.directory = config.stages_dir / record.stage_id
        self.temp_dir = temp_dir_of(config, record.stage_id)
        self.launch: Launch | None = launch_from(record)
        self.weights: StageWeights | None = None
        self.pids: list[int] = []
        self.starting: asyncio.Task[None] | None = None
        self.limit: asyncio.TimerHandle | None = None
        self.ended: str | None = None
        self.reason: str | None = None
        self.engine_marks: dict[str, int] = {}
        self._store_dir = config.store_dir
        self._address = config.address
        self._tombstone = config.ended_dir / f"{record.stage_id}.json"
        self._last_report: dict[str, Any] | None = None
        self._pidfd: int | None = None
        self._shared_memory: set[Path] = set()
        if record.launch is not None:
            self.read_events()

    @staticmethod
    def from_tombstone(report: dict[str, Any], config: NodeConfig) -> Stage:
        """A stage that ended under an earlier noded, as it was reported last. Raises KeyError or TypeError."""
        record = StageRecord(report["stage_id"], report["group_id"], report["version"])
        stage = Stage(record, config)
        stage.ended, stage.reason, stage._last_report = report["state"], report["reason"], report
        return stage

    @property
    def stage_id(self) -> str:
        """The stage's id, unique for ever."""
        return self.record.stage_id

    @property
    def state(self) -> str:
        """As the report names it."""
        if self.ended is not None:
            return self.ended
        if self.record.stopping:
            return "stopping"
        if self.launch is None:
            return "fetching"
        if self.serving and self.verified:
            return "ready"
        return "loading" if "load_start" in self.engine_marks else "starting"

    @property
    def alive(self) -> bool:
        """Whether the stage has not ended."""
        return self.ended is None

    @property
    def serving(self) -> bool:
        """Whether its engine is up and has loaded everything."""
        return self.engine_marks.keys() >= SERVING

    @property
    def verified(self) -> bool:
        """Whether every digest has matched, now or under an earlier noded."""
        return "prefetch_end" in self.record.marks or (self.weights is not None and self.weights.verified)

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.directory / runtime.LOG_FILE

    def pipeline(self) -> tuple[str, str] | None:
        """What stages that must die together have in common; None for a stage that is a whole worker."""
        if self.launch is None or self.launch.dist_address is None:
            return None
        return (self.launch.group_id, self.launch.dist_address)

    def mark(self, name: str) -> None:
        """Note that `name` happened now, unless it has before, and keep it."""
        if name not in self.record.marks:
            self.record.marks[name] = time.time_ns() // 1_000_000
            self.save()

    def keep_weight_marks(self) -> None:
        """Keep when the weights came, for a noded that adopts the stage and finds them held, or gone."""
        if self.weights is not None and "prefetch_end" not in self.record.marks:
            self.record.marks |= self.weights.marks
            self.save()

    def keep_probe(self, answer: dict[str, Any], used: dict[str, int]) -> None:
        """Keep what came of the probe, and the tokens that it used, which the engine counts like any others."""
        for name, count in used.items():
            self.record.probed[name] = self.record.probed.get(name, 0) + count
        self.record.probe = answer
        self.save()

    def save(self) -> None:
        """Write the record. On a full disk that only costs a later noded what it could have known."""
        try:
            self.record.save(self.directory)
        except OSError as error:
            log.warning("a stage's record could not be written", stage=self.stage_id, error=str(error))

    def set_launch(self, launch: Launch, effect: dict[str, Any]) -> None:
        """Take on what to launch, once it is on the disk. Raises OSError."""
        record = replace(self.record, launch=effect)
        record.save(self.directory)
        self.record, self.launch = record, launch

    def save_prefetch(self, effect: dict[str, Any]) -> None:
        """Keep the prefetch effect, to resume it after a restart. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self.directory / PREFETCH_FILE, effect)

    def saved_prefetch(self) -> dict[str, Any] | None:
        """The prefetch effect that was kept."""
        return read_json(self.directory / PREFETCH_FILE)

    def save_rate(self, rate_bps: int | None) -> None:
        """Keep a new rate with the prefetch effect. Raises OSError."""
        effect = self.saved_prefetch()
        if effect is not None and effect.get("rate_bps") != rate_bps:
            self.save_prefetch({**effect, "rate_bps": rate_bps})

    # --- its engine --------------------------------------------------------------------------------------------------

    def prepare(self, argv: list[str], env: dict[str, str], cores: tuple[int, ...]) -> None:
        """Write what the new process needs to become this stage, and make its directories."""
        make_private(self.temp_dir.parent)
        make_private(self.temp_dir)
        metrics = self.temp_dir / "metrics"
        metrics.mkdir(exist_ok=True)
        env = {
            **env,
            "TMPDIR": str(self.temp_dir),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "HYDRANT_STAGE": self.stage_id,
            "HYDRANT_STAGE_EVENTS": str(self.directory / EVENTS_FILE),
        }
        write_json(self.directory / runtime.STAGE_FILE, {"argv": argv, "env": env, "cores": list(cores)})

    def give_model(self) -> None:
        """Tell the engine where its model is, once the model's small files are here."""
        path = self.directory / runtime.MODEL_FILE
        if self.launch is not None and self.weights is not None and self.weights.files_ready and not path.exists():
            paths = {"model_dir": str(self.weights.model_dir), "load_spec": str(self.weights.load_spec)}
            write_json(path, paths)

    def read_events(self) -> bool:
        """Read what the engine's processes have told so far; whether there was something new."""
        known = len(self.engine_marks)
        try:
            lines = (self.directory / EVENTS_FILE).read_text().splitlines()
        except OSError:
            return False
        for line in lines:
            try:
                event = json.loads(line)
                name, at_ms = event["event"], int(event["at_ms"])
            except (ValueError, KeyError, TypeError):
                # The last line may be half written; it is read again when it is whole.
                continue
            if name in ENGINE_EVENTS:
                self.engine_marks.setdefault(name, at_ms)
        self.refresh_processes()
        return len(self.engine_marks) > known

    def missed_events(self) -> bool:
        """Whether the engine has told something that no wake-up announced. Cheap: it is called every second."""
        path = self.directory / EVENTS_FILE
        if not self.alive or self.launch is None or self.serving or not path.exists():
            return False
        return self.read_events()

    def watch(self, identity: Identity, died: Callable[[Stage], None]) -> bool:
        """Call `died` when the stage's first process ends. False if it has ended already."""
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return False
        if not identity.alive():
            os.close(descriptor)
            return False
        self._pidfd = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._first_died, died)
        self.refresh_processes()
        return True

    def _first_died(self, died: Callable[[Stage], None]) -> None:
        self.unwatch()
        died(self)

    def unwatch(self) -> None:
        """Stop watching."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def refresh_processes(self) -> None:
        """Look up the stage's processes and the shared memory that they would leave behind."""
        self.pids = self._processes()
        self._shared_memory |= {
            path
            for path in processes.shared_memory(self.pids)
            # What an engine maps while it loads is the store's, and other stages'.
            if not path.is_relative_to(self._store_dir)
        }

    def leader(self) -> Identity | None:
        """The living process that leads the stage: the recorded one, else one that holds its lock."""
        recorded = self.record.leader
        if recorded is not None and recorded.alive():
            return recorded
        return processes.leader(processes.of_stage(self.directory, runtime.LOCK_FILE))

    def _processes(self) -> list[int]:
        """Ids of its living processes, the first one also before it has gone to the stage's directory."""
        found = processes.of_stage(self.directory, runtime.LOCK_FILE)
        first = self.record.leader
        return found if first is None or first.pid in found or not first.alive() else [first.pid, *found]

    # --- its end -----------------------------------------------------------------------------------------------------

    async def terminate(self, grace_s: float) -> None:
        """End its processes: SIGTERM, `grace_s` seconds, SIGKILL. A stage that does not serve yet is killed at once."""
        self.unwatch()
        self.refresh_processes()
        if grace_s > 0 and self.pids and self.serving:
            processes.send(self.pids, signal.SIGTERM)
            await processes.wait_for_end(self.pids, grace_s)
        # Repeated: a process may have forked another between the look and the kill.
        for _ in range(KILL_ROUNDS):
            self.pids = self._processes()
            if not self.pids:
                return
            processes.send(self.pids, signal.SIGKILL)
            await processes.wait_for_end(self.pids, KILL_WAIT_S)

    def finish(self, ended: str, reason: str | None, logs: Path) -> None:
        """The stage is over and has no process: keep its log and its last report, remove everything else.

        A step that fails is logged and holds up no other: the stage has ended whatever is left of it.
        """
        self.record.marks.setdefault("stopped", time.time_ns() // 1_000_000)
        self.ended, self.reason = ended, reason
        self._last_report = self.as_json()
        with logged(self.stage_id):
            keep_log(self.log, logs / f"{self.stage_id}.log")
        with logged(self.stage_id):
            write_json(self._tombstone, self._last_report)
        for path in self._shared_memory:
            with logged(self.stage_id):
                path.unlink(missing_ok=True)
        for directory in (self.temp_dir, self.directory):
            with logged(self.stage_id):
                remove_tree(directory)

    def forget(self) -> None:
        """Drop what is kept of an ended stage."""
        with logged(self.stage_id):
            self._tombstone.unlink(missing_ok=True)

    def death_reason(self) -> str:
        """Why its engine ended by itself."""
        secrets = () if self.launch is None else (self.launch.api_key,)
        when = "while serving" if self.serving else "while starting"
        return f"the engine ended {when}: {reason_from(self.log, secrets)}"

    # --- its place in the report -------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """As the report shows it."""
        if self._last_report is not None:
            return {**self._last_report, "version": self.record.version}
        weights, launch = self.weights, self.launch
        marks = {**({} if weights is None else weights.marks), **self.record.marks, **self.engine_marks}
        if self.serving and "prefetch_end" in marks:
            marks["ready"] = max(marks[name] for name in (*SERVING, "prefetch_end"))
        serves = launch is not None and launch.rank == 0
        return {
            "stage_id": self.stage_id,
            "group_id": self.record.group_id,
            "version": self.record.version,
            "state": self.state,
            "reason": self.reason,
            "pids": self.pids if self.alive else [],
            "port": None if launch is None else launch.port,
            "url": f"http://{self._address}:{launch.port}" if launch is not None and serves else None,
            "bytes_total": 0 if weights is None else weights.bytes_total,
            "bytes_to_fetch": 0 if weights is None else weights.bytes_to_fetch,
            "bytes_fetched": 0 if weights is None else weights.bytes_fetched,
            "verified": self.verified,
            "probe": self.record.probe,
            "marks": marks,
        }
