"""The proof that a group serves: one token, asked of its rank 0 as soon as that has everything.

Nobody has to ask for it: the answer stands in the report. Other ranks may still be loading then; the token waits for
them inside the engine, so that it comes as soon as the last one can compute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import structlog

from engine.failpoints import reach
from engine.node_config import NodeConfig
from engine.noded import worker
from engine.noded.background import Background
from engine.noded.effects import Launch
from engine.noded.stage import Stage

DEATH_NOTICED_S = 0.2

log = structlog.get_logger(__name__)


class Prober:
    """Probes the stages of one node, each once. `changed` is called when there is an answer."""

    def __init__(self, config: NodeConfig, background: Background, changed: Callable[[], None]) -> None:
        self._address = config.address
        self._background = background
        self._changed = changed
        self._asking: set[str] = set()

    def look(self, stage: Stage) -> None:
        """Ask the stage for a token, if it is time to."""
        launch = stage.launch
        if launch is None or launch.rank or stage.state != "ready" or stage.record.probe is not None:
            return
        if stage.stage_id not in self._asking:
            self._asking.add(stage.stage_id)
            self._background.spawn(self._ask(stage, launch))

    async def _ask(self, stage: Stage, launch: Launch) -> None:
        try:
            # Never through a proxy: the engine is on this machine.
            async with aiohttp.ClientSession(trust_env=False) as session:
                while stage.state == "ready" and stage.record.probe is None:
                    await self._ask_once(session, stage, launch)
        finally:
            self._asking.discard(stage.stage_id)

    async def _ask_once(self, session: aiohttp.ClientSession, stage: Stage, launch: Launch) -> None:
        answer: dict[str, Any]
        try:
            ms, used = await worker.probe(session, f"http://{self._address}:{launch.port}", launch)
        except worker.WorkerSilent:
            # Another rank still loads, over a slower link. How long that may take is the controller's to say.
            log.info("no token yet; asking again", stage=stage.stage_id)
            return
        except worker.WorkerError as error:
            # An engine that has just died is a better reason than that it does not answer, and is told as one.
            await asyncio.sleep(DEATH_NOTICED_S)
            answer, used = {"ok": False, "error": str(error)}, {}
        else:
            answer = {"ok": True, "ms": ms}
        if stage.state != "ready":
            return
        stage.keep_probe(answer, used)
        reach("noded.probed")
        self._changed()
