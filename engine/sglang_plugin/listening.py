"""Waiting for a port that another process or thread is about to open."""

from __future__ import annotations

import socket
import time

LOOK_EVERY_S = 0.01


def wait_until_listening(host: str, port: int, within_s: float) -> None:
    """Return when (host, port) accepts connections. Raises TimeoutError after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{host}:{port} did not start to listen within {within_s:.0f} s") from error
            time.sleep(LOOK_EVERY_S)
