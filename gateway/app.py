"""The ASGI application: wires the parts together, picks the endpoint, and turns every failure into an answer."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable

import orjson
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from structlog.contextvars import bind_contextvars

from gateway import metrics
from gateway.accounting.admission import Admission
from gateway.accounting.allowance import Allowance
from gateway.accounting.leases import Leases
from gateway.accounting.metering import Metering
from gateway.accounting.scripts import Scripts
from gateway.accounting.spool import Spool
from gateway.body.parsing import Endpoint
from gateway.celery_message import CeleryHints
from gateway.clients.reply import ClientGone, Receive, Reply, Scope, Send, client_of, header_of
from gateway.clock import now_ms
from gateway.draining import until_none
from gateway.errors import (
    ApiError,
    at_the_root,
    internal,
    model_not_found,
    response_not_stored,
    unavailable,
    unknown_path,
    wrong_method,
)
from gateway.forward import Forward, is_forwarded
from gateway.idempotency import Idempotency
from gateway.ids import new_id, request_id
from gateway.inference import Inference, bearer
from gateway.memory import keep_freed_pages, spare_the_collector
from gateway.openapi import openapi_json
from gateway.readmodel.readmodel import ReadModel
from gateway.readmodel.routes import RouteTable
from gateway.readmodel.snapshot import HoldLimits, Model, Snapshot
from gateway.settings import Settings, load_settings
from gateway.tracing import Trace, Tracing
from gateway.waiting.demand import Demand
from gateway.waiting.hold import Hold
from gateway.waiting.places import Places
from gateway.workers.proxy import Proxy
from gateway.workers.tries import Tries
from gateway.workers.upstream import Upstream
from registry.logs import configure_logging

log = logging.getLogger(__name__)
access = structlog.get_logger("gateway.access")

REDIS_TIMEOUT_S = 2.0
REDIS_CONNECTIONS = 64
FAREWELL_SECONDS = 3.0
CANCEL_SECONDS = 1.0
_NO_SNAPSHOT_LIMITS = HoldLimits(0, 0, 0.0)
_INFERENCE = {endpoint.path: endpoint for endpoint in Endpoint}


class Gateway:
    """One gateway process. `on_broken` is called when a background task has died: the process cannot go on."""

    def __init__(self, settings: Settings, on_broken: Callable[[], None] = lambda: None) -> None:
        self.gateway_id = f"{new_id('gw_')}-{os.getpid()}"
        self._settings = settings
        self._tracing = Tracing()
        # Every command has a bound: a silent Redis is an unreachable Redis.
        pool = BlockingConnectionPool.from_url(
            settings.redis_url,
            max_connections=REDIS_CONNECTIONS,
            timeout=REDIS_TIMEOUT_S,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
        )
        self._redis = Redis.from_pool(pool)
        self._scripts = Scripts(self._redis)
        self._tasks: list[asyncio.Task[None]] = []
        self._broken = False
        self._on_broken = on_broken
        self._running = 0
        self._routes = RouteTable(time.monotonic)
        self._hold = Hold(self._routes, self._hold_limits)
        self._read_model = ReadModel(self._redis, self._routes, self._hold.wake_all, self._hold.recheck)
        self._upstream = Upstream(settings)
        self._forward = Forward(settings)
        admission = Admission(self._redis, self._scripts)
        hints = CeleryHints(self._redis)
        self._spool = Spool(settings.spool_dir, self.gateway_id)
        self._metering = Metering(admission, self._spool, hints, Allowance(settings.allowance))
        self._leases = Leases(admission, self.gateway_id, self._metering.give_back)
        self._demand = Demand(self._redis, self.gateway_id, self._routes, self._hold, self._metering, hints)
        self._idempotency = Idempotency(settings.stall_timeout_s, settings.max_answer_bytes)
        places = Places(settings, self._hold, self._demand)
        self._inference = Inference(
            settings,
            self.gateway_id,
            self._snapshot,
            lambda: self._read_model.connected,
            self._leases,
            self._metering,
            places,
            self._demand,
            Tries(self._metering, places, Proxy(self._metering, self._upstream)),
            self._idempotency,
        )

    @property
    def held(self) -> int:
        """Requests that wait for a worker."""
        return self._hold.count

    async def start(self) -> None:
        """Opens the connection pool, takes over old spools, and starts the background tasks."""
        await self._forward.open()
        self._metering.adopt()
        for work in (
            self._read_model.follow_forever(),
            self._metering.publish_forever(),
            self._demand.pulse_forever(),
        ):
            task = asyncio.create_task(work)
            task.add_done_callback(self._watch)
            self._tasks.append(task)

    def _watch(self, task: asyncio.Task[None]) -> None:
        """Background tasks never end by themselves: without one of them keys, routes or bills would stand still."""
        if task.cancelled():
            return
        log.critical("a background task has died; this gateway stops", exc_info=task.exception())
        self._broken = True
        self._on_broken()

    async def stop(self) -> None:
        """Publishes what is left (the spool keeps what Redis does not take), and closes everything."""
        # uvicorn has just cancelled the requests that outlived the drain time: each still settles its attempt.
        await until_none(lambda: self._running, FAREWELL_SECONDS)
        await self._idempotency.stop(FAREWELL_SECONDS)
        self._leases.close()
        await self._metering.drain(FAREWELL_SECONDS)
        running = set(self._tasks)
        while running:
            for task in running:
                task.cancel()
            # Again, because Python 3.11's asyncio.wait_for, which redis-py uses, may swallow a cancellation that comes
            # in the moment in which what it waits for is done.
            _, running = await asyncio.wait(running, timeout=CANCEL_SECONDS)
        try:
            await self._metering.confirm()
            await self._demand.farewell()
        except RedisError as error:
            log.warning("could not say farewell to Redis (%s)", type(error).__name__)
        self._spool.close()
        self._upstream.close()
        await self._forward.close()
        metrics.flush()
        await self._scripts.aclose()
        await self._redis.aclose()
        await asyncio.to_thread(self._tracing.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            self._running += 1
            try:
                await self._http(scope, receive)
            finally:
                self._running -= 1
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive) -> None:
        path = scope["path"]
        endpoint = _INFERENCE.get(path)
        reply = Reply(
            client_of(scope),
            request_id(header_of(scope, b"x-request-id")),
            self._settings.stall_timeout_s,
            anthropic=endpoint is Endpoint.MESSAGES or path.startswith(f"{Endpoint.MESSAGES.path}/"),
        )
        bind_contextvars(request_id=reply.request_id)  # on every line that is logged for it
        trace = self._tracing.begin(scope, reply.request_id) if endpoint else None
        try:
            await self._answer(scope, receive, reply, endpoint, trace)
        except ClientGone:
            return
        except asyncio.CancelledError:
            # The drain time is over. The task ends here in any case, and the server would log a failure of ours.
            log.warning("the gateway stops; this request was cut")
        finally:
            if trace is not None:
                trace.end(reply.status)
            if reply.started:
                metrics.count(metrics.REQUESTS(endpoint.path if endpoint else "other", reply.status))
            if self._settings.access_log and endpoint is not None:
                access.info("answered", endpoint=endpoint.path, status=reply.status, ms=reply.elapsed_ms)

    async def _answer(
        self, scope: Scope, receive: Receive, reply: Reply, endpoint: Endpoint | None, trace: Trace | None
    ) -> None:
        """Answers, if only with an error. Raises `ClientGone`."""
        path = scope["path"]
        try:
            if endpoint is not None:
                if scope["method"] != "POST":
                    raise wrong_method(scope["method"], path, "POST")
                await self._inference.handle(scope, receive, reply, endpoint, trace)
            elif is_forwarded(path):
                await self._forward.handle(scope, receive, reply)
            else:
                await self._look_up(scope, reply, path)
        except ClientGone:
            raise
        except ApiError as error:
            await reply.fail(error)
        except Exception:
            log.exception("the request failed")
            await reply.fail(internal(reply.request_id))

    async def _look_up(self, scope: Scope, reply: Reply, path: str) -> None:
        """The endpoints that only read."""
        if path.startswith("/v1/responses/"):
            raise response_not_stored(path)
        if path == "/":
            raise at_the_root(self._settings.admin_address)
        known = path in ("/v1/models", "/health", "/ready", "/metrics", "/openapi.json")
        if not known and not path.startswith("/v1/models/"):
            raise unknown_path(path)
        if scope["method"] not in ("GET", "HEAD"):
            raise wrong_method(scope["method"], path, "GET")
        if path == "/health":
            await reply.json(200, b'{"status":"ok"}')
        elif path == "/ready":
            self._snapshot()
            if self._broken:
                raise unavailable("A background task has died; the gateway restarts.", "gateway_restarting")
            if not self._read_model.connected and self._settings.allowance is None:
                raise unavailable("Redis does not answer.", "redis_unavailable")
            await reply.json(200, b'{"status":"ready"}')
        elif path == "/metrics":
            await reply.whole(200, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")], metrics.render())
        elif path == "/openapi.json":
            await reply.json(200, openapi_json())
        else:
            await self._models(scope, reply, path)

    async def _models(self, scope: Scope, reply: Reply, path: str) -> None:
        snapshot = self._snapshot()
        key, _ = snapshot.authenticate(bearer(scope), self._settings.key_pepper, now_ms())
        visible = snapshot.visible_models(key)
        if path == "/v1/models":
            body = {"object": "list", "data": [_model_object(name, model) for name, model in visible]}
            await reply.json(200, orjson.dumps(body))
            return
        wanted = path.removeprefix("/v1/models/")
        for name, model in visible:
            if name == wanted:
                await reply.json(200, orjson.dumps(_model_object(name, model)))
                return
        raise model_not_found(wanted)

    def _snapshot(self) -> Snapshot:
        """The read model. Raises `ApiError` 503 before the first one was read."""
        if self._read_model.snapshot is None:
            raise unavailable("The gateway has not read its keys and models from Redis yet.", "not_ready")
        return self._read_model.snapshot

    def _hold_limits(self) -> HoldLimits:
        snapshot = self._read_model.snapshot
        return _NO_SNAPSHOT_LIMITS if snapshot is None else snapshot.hold


def _model_object(name: str, model: Model) -> dict[str, object]:
    return {"id": name, "object": "model", "created": model.created_at_ms // 1000, "owned_by": "hydrant"}


def create_app() -> Gateway:
    """uvicorn's factory: one gateway from the environment."""
    configure_logging()  # of several worker processes, each has its own
    spare_the_collector()
    keep_freed_pages()
    # The supervisor starts it again; running answers end first.
    return Gateway(load_settings(), lambda: signal.raise_signal(signal.SIGTERM))
