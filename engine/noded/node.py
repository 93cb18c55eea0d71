"""The node: carries out effects, watches its stages, and tells what is. No HTTP here (see `api`)."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Coroutine
from typing import Any

import structlog

from engine import flags
from engine.failpoints import reach
from engine.node_config import ConfigError, NodeConfig
from engine.noded import effects, inventory, processes
from engine.noded.effects import EffectError, Evict, Launch, Rate, Stop
from engine.noded.launcher import Launcher
from engine.noded.record import GroupVersions, StageRecord
from engine.noded.stage import Stage
from engine.noded.starter import LOOK_S, CannotStart, Warm
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


class Node:
    """Everything that noded owns. Methods are called on one event loop; none of them blocks it for long."""

    def __init__(self, config: NodeConfig, devices: list[inventory.Device]) -> None:
        self.config = config
        self.devices = devices
        self.store = WeightStore(config.store_dir, config.store_bytes, config.link_bps)
        self.warm = Warm(config.warm_socket)
        self.stages: dict[str, Stage] = {}
        self.versions = GroupVersions(config.run_dir / "groups.json")
        # Higher than any earlier run's since the machine booted, so that a reader who waits for more than it has seen
        # gets this one's. Not the time of day, which may be set back: reports with a lower number are dropped.
        self.seq = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        self._boot_id = processes.boot_id()
        self._change = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launcher = Launcher(config, devices, self.warm)

    # --- its life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over what an earlier noded left: adopt its stages, resume their fetches, kill what has no owner."""
        for directory in (self.config.run_dir, self.config.stages_dir, self.config.logs_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self.store.start()
        await self.warm.look()
        for directory in sorted(self.config.stages_dir.iterdir()):
            record = StageRecord.load(directory)
            if record is None:
                log.warning("removing a stage directory without a record", stage=directory.name)
                await self._kill_all(directory)
                shutil.rmtree(directory, ignore_errors=True)
                continue
            try:
                stage = Stage(record, self.config, self.changed)
            except (EffectError, TypeError) as error:
                log.warning("a stage's record is of another version; ending it", stage=directory.name, error=str(error))
                await self._kill_all(directory)
                shutil.rmtree(directory, ignore_errors=True)
                continue
            self.stages[stage.stage_id] = stage
            self._adopt(stage)
        await self._kill_orphans()
        self._spawn(self._look_for_warm())
        self.changed()

    async def close(self) -> None:
        """Let go, leaving engines and weights where they are for the next noded."""
        starting = {stage.starting for stage in self.stages.values() if stage.starting is not None}
        if starting:
            await asyncio.wait(starting, timeout=CLOSE_WAIT_S)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for stage in self.stages.values():
            stage.unwatch()
            if stage.limit is not None:
                stage.limit.cancel()
        await self.store.close()

    def changed(self) -> None:
        """The report differs now: wake those who wait for it."""
        self.seq += 1
        self._spawn(self._notify())

    async def _notify(self) -> None:
        async with self._change:
            self._change.notify_all()

    async def wait_for_change(self, after: int, wait_s: float) -> None:
        """Return as soon as `seq` is above `after`, after `wait_s` seconds in any case."""
        try:
            async with asyncio.timeout(wait_s), self._change:
                await self._change.wait_for(lambda: self.seq > after)
        except TimeoutError:
            return

    async def _look_for_warm(self) -> None:
        while True:
            if await self.warm.look():
                log.info("warm runtime", **self.warm.as_json())
                self.changed()
            await asyncio.sleep(LOOK_S)

    # --- effects -----------------------------------------------------------------------------------------------------

    def apply(self, effect: object) -> None:
        """Take an effect on; what it starts goes on by itself. Raises EffectError, SpecError, StaleEffect."""
        if isinstance(effect, dict) and effect.get("kind") == "prefetch":
            self._prefetch(effect)
            return
        parsed = effects.parse(effect)
        if isinstance(parsed, Evict):
            self.store.evict(parsed.digests)
            self.changed()
            return
        self.versions.admit(parsed.group_id, parsed.version, starts=isinstance(parsed, Launch))
        match parsed:
            case Launch():
                self._launch(parsed, effect)
            case Stop():
                self._stop(parsed)
            case Rate():
                self.store.set_rate(parsed.stage_id, parsed.rate_bps)

    def _prefetch(self, effect: dict[str, Any]) -> None:
        request = Prefetch.from_json(effect)
        self.versions.admit(request.group_id, request.version, starts=True)
        stage = self._stage(request.group_id, request.stage_id, request.version)
        if not stage.alive or stage.record.stopping:
            return
        if stage.weights is None:
            stage.save_prefetch(effect)
        self._fetch(stage, request)
        self.changed()

    def _launch(self, launch: Launch, effect: Any) -> None:
        if launch.device >= len(self.devices):
            raise EffectError(f"device: this node has {len(self.devices)}")
        stage = self._stage(launch.group_id, launch.stage_id, launch.version)
        if not stage.alive or stage.record.stopping or stage.launch is not None:
            return
        stage.launch = launch
        stage.record.launch = effect
        stage.save()
        reach("noded.recorded")
        stage.starting = self._spawn(self._start_engine(stage))
        self.changed()

    def _stop(self, stop: Stop) -> None:
        if stop.stage_id is None:
            self.versions.stopped(stop.group_id, stop.version)
            chosen = [stage for stage in self.stages.values() if stage.record.group_id == stop.group_id]
        else:
            # A launch that arrives after its own stop must find the stage ended.
            chosen = [self._stage(stop.group_id, stop.stage_id, stop.version)]
        for stage in chosen:
            if stage.alive and not stage.record.stopping:
                stage.record.version = max(stage.record.version, stop.version)
                self._end(stage, "gone", None, stop.grace_s)

    def _stage(self, group_id: str, stage_id: str, version: int) -> Stage:
        stage = self.stages.get(stage_id)
        if stage is None:
            record = StageRecord(stage_id, group_id, version)
            stage = Stage(record, self.config, self.changed)
            stage.mark("queued")
            self.stages[stage_id] = stage
        elif stage.record.group_id != group_id:
            raise EffectError(f"stage_id: {stage_id} belongs to group {stage.record.group_id}")
        stage.record.version = max(stage.record.version, version)
        return stage

    # --- weights -----------------------------------------------------------------------------------------------------

    def _fetch(self, stage: Stage, request: Prefetch) -> None:
        try:
            weights = self.store.prefetch(request)
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
        stage.give_model()
        if weights.verified:
            stage.keep_weight_marks()
            reach("noded.verified")
        self.changed()

    def _weights_failed(self, stage: Stage, error: str) -> None:
        """An engine that has loaded has copied verified bytes: it needs neither the store nor the source any more."""
        stage.read_events()
        if "load_end" in stage.engine_marks:
            log.warning("a loaded stage's weights are gone; it serves on", stage=stage.stage_id, reason=error)
        else:
            self._end(stage, "failed", f"weights: {error}", 0)

    # --- engines -----------------------------------------------------------------------------------------------------

    async def _start_engine(self, stage: Stage) -> None:
        """Start the stage's process. Never cancelled but at noded's end, so that no process is started unseen."""
        launch = stage.launch
        if launch is None:
            raise RuntimeError(f"stage {stage.stage_id} has no launch effect")
        try:
            pid = await self._launcher.start(stage, launch)
        except (CannotStart, ConfigError, flags.BadSettings, OSError) as error:
            self._end(stage, "failed", str(error), 0)
            return
        reach("noded.forked")
        stage.mark("fork")
        self._own(stage, processes.identify(pid))
        if not stage.record.stopping:
            self._limit_start(stage)
        stage.give_model()
        self.changed()

    def _limit_start(self, stage: Stage) -> None:
        def check() -> None:
            if stage.state in ("starting", "loading"):
                self._end(stage, "failed", f"not ready {START_LIMIT_S:.0f} s after its launch", 0)

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
        if stage.alive and not stage.record.stopping:
            stage.read_events()
            self._end(stage, "failed", stage.death_reason(), 0)

    def heard_from(self, stage_id: str) -> None:
        """A process of the stage has written an event."""
        stage = self.stages.get(stage_id)
        if stage is not None and stage.alive:
            stage.read_events()
            self.changed()

    # --- ends --------------------------------------------------------------------------------------------------------

    def _end(self, stage: Stage, ended: str, reason: str | None, grace_s: float) -> None:
        """End the stage, and with it the ranks of the same pipeline on this node: none of them can serve alone."""
        if not stage.alive or stage.record.stopping:
            return
        stage.record.stopping = True
        stage.save()
        reach("noded.stopping")
        if stage.limit is not None:
            stage.limit.cancel()
        if ended == "failed":
            log.warning("stage failed", stage=stage.stage_id, group=stage.record.group_id, reason=reason)
        self._spawn(self._take_down(stage, ended, reason, grace_s))
        pipeline = stage.pipeline()
        for other in list(self.stages.values()) if pipeline is not None else ():
            if other is not stage and other.pipeline() == pipeline:
                self._end(other, ended, reason and f"another stage of its pipeline failed: {reason}", grace_s)
        self.changed()

    async def _take_down(self, stage: Stage, ended: str, reason: str | None, grace_s: float) -> None:
        if stage.starting is not None and not stage.starting.done():
            # Bounded: a start takes as long as its request to the warm runtime may.
            await asyncio.wait({stage.starting})
        await stage.terminate(grace_s)
        if stage.pids:
            log.error("processes do not die", stage=stage.stage_id, pids=stage.pids)
            reason = f"{reason or 'stopped'}; processes {stage.pids} do not die (stuck in the kernel?)"
        self.store.release(stage.stage_id)
        stage.finish(ended, reason, self.config.logs_dir)
        log.info("stage ended", stage=stage.stage_id, ended=ended)
        self._forget_old()

    def _forget_old(self) -> None:
        over = [stage for stage in self.stages.values() if not stage.alive]
        for stage in over[: max(0, len(over) - ENDED_KEPT)]:
            del self.stages[stage.stage_id]
        logs = sorted(self.config.logs_dir.glob("*.log"), key=lambda path: path.stat().st_mtime)
        for path in logs[: max(0, len(logs) - LOGS_KEPT)]:
            path.unlink(missing_ok=True)

    # --- adoption ----------------------------------------------------------------------------------------------------

    def _adopt(self, stage: Stage) -> None:
        """Go on with a stage of an earlier noded, wherever that one was interrupted."""
        record = stage.record
        if record.stopping:
            record.stopping = False
            self._end(stage, "gone", "its stop was interrupted and is finished now", 0)
            return
        effect = stage.saved_prefetch()
        if effect is not None:
            try:
                request = Prefetch.from_json(effect)
            except SpecError as error:
                self._weights_failed(stage, str(error))
            else:
                self._fetch(stage, request)
        if stage.launch is None or not stage.alive:
            return
        found = processes.leader(processes.in_directory(stage.directory))
        if found is not None:
            log.info("adopted", stage=stage.stage_id, pid=found.pid)
            self._own(stage, found)
            self._limit_start(stage)
        elif record.leader is not None:
            self._end(stage, "failed", f"{stage.death_reason()} (noded was away)", 0)
        else:
            stage.starting = self._spawn(self._start_engine(stage))

    async def _kill_orphans(self) -> None:
        """Kill engine processes under this node's directory that belong to no stage it knows."""
        for directory, pids in processes.under(self.config.stages_dir).items():
            if directory.name not in self.stages:
                log.warning("killing processes without an owner", directory=str(directory), pids=pids)
                processes.send(pids, signal.SIGKILL)

    async def _kill_all(self, directory: Any) -> None:
        processes.send(processes.in_directory(directory), signal.SIGKILL)

    # --- what is -----------------------------------------------------------------------------------------------------

    def serving_stage(self, group_id: str, stage_id: str | None) -> Stage | None:
        """The stage that answers HTTP for a group: its rank 0 on this node, the newest if there are several."""
        chosen = [
            stage
            for stage in self.stages.values()
            if stage.record.group_id == group_id
            and stage.alive
            and stage.launch is not None
            and stage.launch.rank == 0
            and stage_id in (None, stage.stage_id)
        ]
        return chosen[-1] if chosen else None

    def report(self) -> dict[str, Any]:
        """The full state (docs/interfaces.md, section 7)."""
        return {
            "v": 1,
            "node": self.config.name,
            "boot_id": self._boot_id,
            "seq": self.seq,
            "at_ms": time.time_ns() // 1_000_000,
            "devices": [device.as_json() for device in self.devices],
            "address": self.config.address,
            "ports": list(self.config.ports),
            "link_bps": self.config.link_bps,
            "store": {
                "bytes": self.store.bytes_held(),
                "limit_bytes": self.config.store_bytes,
                "digests": self.store.held_digests(),
            },
            "warm": self.warm.as_json(),
            "stages": [stage.as_json(self.config.address) for stage in self.stages.values()],
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of noded failed", exc_info=error)
