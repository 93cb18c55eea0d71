"""A noded without engines: speaks the API of docs/interfaces.md, section 7, over a unix socket; stages live by script.

Unless told otherwise a stage is ready as soon as it has both its effects, and gone as soon as it is stopped.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections import deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from engine.client import BadEffect, StaleVersion

MEMORY_BYTES = 10**9
LINK_BPS = 1000
"""So slow that the small model of the tests is worth splitting over two nodes."""


class FakeNoded:
    """`lives` scripts the stages to come, one word a launch: "ready" (the default), "hold" or "fail".

    `probe_answer` is what came of the probe of each ready first rank; None: nothing yet.
    """

    def __init__(self, name: str, socket_path: Path | None = None, *, first_port: int = 31000) -> None:
        self.name = name
        self.lives: deque[str] = deque()
        self.effects: list[dict[str, Any]] = []
        self.stale: list[dict[str, Any]] = []
        self.probe_answer: dict[str, Any] | None = {"ok": True, "ms": 5}
        self.refusal: str | None = None
        self.slow_stop = False
        self.boot_id = f"boot-{name}"
        self.seq = 1
        self.digests: list[str] = []
        self._stages: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, int] = {}
        self._stopped: set[str] = set()
        self.ports = [first_port, first_port + 3]
        self._path = socket_path
        self._server: _Server | None = None
        self._changed = threading.Condition()

    # --- its life as a process ------------------------------------------------------------------------------------

    def start(self) -> FakeNoded:
        """Listen; what was known before a `stop` is known again, as noded's records make it."""
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = _Server(str(self._path), self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Be away: nobody answers at the socket."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            assert self._path is not None
            self._path.unlink(missing_ok=True)
            self._server = None
        with self._changed:
            self._changed.notify_all()

    # --- what it is asked -----------------------------------------------------------------------------------------

    def apply(self, effect: dict[str, Any]) -> None:
        """Carry out an effect. Raises StaleVersion or BadEffect, as the client does."""
        with self._changed:
            known = self._versions.get(effect["group_id"], 0)
            if effect["version"] < known or (effect["kind"] != "stop" and effect["group_id"] in self._stopped):
                self.stale.append(effect)
                raise StaleVersion(f"group {effect['group_id']} is at version {known}, not {effect['version']}")
            if self.refusal is not None and effect["kind"] == "launch":
                raise BadEffect(self.refusal)
            self._versions[effect["group_id"]] = effect["version"]
            self.effects.append(effect)
            getattr(self, f"_{effect['kind']}")(effect)
            self._touch()

    def report(self) -> dict[str, Any]:
        """The full state."""
        with self._changed:
            return {
                "v": 1,
                "node": self.name,
                "boot_id": self.boot_id,
                "seq": self.seq,
                "at_ms": _now_ms(),
                "devices": [{"index": 0, "kind": "cpu", "name": "fake", "memory_bytes": MEMORY_BYTES, "cores": [0]}],
                "address": "127.0.0.1",
                "ports": self.ports,
                "link_bps": LINK_BPS,
                "store": {"bytes": 0, "limit_bytes": 10**9, "digests": list(self.digests)},
                "warm": {"ready": True, "pid": 1, "engine": "fake", "memory_bytes": 1},
                "stages": [
                    {key: value for key, value in stage.items() if not key.startswith("_")}
                    | {"probe": self._probe(stage)}
                    for stage in self._stages.values()
                ],
            }

    def events(self, after: int, wait_s: float) -> dict[str, Any]:
        """The full state as soon as `seq` is above `after`."""
        with self._changed:
            self._changed.wait_for(lambda: self.seq > after or self._server is None, wait_s)
        return self.report()

    # --- what a test does to it -----------------------------------------------------------------------------------

    def stages(self, *states: str) -> list[dict[str, Any]]:
        """Its stages, in these states (all when none is given)."""
        with self._changed:
            return [dict(stage) for stage in self._stages.values() if not states or stage["state"] in states]

    def set_state(self, state: str, *, reason: str | None = None, only: Iterable[str] = ()) -> None:
        """Every stage that has not ended (or of the groups `only`) is in this state now."""
        wanted = set(only)
        with self._changed:
            for stage in self._stages.values():
                if stage["state"] not in ("gone", "failed") and (not wanted or stage["group_id"] in wanted):
                    self._set(stage, state, reason)
            self._touch()

    def progress(self, *, fetched: int, total: int = 1000) -> None:
        """So many bytes of every stage have landed."""
        with self._changed:
            for stage in self._stages.values():
                stage.update(bytes_total=total, bytes_to_fetch=total, bytes_fetched=fetched)
                stage["marks"].setdefault("first_byte", _now_ms())
            self.digests.append(f"{fetched:064x}")
            self._touch()

    def touch(self) -> None:
        """Something changed: the state is reported anew."""
        with self._changed:
            self._touch()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _prefetch(self, effect: dict[str, Any]) -> None:
        stage = self._stage(effect)
        size = sum(tensor["end"] - tensor["begin"] for tensor in effect["tensors"])
        stage.update(bytes_total=size, bytes_fetched=size, verified=True, _prefetched=True)
        stage["marks"] |= {"prefetch_start": _now_ms(), "prefetch_end": _now_ms()}
        self._live(stage)

    def _launch(self, effect: dict[str, Any]) -> None:
        stage = self._stage(effect)
        stage.update(port=effect["port"], url=f"http://127.0.0.1:{effect['port']}", pids=[1], _launched=True)
        stage["_rank"] = effect["rank"]
        stage["_life"] = self.lives.popleft() if self.lives else "ready"
        stage["marks"] |= {"fork": _now_ms()}
        self._live(stage)

    def _stop(self, effect: dict[str, Any]) -> None:
        self._stopped.add(effect["group_id"])
        for stage in self._stages.values():
            if stage["group_id"] == effect["group_id"] and stage["state"] not in ("gone", "failed"):
                self._set(stage, "stopping" if self.slow_stop else "gone", None)

    def _rate(self, effect: dict[str, Any]) -> None:
        return

    def _stage(self, effect: dict[str, Any]) -> dict[str, Any]:
        return self._stages.setdefault(
            effect["stage_id"],
            {
                "stage_id": effect["stage_id"],
                "group_id": effect["group_id"],
                "version": effect["version"],
                "state": "fetching",
                "reason": None,
                "pids": [],
                "port": None,
                "url": None,
                "bytes_total": 0,
                "bytes_fetched": 0,
                "verified": False,
                "marks": {"queued": _now_ms()},
            },
        )

    def _live(self, stage: dict[str, Any]) -> None:
        if not (stage.get("_prefetched") and stage.get("_launched")):
            return
        match stage["_life"]:
            case "ready":
                self._set(stage, "ready", None)
                stage["marks"]["ready"] = _now_ms()
            case "hold":
                self._set(stage, "loading", None)
            case "fail":
                self._set(stage, "failed", "scripted to fail")

    def _probe(self, stage: dict[str, Any]) -> dict[str, Any] | None:
        return self.probe_answer if stage["state"] == "ready" and stage["_rank"] == 0 else None

    def _set(self, stage: dict[str, Any], state: str, reason: str | None) -> None:
        stage["state"], stage["reason"] = state, reason
        if state in ("gone", "failed"):
            stage.update(pids=[], url=None)

    def _touch(self) -> None:
        self.seq += 1
        self._changed.notify_all()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, noded: FakeNoded) -> None:
        self.noded = noded
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/v1/report":
            self._answer(200, self.server.noded.report())
        elif url.path == "/v1/events":
            query = parse_qs(url.query)
            report = self.server.noded.events(int(query["after"][0]), float(query["wait_s"][0]))
            self._answer(200, report)
        else:
            self._refuse(404, f"no such path: {url.path}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if self.path == "/v1/apply":
                self.server.noded.apply(body)
                self._answer(202, {"v": 1, "ok": True})
            else:
                self._refuse(404, f"no such path: {self.path}")
        except StaleVersion as stale:
            self._refuse(409, str(stale))
        except BadEffect as bad:
            self._refuse(422, str(bad))

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"v": 1, "error": {"message": message}})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            # The caller was killed meanwhile, which is what some tests do.
            self.close_connection = True
