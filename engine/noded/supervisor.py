"""Every stage of the node through its life: fetched, started, watched, ended, and adopted after a restart of noded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog

from engine import flags
from engine.failpoints import reach
from engine.node_config import ConfigError, NodeConfig
from engine.noded import leftovers, processes
from engine.noded.background import Background
from engine.noded.effects import EffectError
from engine.noded.launcher import Launcher
from engine.noded.prober import Prober
from engine.noded.record import StageRecord, read_json
from engine.noded.stage import Stage
from engine.noded.stage_files import bound_log
from engine.noded.starter import CannotStart
from engine.weights.inventory import StoreError
from engine.weights.spec import Prefetch, SpecError
from engine.weights.store import WeightStore

log = structlog.get_logger(__name__)

ENDED_KEPT = 64
"""Stages that have ended and are still reported, so that a controller that was away learns how."""

LOGS_KEPT = 64
CLOSE_WAIT_S = 5.0
"""A process that is just being started is recorded before noded ends."""

START_LIMIT_S = 900.0
"""A stage that is not ready this long after its launch has failed. A controller gives up much sooner."""


class Supervisor:
    """The node's stages by id. Methods are called on one event loop; `changed` is called when the report differs."""

    def __init__(
        self,
        config: NodeConfig,
        store: WeightStore,
        launcher: Launcher,
        background: Background,
        changed: Callable[[], None],
    ) -> None:
        self.stages: dict[str, Stage] = {}
        self._config = config
        self._store = store
        self._launcher = launcher
        self._tell = changed
        self._background = background
        self._prober = Prober(config, background, changed)

    def _changed(self) -> None:
        """Something about a stage is different: what is ready now is probed."""
        for stage in self.stages.values():
            self._prober.look(stage)
        self._tell()

    # --- its beginning and end ---------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over what an earlier noded left: adopt its stages, resume their fetches, kill what has no owner."""
        self._recall_ended()
        for directory in sorted(self._config.stages_dir.iterdir()):
            stage = None if directory.name in self.stages else self._recorded(directory)
            if stage is None:
                leftovers.remove_stage(self._config, directory)
            else:
                self.stages[stage.stage_id] = stage
                self._adopt(stage)
        self._kill_orphans()
        self._forget_old()
        self._changed()

    def _recall_ended(self) -> None:
        reports = [read_json(path) for path in self._config.ended_dir.glob("*.json")]
        for report in sorted(filter(None, reports), key=lambda report: str(report.get("marks"))):
            try:
                stage = Stage.from_tombstone(report, self._config)
            except (KeyError, TypeError):
                continue
            self.stages[stage.stage_id] = stage

    def _recorded(self, directory: Path) -> Stage | None:
        record = StageRecord.load(directory)
        if record is None or record.stage_id != directory.name:
            log.warning("removing a stage directory without a record", stage=directory.name)
            return None
        try:
            return Stage(record, self._config)
        except (EffectError, TypeError) as error:
            log.warning("a stage's record is of another version; ending it", stage=directory.name, error=str(error))
            return None

    async def settle_starts(self) -> None:
        """Wait until processes that are being started are recorded, a while at most."""
        starting = {stage.starting for stage in self.stages.values() if stage.starting is not None}
        if starting:
            await asyncio.wait(starting, timeout=CLOSE_WAIT_S)

    def let_go(self) -> None:
        """Stop watching; the engines go on."""
        for stage in self.stages.values():
            stage.unwatch()
            if stage.limit is not None:
                stage.limit.cancel()

    def launch(self, stage: Stage) -> None:
        """Start the stage's engine, whose launch effect is recorded."""
        stage.starting = self._background.spawn(self._start_engine(stage))

    def stage(self, group_id: str, stage_id: str, version: int) -> Stage:
        """The stage, made if it is new. Raises EffectError when it is known as another group's."""
        stage = self.stages.get(stage_id)
        if stage is None:
            record = StageRecord(stage_id, group_id, version)
            stage = Stage(record, self._config)
            stage.mark("queued")
            self.stages[stage_id] = stage
        elif stage.record.group_id != group_id:
            raise EffectError(f"stage_id: {stage_id} belongs to group {stage.record.group_id}")
        stage.record.version = max(stage.record.version, version)
        return stage

    # --- weights -----------------------------------------------------------------------------------------------------

    def fetch(self, stage: Stage, request: Prefetch) -> None:
        """Bring the stage's weights in. Raises SpecError when it is known with others."""
        try:
            weights = self._store.prefetch(request)
        except (OSError, StoreError) as error:
            self._weights_failed(stage, str(error))
            return
        if stage.weights is None:
            stage.weights = weights
            weights.on_change.append(lambda _weights: self._weights_changed(stage))
        self._weights_changed(stage)

    def _weights_changed(self, stage: Stage) -> None:
        weights = stage.weights
        if weights is None or not stage.alive or stage.record.stopping:
            return
        if weights.error is not None:
            self._weights_failed(stage, weights.error)
            return
        self._give_model(stage)
        if weights.verified:
            stage.keep_weight_marks()
            reach("noded.verified")
        self._changed()

    def _weights_failed(self, stage: Stage, error: str) -> None:
        """An engine that has loaded verified bytes needs neither the store nor the source any more.

        That it has loaded does not say that they were verified: such a stage would never be ready, and never end.
        """
        stage.read_events()
        if "load_end" in stage.engine_marks and stage.verified:
            log.warning("a loaded stage's weights are gone; it serves on", stage=stage.stage_id, reason=error)
        else:
            self.end(stage, "failed", f"weights: {error}", 0)

    # --- engines -----------------------------------------------------------------------------------------------------

    async def _start_engine(self, stage: Stage) -> None:
        """Start the stage's process. Never cancelled but at noded's end, so that no process is started unseen."""
        launch = stage.launch
        if launch is None:
            raise RuntimeError(f"stage {stage.stage_id} has no launch effect")
        try:
            pid = await self._launcher.start(stage, launch)
        except (CannotStart, ConfigError, flags.BadSettings, OSError) as error:
            self.end(stage, "failed", str(error), 0)
            return
        reach("noded.forked")
        stage.mark("fork")
        self._own(stage, processes.identify(pid))
        if not stage.record.stopping:
            self._limit_start(stage)
        self._give_model(stage)
        self._changed()

    def _give_model(self, stage: Stage) -> None:
        try:
            stage.give_model()
        except OSError as error:
            self.end(stage, "failed", f"the engine cannot be told where its model is: {error}", 0)

    def _limit_start(self, stage: Stage) -> None:
        def check() -> None:
            if stage.state in ("starting", "loading"):
                self.end(stage, "failed", f"not ready {START_LIMIT_S:.0f} s after its launch", 0)

        stage.limit = asyncio.get_running_loop().call_later(START_LIMIT_S, check)

    def _own(self, stage: Stage, leader: processes.Identity | None) -> None:
        """Record and watch the stage's first process."""
        stage.record.leader = leader
        stage.save()
        if stage.record.stopping:
            # It was stopped while its process was being started; whoever stops it waits to find it here.
            return
        if leader is None or not stage.watch(leader, self._engine_died):
            self._engine_died(stage)

    def _engine_died(self, stage: Stage) -> None:
        if not stage.alive or stage.record.stopping:
            return
        stage.read_events()
        # Of two processes that were started for it (the warm runtime forked one, but its answer was lost) one lives.
        other = stage.leader()
        if other is not None:
            log.info("another process is the stage's", stage=stage.stage_id, pid=other.pid)
            self._own(stage, other)
        else:
            self.end(stage, "failed", stage.death_reason(), 0)

    def look(self) -> None:
        """Find what no wake-up told, and keep logs within bounds. Called every second."""
        for stage in list(self.stages.values()):
            if stage.missed_events():
                self._changed()
            if stage.alive:
                bound_log(stage.log)

    def heard_from(self, stage_id: str) -> None:
        """A process of the stage has written an event."""
        stage = self.stages.get(stage_id)
        if stage is not None and stage.alive:
            stage.read_events()
            self._changed()

    # --- ends --------------------------------------------------------------------------------------------------------

    def end(self, stage: Stage, ended: str, reason: str | None, grace_s: float) -> None:
        """End the stage, and with it the ranks of the same pipeline on this node: none of them can serve alone."""
        if not stage.alive or stage.record.stopping:
            return
        stage.record.stopping, stage.record.ended, stage.record.reason = True, ended, reason
        # Before it is written: a full disk must not keep a stage from being stopped.
        self._background.spawn(self._take_down(stage, ended, reason, grace_s))
        stage.save()
        reach("noded.stopping")
        if stage.limit is not None:
            stage.limit.cancel()
        if ended == "failed":
            log.warning("stage failed", stage=stage.stage_id, group=stage.record.group_id, reason=reason)
        pipeline = stage.pipeline()
        for other in list(self.stages.values()) if pipeline is not None else ():
            if other is not stage and other.pipeline() == pipeline:
                self.end(other, ended, reason and f"another stage of its pipeline failed: {reason}", grace_s)
        self._changed()

    async def _take_down(self, stage: Stage, ended: str, reason: str | None, grace_s: float) -> None:
        if stage.starting is not None and not stage.starting.done():
            # Bounded: a start takes as long as its request to the warm runtime may.
            await asyncio.wait({stage.starting})
        try:
            await stage.terminate(grace_s)
            if stage.pids:
                log.error("processes do not die", stage=stage.stage_id, pids=stage.pids)
                reason = f"{reason or 'stopped'}; processes {stage.pids} do not die (stuck in the kernel?)"
            self._store.release(stage.stage_id)
        except OSError as error:
            log.warning("a stage's end went wrong", stage=stage.stage_id, error=str(error))
        stage.finish(ended, reason, self._config.logs_dir)
        log.info("stage ended", stage=stage.stage_id, ended=ended)
        self._changed()
        self._forget_old()

    def _forget_old(self) -> None:
        over = [stage for stage in self.stages.values() if not stage.alive]
        for stage in over[: max(0, len(over) - ENDED_KEPT)]:
            stage.forget()
            del self.stages[stage.stage_id]
        with contextlib.suppress(OSError):
            logs = sorted(self._config.logs_dir.glob("*.log"), key=lambda path: path.stat().st_mtime)
            for path in logs[: max(0, len(logs) - LOGS_KEPT)]:
                path.unlink(missing_ok=True)

    # --- adoption ----------------------------------------------------------------------------------------------------

    def _adopt(self, stage: Stage) -> None:
        """Go on with a stage of an earlier noded, wherever that one was interrupted."""
        record = stage.record
        if record.stopping:
            record.stopping = False
            self.end(stage, record.ended or "gone", record.reason, 0)
            return
        effect = stage.saved_prefetch()
        if effect is not None:
            try:
                request = Prefetch.from_json(effect)
            except SpecError as error:
                self._weights_failed(stage, str(error))
            else:
                self.fetch(stage, request)
        if stage.launch is None or not stage.alive or record.stopping:
            return
        found = stage.leader()
        if found is not None:
            log.info("adopted", stage=stage.stage_id, pid=found.pid)
            self._own(stage, found)
            self._limit_start(stage)
        elif record.leader is not None:
            self.end(stage, "failed", f"{stage.death_reason()} (noded was away)", 0)
        else:
            self.launch(stage)

    def _kill_orphans(self) -> None:
        """Kill engine processes under this node's directory that belong to no stage it knows."""
        for directory in processes.stages_below(self._config.stages_dir):
            stage = self.stages.get(directory.name)
            if stage is None or not stage.alive:
                leftovers.remove_stage(self._config, directory)
