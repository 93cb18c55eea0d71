"""The node: carries out effects, watches its stages, and tells what is. No HTTP here (see `api`)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from engine.failpoints import reach
from engine.node_config import NodeConfig
from engine.noded import effects, inventory, processes
from engine.noded.background import Background
from engine.noded.effects import EffectError, Evict, Launch, Rate, Stop
from engine.noded.launcher import Launcher
from engine.noded.record import GroupVersions
from engine.noded.stage import Stage
from engine.noded.starter import LOOK_S, Warm
from engine.noded.supervisor import Supervisor
from engine.weights.spec import Prefetch
from engine.weights.store import WeightStore

log = structlog.get_logger(__name__)


class Node:
    """Everything that noded owns. Methods are called on one event loop; none of them blocks it for long."""

    def __init__(self, config: NodeConfig, devices: list[inventory.Device]) -> None:
        self.config = config
        self.devices = devices
        self.store = WeightStore(config.store_dir, config.store_bytes, config.link_bps)
        self.warm = Warm(config.warm_socket)
        self._background = Background()
        launcher = Launcher(config, devices, self.warm)
        self.supervisor = Supervisor(config, self.store, launcher, self._background, self.changed)
        self.versions = GroupVersions(config.run_dir / "groups.json")
        # Higher than any earlier run's since the machine booted, so that a reader who waits for more than it has seen
        # gets this one's. Not the time of day, which may be set back: reports with a lower number are dropped.
        self.seq = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        self._boot_id = processes.boot_id()
        self._link_bps = inventory.link_bps(config)
        self._change = asyncio.Condition()

    # --- its life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over what an earlier noded left: adopt its stages, resume their fetches, kill what has no owner."""
        config = self.config
        for directory in (config.run_dir, config.stages_dir, config.ended_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self.store.start()
        await self.warm.look()
        self.supervisor.adopt()
        self._background.spawn(self._look_around())
        self.changed()

    async def close(self) -> None:
        """Let go, leaving engines and weights where they are for the next noded."""
        await self.supervisor.settle_starts()
        await self._background.close()
        self.supervisor.let_go()
        await self.store.close()

    def changed(self) -> None:
        """The report differs now: wake those who wait for it."""
        self.seq += 1
        self._background.spawn(self._notify())

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

    async def _look_around(self) -> None:
        while True:
            self.supervisor.look()
            if await self.warm.look():
                log.info("warm runtime", **self.warm.as_json())
                self.changed()
            await asyncio.sleep(LOOK_S)

    # --- effects -----------------------------------------------------------------------------------------------------

    def apply(self, effect: object) -> None:
        """Take an effect on; what it starts goes on by itself.

        Raises EffectError, SpecError, StaleEffect; OSError when a start cannot be recorded, which then is not begun.
        """
        if isinstance(effect, dict) and effect.get("kind") == "prefetch":
            self._prefetch(effect)
            return
        parsed = effects.parse(effect)
        if isinstance(parsed, Evict):
            self.store.evict(parsed.digests)
            self.changed()
            return
        match parsed:
            case Launch():
                self._launch(parsed, effect)
            case Stop():
                self._stop(parsed)
            case Rate():
                self._rate(parsed)

    def _prefetch(self, effect: dict[str, Any]) -> None:
        request = Prefetch.from_json(effect)
        self.versions.admit(request.group_id, request.version, starts=True)
        stage = self.supervisor.stage(request.group_id, request.stage_id, request.version)
        if not stage.alive or stage.record.stopping:
            return
        if stage.weights is None:
            stage.save_prefetch(effect)
        else:
            stage.save_rate(request.rate_bps)
        self.supervisor.fetch(stage, request)
        self.changed()

    def _launch(self, launch: Launch, effect: Any) -> None:
        if launch.device >= len(self.devices):
            raise EffectError(f"device: this node has {len(self.devices)}")
        self.versions.admit(launch.group_id, launch.version, starts=True)
        stage = self.supervisor.stage(launch.group_id, launch.stage_id, launch.version)
        if not stage.alive or stage.record.stopping or stage.launch is not None:
            return
        stage.set_launch(launch, effect)
        reach("noded.recorded")
        self.supervisor.launch(stage)
        self.changed()

    def _rate(self, rate: Rate) -> None:
        self.versions.admit(rate.group_id, rate.version, starts=False)
        stage = self.supervisor.stages.get(rate.stage_id)
        if stage is not None and stage.alive:
            stage.save_rate(rate.rate_bps)
        self.store.set_rate(rate.stage_id, rate.rate_bps)

    def _stop(self, stop: Stop) -> None:
        try:
            self.versions.admit(stop.group_id, stop.version, starts=False)
            if stop.stage_id is None:
                self.versions.stopped(stop.group_id, stop.version)
        except OSError as error:
            # What is to end must end on a full disk too.
            log.warning("a group's version could not be written", group=stop.group_id, error=str(error))
        if stop.stage_id is None:
            chosen = [stage for stage in self.supervisor.stages.values() if stage.record.group_id == stop.group_id]
        else:
            # A launch that arrives after its own stop must find the stage ended.
            chosen = [self.supervisor.stage(stop.group_id, stop.stage_id, stop.version)]
        for stage in chosen:
            if stage.alive and not stage.record.stopping:
                stage.record.version = max(stage.record.version, stop.version)
                self.supervisor.end(stage, "gone", None, stop.grace_s)

    # --- what is -----------------------------------------------------------------------------------------------------

    def serving_stage(self, group_id: str, stage_id: str | None) -> Stage | None:
        """The stage that answers HTTP for a group: its rank 0 on this node, the newest if there are several."""
        chosen = [
            stage
            for stage in self.supervisor.stages.values()
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
            "link_bps": self._link_bps,
            "store": {
                "bytes": self.store.bytes_held(),
                "limit_bytes": self.config.store_bytes,
                "digests": self.store.held_digests(),
            },
            "warm": self.warm.as_json(),
            "stages": [stage.as_json() for stage in self.supervisor.stages.values()],
        }
