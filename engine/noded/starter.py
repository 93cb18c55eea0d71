"""Starts a stage's process: a fork of the warm runtime, or a plain start when there is none that answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from engine.node_config import NodeConfig
from engine.runtime.environment import DeviceKind, node_environment

WARM_TIMEOUT_S = 3.0
"""A fork takes 10 to 50 ms; a runtime that takes longer is stuck."""

LOOK_S = 1.0
"""How often an absent warm runtime is looked for."""

_INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_HOME", "HYDRANT_HOME", "HYDRANT_NODE")
_INHERITED_PREFIXES = ("NCCL_", "UCX_", "NVIDIA_")
"""What a plainly started engine gets of noded's environment: not the keys with which noded reads weight sources."""


class CannotStart(Exception):
    """No process could be started for the stage; the message says why."""


class AnswerLost(CannotStart):
    """The warm runtime was asked, and may or may not have forked."""


class Warm:
    """The node's warm runtime as noded sees it."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self.pid: int | None = None
        self.engine: str | None = None
        self.memory_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As the report shows it."""
        return {
            "ready": self.pid is not None,
            "pid": self.pid,
            "engine": self.engine,
            "memory_bytes": self.memory_bytes,
        }

    async def look(self) -> bool:
        """Ask whether it is there; whether that has changed."""
        before = self.pid
        try:
            answer = await self._ask({"ping": True})
            self.pid, self.engine = int(answer["pid"]), str(answer["engine"])
            # A runtime of an earlier version, which goes on while noded is upgraded, does not say.
            self.memory_bytes = answer.get("memory_bytes")
        except (OSError, ValueError, KeyError, TimeoutError):
            self._gone()
        return self.pid != before

    async def fork(self, stage_dir: Path) -> int:
        """The id of a new process that becomes the stage. Raises CannotStart, or AnswerLost."""
        try:
            answer = await self._ask({"stage_dir": str(stage_dir)})
            return int(answer["pid"])
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._gone()
            raise CannotStart(f"there is no warm runtime at {self._path}: {error}") from error
        except (OSError, ValueError, TimeoutError) as error:
            self._gone()
            raise AnswerLost(f"the warm runtime does not answer at {self._path}: {error}") from error
        except KeyError:
            raise CannotStart(f"the warm runtime refuses: {answer.get('error')}") from None

    def _gone(self) -> None:
        self.pid = self.engine = self.memory_bytes = None

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(WARM_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(self._path))
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                answer: dict[str, Any] = json.loads(await reader.readline())
                return answer
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


def start_plainly(config: NodeConfig, kind: DeviceKind, stage_dir: Path) -> int:
    """Start an interpreter that imports SGLang itself, in a session of its own; its id. Raises CannotStart."""
    python = str(config.engine_python)
    inherited = {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    try:
        return os.posix_spawn(
            python,
            [python, "-m", "engine.stage_main", str(stage_dir)],
            inherited | node_environment(kind),
            setsid=True,
        )
    except OSError as error:
        raise CannotStart(
            f"cannot run {python}: {error.strerror}. Install the engine environment, or set engine_python in the "
            "node's configuration"
        ) from error
