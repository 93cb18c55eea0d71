"""The warm runtime: a process that has imported SGLang once, and forks a stage from itself whenever it is asked to.

Protocol, on a unix stream socket, one request a connection, one JSON line each way:

    {"stage_dir": "/..."}   ->   {"pid": 123}   or   {"error": "..."}
    {"ping": true}          ->   {"pid": <own>, "engine": "sglang 0.5.23"}

It never starts a thread: a fork keeps only the thread that forked. The stages outlive it.
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

REQUEST_TIMEOUT_S = 5.0
"""A client sends its one line at once; a stuck one must not block the others."""

MAX_REQUEST_BYTES = 16 * 1024


class Stopped(Exception):
    """The runtime was asked to end."""


def serve(socket_path: Path) -> None:
    """Import SGLang, then fork stages until SIGTERM or SIGINT. The socket appears when the import is done."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # The kernel reaps ended stages; the node daemon watches them by itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    import_engine()
    # What was imported is never garbage: collecting it would only copy shared pages in every stage.
    gc.collect()
    gc.freeze()
    with listen(socket_path) as listener:
        inode = socket_path.stat().st_ino
        print(f"warm: {engine_version()} is imported, forking stages at {socket_path}", flush=True)
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    answer_one(listener, connection)
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


def answer_one(listener: socket.socket, connection: socket.socket) -> None:
    """Serve one request. A bad one is answered with its error and harms nobody else."""
    connection.settimeout(REQUEST_TIMEOUT_S)
    try:
        request = read_request(connection)
        if "ping" in request:
            answer: dict[str, Any] = {"pid": os.getpid(), "engine": engine_version()}
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
