"""One inference request from its arrival to its end: authenticate, admit, hold, proxy, settle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from redis.exceptions import RedisError

from gateway import metrics
from gateway.admission import Admission, redis_unavailable
from gateway.attempts import Account, Attempt, Usage
from gateway.clock import now_ms
from gateway.demand import Demand
from gateway.errors import (
    ApiError,
    hold_timed_out,
    invalid_api_key,
    invalid_request,
    unavailable,
    worker_failed,
)
from gateway.failpoints import reach
from gateway.hold import Hold, Waiter
from gateway.metering import Metering
from gateway.parsing import Endpoint, InferenceRequest, parse_request
from gateway.reply import Receive, Reply, Scope, read_body, until_disconnect
from gateway.routes import Route
from gateway.settings import Settings
from gateway.snapshot import Key, Model, Snapshot, Tenant
from gateway.stream import AnthropicStream, OpenAIStream, read_usage
from gateway.upstream import Upstream, UpstreamFailed, upstream_body

log = logging.getLogger(__name__)

# How often one request is tried on workers that took it and then failed. A worker that cannot even be reached does not
# count: the hold's deadline bounds those.
MAX_TRIES = 3
USAGE_HEADER = "x-hydrant-usage"
COLD_START_HEADER = b"x-hydrant-cold-start"


@dataclass(slots=True)
class Call:
    """A request that was admitted. `attempt` is the open one, None once ended; `delivered` says events were sent."""

    request: InferenceRequest
    key: Key
    tenant: Tenant
    model: Model
    lane: str
    reply: Reply
    arrived_at_ms: int
    deadline: float
    attempt: Attempt | None
    delivered: bool = False

    @property
    def open_attempt(self) -> Attempt:
        """The attempt in progress."""
        assert self.attempt is not None
        return self.attempt


class Inference:
    """Serves the inference endpoints."""

    def __init__(
        self,
        settings: Settings,
        gateway_id: str,
        snapshot: Callable[[], Snapshot],
        redis_answers: Callable[[], bool],
        admission: Admission,
        metering: Metering,
        hold: Hold,
        demand: Demand,
        upstream: Upstream,
    ) -> None:
        self._settings = settings
        self._gateway_id = gateway_id
        self._snapshot = snapshot
        self._redis_answers = redis_answers
        self._admission = admission
        self._metering = metering
        self._hold = hold
        self._demand = demand
        self._upstream = upstream

    async def handle(self, scope: Scope, receive: Receive, reply: Reply, endpoint: Endpoint) -> None:
        """Answers one request. Raises `ApiError` for the caller to send, and `ClientGone`."""
        arrived_at_ms = now_ms()
        snapshot = self._snapshot()
        key, tenant = snapshot.authenticate(bearer(scope), self._settings.key_pepper, arrived_at_ms)
        raw = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_timeout_s)
        request = parse_request(endpoint, raw)
        model = snapshot.resolve(request.model, key)
        if model.embedding:
            raise invalid_request(f"The model `{request.model}` makes embeddings; it does not generate.", "model")
        lane = "litellm" if endpoint is Endpoint.MESSAGES else model.lane
        call = Call(
            request=request,
            key=key,
            tenant=tenant,
            model=model,
            lane=lane,
            reply=reply,
            arrived_at_ms=arrived_at_ms,
            deadline=time.monotonic() + snapshot.hold.deadline_s,
            attempt=self._new_attempt(request, key, tenant, model, lane, reply.request_id),
        )
        self._demand.touched(model.name)
        await self._admit(call)
        outcome = "client_closed"
        try:
            await until_disconnect(receive, self._serve(call))
        except ApiError:
            outcome = "upstream_error"
            raise
        except asyncio.CancelledError:
            # The gateway stops and the drain time is over.
            self._end(call, "upstream_error")
            await reply.fail(unavailable("The gateway is restarting. Try again.", "gateway_restarting"))
            raise
        finally:
            self._end(call, outcome)
            self._demand.touched(model.name)

    def _new_attempt(
        self, request: InferenceRequest, key: Key, tenant: Tenant, model: Model, lane: str, request_id: str
    ) -> Attempt:
        """The first attempt, with the most that the request can cost as its reservation."""
        price = model.price
        prompt = request.prompt_bound(model.context_length)
        output = request.choices * request.output_bound(model.context_length, model.default_max_tokens)
        dearest = max(price.input_nusd, price.cached_input_nusd)
        account = Account(
            request_id=request_id,
            tenant_id=tenant.tenant_id,
            key_id=key.key_id,
            model=model.name,
            model_id=model.model_id,
            price=price,
            lane=lane,
            endpoint=request.endpoint.value,
            stream=request.stream,
            gateway_id=self._gateway_id,
        )
        return Attempt(
            account=account,
            reserved_nusd=prompt * dearest + output * price.output_nusd + price.request_nusd,
            counted_tokens=prompt + output,
            started_at_ms=now_ms(),
        )

    async def _admit(self, call: Call) -> None:
        if not self._redis_answers():
            raise redis_unavailable("its connection is lost")
        attempt = call.open_attempt
        admitting = asyncio.ensure_future(self._admission.admit(attempt, call.key, call.tenant))
        try:
            admitted = await asyncio.shield(admitting)
        except RedisError as error:
            self._metering.release(attempt)
            raise redis_unavailable(type(error).__name__) from error
        except asyncio.CancelledError:
            await asyncio.wait({admitting})
            self._metering.release(attempt)
            raise
        self._metering.open(attempt)
        reach("gateway.admitted")
        call.reply.headers.extend(admitted.headers())

    def _end(self, call: Call, outcome: str) -> None:
        """Ends the open attempt, if any: with an event once a worker had it, else by giving everything back."""
        attempt, call.attempt = call.attempt, None
        if attempt is None:
            return
        if attempt.dispatched:
            self._finish(attempt, outcome)
        else:
            self._metering.release(attempt)

    def _finish(self, attempt: Attempt, outcome: str) -> asyncio.Future[None]:
        model = attempt.account.model
        metrics.ATTEMPTS.labels(model, outcome).inc()
        metrics.TOKENS.labels(model, "prompt").inc(attempt.usage.prompt_tokens)
        metrics.TOKENS.labels(model, "completion").inc(attempt.usage.completion_tokens)
        return self._metering.finish(attempt, outcome)

    async def _serve(self, call: Call) -> None:
        """Tries workers until one has answered. Nothing is tried again once the client has a part of an answer."""
        tries = 0
        while True:
            route = await self._route_for(call)
            try:
                attempt = call.open_attempt
                attempt.group_id, attempt.cold_start_id = route.group_id, route.cold_start_id
                reach("gateway.routed")
                if call.request.stream:
                    await self._proxy_stream(call, route)
                else:
                    await self._proxy_plain(call, route)
                return
            except ApiError:
                # The worker refused the request itself: nothing ran, nothing is owed.
                call.open_attempt.group_id = None
                raise
            except UpstreamFailed as failure:
                log.warning("worker %s failed request %s: %s", route.group_id, call.reply.request_id, failure.reason)
                if failure.lost:
                    self._hold.mark_bad(route)
                if call.delivered:
                    self._end(call, "upstream_error")
                    await call.reply.fail(worker_failed("The worker stopped in the middle of this answer."))
                    return
                tries += failure.ran
                if tries >= MAX_TRIES:
                    raise worker_failed("The workers that took this request failed. Try again.") from failure
                await self._next_attempt(call)
            finally:
                self._hold.give_back(route)

    async def _next_attempt(self, call: Call) -> None:
        try:
            call.attempt = await self._metering.replace(call.open_attempt)
        except RedisError as error:
            raise redis_unavailable(type(error).__name__) from error
        if call.attempt is None:
            raise unavailable("This request's reservation was lost. Try again.", "reservation_lost")

    async def _route_for(self, call: Call) -> Route:
        """A worker's place: at once, or after waiting in line. Raises `ApiError` when the wait ends without one."""
        model = call.model.name
        route = self._hold.take(model)
        if route is not None:
            return route
        waiter = Waiter(model, call.tenant.tenant_id, call.request.size_bytes, now_ms())
        is_first = model not in self._hold.models()
        self._hold.enter(waiter)
        began = time.monotonic()
        if is_first:
            self._demand.first_waiter(model)
        try:
            await self._wait(call, waiter)
            route = waiter.claim()
        finally:
            self._hold.leave(waiter)
            waited = time.monotonic() - began
            call.open_attempt.held_ms += int(waited * 1000)
            metrics.HELD_SECONDS.labels(model).observe(waited)
        if route.cold_start_id is not None and not call.reply.started:
            note = f"{route.cold_start_id}; {call.open_attempt.held_ms}"
            # A request that is tried again may have been held before.
            kept = [header for header in call.reply.headers if header[0] != COLD_START_HEADER]
            call.reply.headers = [*kept, (COLD_START_HEADER, note.encode())]
        return route

    async def _wait(self, call: Call, waiter: Waiter) -> None:
        """Until the waiter is ready; sends comments to a stream meanwhile. Raises `ApiError` 504 at the deadline."""
        pings = call.request.stream and call.key.sse_ping
        ping_at = time.monotonic() + self._settings.first_ping_s
        while not waiter.ready.done():
            now = time.monotonic()
            if now >= call.deadline:
                waited_s = (now_ms() - call.arrived_at_ms) / 1000
                raise hold_timed_out(call.request.model, waited_s)
            if pings and now >= ping_at:
                await call.reply.ping()
                ping_at = now + self._settings.ping_every_s
            until = min(call.deadline, ping_at) if pings else call.deadline
            await asyncio.wait({waiter.ready}, timeout=max(0.0, until - now))

    async def _proxy_plain(self, call: Call, route: Route) -> None:
        """A whole answer, billed only when the client is still there to get it."""
        body = upstream_body(call.request, call.model, call.tenant)
        async with self._upstream.call(route, call.request.endpoint, call.lane, body) as response:
            answer = await self._upstream.read_whole(response)
            reported = response.headers.get(USAGE_HEADER)
        attempt = call.open_attempt
        self._deliver(call, plain_usage(answer, reported))
        call.attempt = None
        await self._metering.settled(self._finish(attempt, "ok"))
        await call.reply.json(200, answer)

    async def _proxy_stream(self, call: Call, route: Route) -> None:
        """Events as they come. Raises `UpstreamFailed` when they end without a finish reason and the end mark."""
        request = call.request
        reader: OpenAIStream | AnthropicStream
        if request.endpoint is Endpoint.MESSAGES:
            reader = AnthropicStream()
        else:
            reader = OpenAIStream(
                choices=request.choices,
                prompts=request.prompts,
                wants_usage=request.wants_usage,
                wants_running_usage=request.wants_running_usage,
            )
        body = upstream_body(request, call.model, call.tenant)
        last = b""
        async with self._upstream.call(route, request.endpoint, call.lane, body) as response:
            async for data in response.content.iter_any():
                last = reader.feed(data)
                if reader.done:
                    break
                if last:
                    await call.reply.stream(last)
                    call.delivered = True
                    self._deliver(call, reader.usage)
                    reach("gateway.delivered")
                if reader.failed:
                    break
        if not (reader.done and reader.finished):
            refuse_if_at_fault(reader.error, delivered=call.delivered)
            lost = reader.error is None or worker_lost(reader.error)
            raise UpstreamFailed("the stream ended without a finish reason", lost=lost)
        attempt = call.open_attempt
        self._deliver(call, reader.usage)
        call.attempt = None
        await self._metering.settled(self._finish(attempt, "ok"))
        await call.reply.end_stream(last)

    def _deliver(self, call: Call, usage: Usage) -> None:
        attempt = call.open_attempt
        if attempt.first_token_at_ms is None and usage.completion_tokens:
            metrics.FIRST_TOKEN.labels(call.model.name).observe((now_ms() - call.arrived_at_ms) / 1000)
        attempt.deliver(usage)


