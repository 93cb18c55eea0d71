"""noded's HTTP API on its unix socket (docs/interfaces.md, section 7)."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from engine.noded import worker
from engine.noded.effects import EffectError
from engine.noded.node import Node
from engine.noded.record import StaleEffect
from engine.noded.stage import Stage
from engine.weights.spec import SpecError

MAX_BODY_BYTES = 64 * 1024 * 1024
"""A prefetch names every tensor of a stage, a few hundred bytes each."""

MAX_WAIT_S = 60.0


def make_app(node: Node) -> web.Application:
    """The application that serves `node`."""
    api = _Api(node)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_explain])
    app.add_routes(
        [
            web.get("/v1/report", api.report),
            web.get("/v1/events", api.events),
            web.post("/v1/apply", api.apply),
            web.get("/v1/counters", api.counters),
        ]
    )
    app.cleanup_ctx.append(api.session)
    return app


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@web.middleware
async def _explain(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except _Refused as refused:
        return _error(refused.status, refused.code, str(refused))
    except web.HTTPException as error:
        return _error(error.status, "bad_request", error.reason or "bad request")


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"v": 1, "error": {"code": code, "message": message}}, status=status)


class _Api:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._session: aiohttp.ClientSession | None = None

    async def session(self, _app: web.Application) -> Any:
        # Never through a proxy: engines are on this machine.
        async with aiohttp.ClientSession(trust_env=False) as self._session:
            yield

    async def report(self, _request: web.Request) -> web.Response:
        return web.json_response(self._node.report())

    async def events(self, request: web.Request) -> web.Response:
        after = _number(request, "after", 0)
        wait_s = min(_number(request, "wait_s", 25), MAX_WAIT_S)
        await self._node.wait_for_change(int(after), wait_s)
        return web.json_response(self._node.report())

    async def apply(self, request: web.Request) -> web.Response:
        effect = await _body(request)
        try:
            self._node.apply(effect)
        except StaleEffect as error:
            raise _Refused(409, "stale_version", str(error)) from None
        except (EffectError, SpecError) as error:
            raise _Refused(422, "bad_effect", str(error)) from None
        except OSError as error:
            raise _Refused(503, "cannot_record", f"this node cannot record the effect: {error}") from None
        return web.json_response({"v": 1, "ok": True}, status=202)

    async def counters(self, request: web.Request) -> web.Response:
        group_id = request.query.get("group_id", "")
        stage = self._node.serving_stage(group_id, request.query.get("stage_id"))
        if stage is None:
            raise _Refused(404, "unknown_group", f"group {group_id}: no stage here that serves it")
        try:
            counts = await worker.counters(self._client(), self._url(stage), self._launch(stage))
        except worker.WorkerError as error:
            raise _Refused(503, "engine_unavailable", str(error)) from None
        # Our own probes are nobody's usage: without them, the engine's word can be held against the ledger's.
        probed = stage.record.probed
        return web.json_response({"v": 1, **{name: count - probed.get(name, 0) for name, count in counts.items()}})

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the application has not started")
        return self._session

    def _url(self, stage: Stage) -> str:
        return f"http://{self._node.config.address}:{self._launch(stage).port}"

    @staticmethod
    def _launch(stage: Stage) -> Any:
        return stage.launch


async def _body(request: web.Request) -> Any:
    try:
        return await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _Refused(422, "bad_effect", f"the body is not JSON: {error}") from None


def _number(request: web.Request, name: str, default: float) -> float:
    try:
        value = float(request.query.get(name, default))
    except ValueError:
        raise _Refused(422, "bad_request", f"{name}: expected a number") from None
    if not -1e15 < value < 1e15:
        raise _Refused(422, "bad_request", f"{name}: out of range")
    return value


async def serve(app: web.Application, socket_path: Path) -> web.AppRunner:
    """Serve `app` at a unix socket of mode 0600; the runner to clean up. The caller holds the node's lock."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    fresh = socket_path.with_name(f".{socket_path.name}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(fresh))
    fresh.chmod(0o600)
    site = web.SockSite(runner, listener)
    await site.start()
    fresh.rename(socket_path)
    return runner


class SignalSocket(asyncio.DatagramProtocol):
    """Receives the engines' wake-ups (engine.sglang_plugin.signals)."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def datagram_received(self, data: bytes, _address: Any) -> None:
        """A datagram holds a stage id."""
        self._node.supervisor.heard_from(data.decode(errors="replace"))


async def listen_for_signals(node: Node, socket_path: Path) -> asyncio.DatagramTransport:
    """Receive wake-ups at `socket_path`, replacing what a killed noded left there."""
    fresh = socket_path.with_name(f".{socket_path.name}")
    fresh.unlink(missing_ok=True)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    receiver.bind(str(fresh))
    fresh.chmod(0o600)
    transport, _protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: SignalSocket(node), sock=receiver
    )
    fresh.rename(socket_path)
    return transport
