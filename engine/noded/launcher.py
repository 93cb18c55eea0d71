"""From a launch effect to a running process: SGLang's arguments, the stage's directory, a fork or a plain start."""

from __future__ import annotations

import asyncio

import structlog

from engine import flags
from engine.node_config import NodeConfig
from engine.noded import inventory
from engine.noded.effects import Launch
from engine.noded.stage import Stage
from engine.noded.starter import AnswerLost, CannotStart, Warm, start_plainly

log = structlog.get_logger(__name__)


FORK_LOOKS, FORK_LOOK_S = 20, 0.05
"""A fork becomes the stage within milliseconds, on a busy machine within a second."""


class Launcher:
    """Starts the engines of one node."""

    def __init__(self, config: NodeConfig, devices: list[inventory.Device], warm: Warm) -> None:
        self._config = config
        self._devices = devices
        self._warm = warm
        self._interface = inventory.interface_of(config.address)

    async def start(self, stage: Stage, launch: Launch) -> int:
        """The id of a process that becomes the stage: a fork if a warm runtime answers, else a plain start.

        Raises CannotStart, ConfigError (no GPU driver), flags.BadSettings, OSError.
        """
        device = self._devices[launch.device]
        place, shape = self._place(device), _shape(launch)
        env = flags.environment(shape, place) | {"HYDRANT_NODED_SIGNALS": str(self._config.signal_socket)}
        stage.prepare(flags.arguments(shape, place), env, device.cores)
        if self._warm.pid is not None or await self._warm.look():
            try:
                return await self._warm.fork(stage.directory)
            except CannotStart as error:
                if isinstance(error, AnswerLost) and (forked := await self._forked(stage)) is not None:
                    log.info("the warm runtime forked without an answer", stage=stage.stage_id, pid=forked)
                    return forked
                log.warning("starting plainly", stage=stage.stage_id, why=str(error))
        return start_plainly(self._config, device.kind, stage.directory)

    @staticmethod
    async def _forked(stage: Stage) -> int | None:
        """The id of the stage's process that a warm runtime may have forked before it was lost.

        One that appears later is sorted out by the stage's lock, and by whoever sees the other one end.
        """
        for _ in range(FORK_LOOKS):
            if (leader := stage.leader()) is not None:
                return leader.pid
            await asyncio.sleep(FORK_LOOK_S)
        return None

    def _place(self, device: inventory.Device) -> flags.StagePlace:
        return flags.StagePlace(
            kind=device.kind,
            gpu=device.gpu,
            device_free_bytes=inventory.free_bytes(device),
            cores=device.cores,
            host=self._config.address,
            interface=self._interface,
        )


def _shape(launch: Launch) -> flags.StageShape:
    return flags.StageShape(
        rank=launch.rank,
        world=launch.world,
        layers=launch.layers,
        dist_address=launch.dist_address,
        port=launch.port,
        api_key=launch.api_key,
        model_name=launch.model_name,
        memory_bytes=launch.memory_bytes,
        settings=launch.settings,
    )
