"""From a launch effect to a running process: SGLang's arguments, the stage's directory, a fork or a plain start."""

from __future__ import annotations

import structlog

from engine import flags
from engine.node_config import NodeConfig
from engine.noded import inventory
from engine.noded.effects import Launch
from engine.noded.stage import Stage
from engine.noded.starter import CannotStart, Warm, start_plainly

log = structlog.get_logger(__name__)


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
                log.warning("starting plainly", stage=stage.stage_id, why=str(error))
        return start_plainly(self._config, device.kind, stage.directory)

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
