"""Client of a node's noded, for the node worker, the CLI and tests. Blocking, thread-safe, standard library only."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

CALL_TIMEOUT_S = 10.0


class NodedError(Exception):
    """noded did not do what it was asked to."""


class NodedUnavailable(NodedError):
    """noded does not answer; ask again later. Nothing is known about whether the call took effect."""


class StaleVersion(NodedError):
    """noded has seen a newer version of this group; the effect must not be repeated."""


class BadEffect(NodedError):
    """noded cannot understand or do this; repeating it does not help."""


class NodedClient:
    """Calls noded at a unix socket, one connection a call."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    @classmethod
    def for_node(cls, home: Path, node: str | None = None) -> NodedClient:
        """The noded of `node` (default: HYDRANT_NODE) on this machine, below HYDRANT_HOME."""
        name = node or os.environ.get("HYDRANT_NODE")
        if not name:
            raise NodedError("which node? Set HYDRANT_NODE to this node's name")
        return cls(home / name / "noded.sock")

    def report(self) -> dict[str, Any]:
        """The node's full state. Raises NodedUnavailable."""
        return self._call("GET", "/v1/report")

    def events(self, after: int, wait_s: float = 25.0) -> dict[str, Any]:
        """The node's full state as soon as its `seq` is above `after`, after `wait_s` seconds in any case."""
        query = urlencode({"after": after, "wait_s": wait_s})
        return self._call("GET", f"/v1/events?{query}", timeout_s=wait_s + CALL_TIMEOUT_S)

    def apply(self, effect: dict[str, Any]) -> None:
        """Hand over an effect. Raises StaleVersion, BadEffect, NodedUnavailable."""
        self._call("POST", "/v1/apply", effect)

    def counters(self, group_id: str, stage_id: str | None = None) -> dict[str, int]:
        """The engine's sums of prompt_tokens, cached_tokens and completion_tokens. BadEffect: no such stage here."""
        query = urlencode({"group_id": group_id} | ({"stage_id": stage_id} if stage_id else {}))
        answer = self._call("GET", f"/v1/counters?{query}")
        return {name: int(answer[name]) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")}

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NodedUnavailable(
                f"noded does not answer at {self._path} ({type(error).__name__}: {error}); is it running?"
            ) from error
        finally:
            connection.close()
        return _answer(status, content)


def _answer(status: int, content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
        message = "" if status < 400 else str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise NodedUnavailable(f"noded answered {status} without an explanation") from error
    if status == 409:
        raise StaleVersion(message)
    if 400 <= status < 500:
        raise BadEffect(message)
    if status >= 500:
        raise NodedUnavailable(message)
    result: dict[str, Any] = answer
    return result


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("noded", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
