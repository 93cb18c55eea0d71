"""The warm runtime: a process that has imported SGLang once, and forks a stage from itself whenever it is asked to.

Protocol, on a unix stream socket, one request a connection, one JSON line each way:

    {"stage_dir": "/..."}   ->   {"pid": 123}   or   {"error": "..."}
    {"ping": true}          ->   {"pid": <own>, "engine": "sglang 0.5.23", "memory_bytes": <own, after the import>}

It never starts a thread: a fork keeps only the thread that forked. The stages outlive it. When what it has imported is
no longer what is installed, it refuses and ends, to be started anew.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from engine.failpoints import reach
from engine.runtime import stage
from engine.runtime.imports import engine_version, import_engine
from engine.runtime.installed import Installed, engine_files

REQUEST_TIMEOUT_S = 5.0
"""A client sends its one line at once; a stuck one must not block the others."""

MAX_REQUEST_BYTES = 16 * 1024


class Stopped(Exception):
    """The runtime was asked to end."""


class Outdated(Exception):
    """What was imported is not what is installed now; the message names a file."""


class TooLarge(Exception):
    """The imported engine takes more memory than it may; the message says how much, and what to do."""


def serve(socket_path: Path, memory_limit: int | None = None) -> None:
    """Import SGLang, then fork stages until SIGTERM or SIGINT. The socket appears when the import is done.

    `memory_limit` is bytes. Raises TooLarge after the import, and Outdated when it is to be started anew.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # The kernel reaps ended stages; the node daemon watches them by itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    installed = Installed(engine_files())
    import_engine()
    # What was imported is never garbage: collecting it would only copy shared pages in every stage.
    gc.collect()
    gc.freeze()
    memory_bytes = own_memory()
    if memory_limit is not None and memory_bytes > memory_limit:
        raise TooLarge(
            f"the imported engine takes {memory_bytes / 1e9:.2f} GB and may take {memory_limit / 1e9:.2f}: raise "
            "warm_memory_gb in the node's configuration, or set warm = false"
        )
    about = {"pid": os.getpid(), "engine": engine_version(), "memory_bytes": memory_bytes}
    with listen(socket_path) as listener:
        inode = socket_path.stat().st_ino
        print(f"warm: {engine_version()} is imported, forking stages at {socket_path}", flush=True)
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    answer_one(listener, connection, about, installed)
        except Stopped:
            print("warm: stopped", flush=True)
        finally:
            # A successor may have replaced it already.
            if socket_path.exists() and socket_path.stat().st_ino == inode:
                socket_path.unlink(missing_ok=True)


def listen(socket_path: Path) -> socket.socket:
    """A listening unix socket at `socket_path`, mode 0600, replacing what a killed runtime left there."""
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = socket_path.with_name(f".{socket_path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener.bind(str(fresh))
    fresh.chmod(0o600)
    listener.listen(16)
    # Renamed into place only now: whoever sees it can connect.
    fresh.rename(socket_path)
    return listener


def own_memory() -> int:
    """Bytes of this process' memory: what is its alone, and its proportional share of what others use too."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def answer_one(listener: socket.socket, connection: socket.socket, about: dict[str, Any], installed: Installed) -> None:
    """Serve one request; `about` answers a ping. A bad one is answered with its error and harms nobody else.

    Raises Outdated when it has refused because what is `installed` has changed.
    """
    connection.settimeout(REQUEST_TIMEOUT_S)
    changed = installed.changed()
    try:
        request = read_request(connection)
        if changed is not None:
            answer: dict[str, Any] = {"error": f"{changed} has changed since it was imported"}
        elif "ping" in request:
            answer = about
        else:
            answer = {"pid": fork_stage(Path(request["stage_dir"]), (listener, connection))}
    except Stopped:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    try:
        connection.sendall(json.dumps(answer).encode() + b"\n")
    except OSError as error:
        print(f"warm: the client left before its answer: {error}", file=sys.stderr, flush=True)
    if changed is not None:
        raise Outdated(f"{changed} has changed since it was imported")


def read_request(connection: socket.socket) -> dict[str, Any]:
    """The request's JSON object. Raises ValueError when it is none or too long, TimeoutError when it does not come."""
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(4096)
        if not part or len(received) + len(part) > MAX_REQUEST_BYTES:
            raise ValueError("expected one JSON line")
        received += part
    request = json.loads(received)
    if not isinstance(request, dict):
        raise ValueError("expected a JSON object")
    return request


def fork_stage(stage_dir: Path, close_in_child: tuple[socket.socket, ...]) -> int:
    """Fork; the child becomes the stage of `stage_dir` and never returns. The child's pid."""
    if not (stage_dir / stage.STAGE_FILE).is_file():
        raise ValueError(f"{stage_dir} has no {stage.STAGE_FILE}")
    pid = os.fork()
    if pid == 0:
        try:
            for inherited in close_in_child:
                inherited.close()
            stage.run_forked(stage_dir)
        except BaseException:  # noqa: BLE001 - nothing of the child may reach the parent's loop
            traceback.print_exc()
        finally:
            os._exit(1)
    reach("warm.forked")
    return pid


def _stop(number: int, frame: object) -> None:
    raise Stopped