def bearer(scope: Scope) -> str:
    """The API key of a request, from `Authorization: Bearer` or Anthropic's `x-api-key`. Raises `ApiError` 401."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].strip().decode("latin-1"))
        if name == b"x-api-key":
            return str(value.strip().decode("latin-1"))
    raise invalid_api_key()


def plain_usage(answer: bytes, reported: str | None) -> Usage:
    """The engine's usage of a whole answer: from the hosted process' header, else from the body.

    Raises `UpstreamFailed` for a body that is not a finished answer.
    """
    try:
        document = orjson.loads(answer)
        if reported is not None:
            return read_usage(orjson.loads(reported))
        if any(choice["finish_reason"] in (None, "abort") for choice in document["choices"]):
            raise UpstreamFailed("the answer has no finish reason", lost=False)
        return read_usage(document["usage"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UpstreamFailed("the answer is not a completion", lost=False) from error


def refuse_if_at_fault(error: object, *, delivered: bool) -> None:
    """Raises `ApiError` when the worker reported, before it generated anything, that the request itself is wrong."""
    if delivered or not isinstance(error, dict):
        return
    code, message = error.get("code"), error.get("message")
    if isinstance(code, int) and 400 <= code < 500 and isinstance(message, str):
        raise ApiError(code, message)


def worker_lost(error: object) -> bool:
    """Whether the hosted process says that the worker broke off."""
    return isinstance(error, dict) and error.get("code") == "worker_lost"
