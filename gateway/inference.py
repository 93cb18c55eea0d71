"""One inference request from its arrival to its end: authenticate, admit, have it served, settle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from redis.exceptions import ConnectionError, RedisError, TimeoutError

from gateway.accounting.admission import redis_unavailable
from gateway.accounting.attempts import Account, Attempt
from gateway.accounting.leases import Leases
from gateway.accounting.metering import Metering
from gateway.accounting.scopes import ScopesOfSnapshot
from gateway.body.cost_bound import cost_bound
from gateway.body.parameters import check_ceilings, output_bound
from gateway.body.parsing import Endpoint, InferenceRequest, parse_request
from gateway.call import Call
from gateway.clients.reply import (
    Client,
    ClientGone,
    Receive,
    Reply,
    Scope,
    client_of,
    header_of,
    read_body,
    until_disconnect,
)
from gateway.clock import now_ms
from gateway.errors import invalid_api_key, invalid_request, unavailable
from gateway.failpoints import reach
from gateway.idempotency import Idempotency, Lock, sent_key
from gateway.readmodel.cold_policy import WAIT, ColdPolicy
from gateway.readmodel.snapshot import Key, Model, Snapshot, Tenant
from gateway.settings import Settings
from gateway.tracing import Trace
from gateway.waiting.demand import Demand
from gateway.waiting.places import Places
from gateway.workers.tries import Tries

log = logging.getLogger(__name__)


class Inference:
    """Serves the inference endpoints."""

    def __init__(
        self,
        settings: Settings,
        gateway_id: str,
        snapshot: Callable[[], Snapshot],
        redis_answers: Callable[[], bool],
        leases: Leases,
        metering: Metering,
        places: Places,
        demand: Demand,
        tries: Tries,
        idempotency: Idempotency,
    ) -> None:
        self._settings = settings
        self._gateway_id = gateway_id
        self._snapshot = snapshot
        self._redis_answers = redis_answers
        self._leases = leases
        self._metering = metering
        self._places = places
        self._demand = demand
        self._tries = tries
        self._idempotency = idempotency
        self._scopes = ScopesOfSnapshot()

    async def handle(
        self, scope: Scope, receive: Receive, reply: Reply, endpoint: Endpoint, trace: Trace | None
    ) -> None:
        """Answers one request. Raises `ApiError` for the caller to send, and `ClientGone`."""
        arrived_at_ms = now_ms()
        snapshot = self._snapshot()
        api_key = bearer(scope)
        key, tenant = snapshot.authenticate(api_key, self._settings.key_pepper, arrived_at_ms)
        raw = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_timeout_s)
        request = parse_request(endpoint, raw, key.defaults)
        check_ceilings(request.body, key.ceilings)
        model = snapshot.resolve(request.model, key, request.affinity)
        if model.embedding != (endpoint is Endpoint.EMBEDDINGS):
            does = "makes embeddings; it does not generate" if model.embedding else "generates; it makes no embeddings"
            raise invalid_request(f"The model `{request.model}` {does}.", "model")
        if model.provider is not None and not endpoint.has_providers:
            raise invalid_request(
                f"The model `{request.model}` is a provider's: it does not speak {endpoint.path}.", "model"
            )
        run = partial(self._run, api_key, snapshot, key, tenant, model, request, arrived_at_ms, trace)
        if (sent := sent_key(scope)) is None:
            await run(client_of(scope), reply, None)
        else:
            await self._idempotency.serve(sent, tenant.tenant_id, endpoint, raw, client_of(scope), reply, run)

    async def _run(
        self,
        api_key: str,
        snapshot: Snapshot,
        key: Key,
        tenant: Tenant,
        model: Model,
        request: InferenceRequest,
        arrived_at_ms: int,
        trace: Trace | None,
        client: Client,
        reply: Reply,
        lock: Lock | None,
    ) -> None:
        """From admission to the end. `lock`: by which its Idempotency-Key is kept."""
        lane = request.endpoint.lane(model.lane)
        policy, fallback = self._while_cold(snapshot, model, tenant, request.endpoint)
        max_tokens = output_bound(request, model, key)
        attempt = self._new_attempt(snapshot, request, key, tenant, model, lane, reply.request_id, max_tokens, fallback)
        attempt.lock = lock
        now = time.monotonic()
        call = Call(
            request=request,
            key=key,
            tenant=tenant,
            model=model,
            lane=lane,
            reply=reply,
            arrived_at_ms=arrived_at_ms,
            deadline=now + snapshot.hold.deadline_s,
            ping_at=now + self._settings.first_ping_s,
            max_tokens=max_tokens,
            permit=partial(self._permit, api_key, model.name),
            attempt=attempt,
            trace=trace,
            policy=policy,
            fallback=fallback,
        )
        if trace is not None:
            trace.note(model=model.name, lane=lane, tenant_id=tenant.tenant_id, key_id=key.key_id)
        if model.provider is None:
            self._demand.touched(model.name)
        await self._admit(call)
        # Whatever goes wrong here is not the client's doing, unless it left.
        outcome = "upstream_error"
        try:
            if await until_disconnect(client.gone, self._tries.serve(call)):
                outcome = "client_closed"
        except ClientGone:
            outcome = "client_closed"
            raise
        except asyncio.CancelledError:
            # The gateway stops and the drain time is over.
            self._end(call, "gateway_stopped")
            await reply.fail(unavailable("The gateway is restarting. Try again.", "gateway_restarting"))
            raise
        finally:
            self._end(call, outcome)
            if model.provider is None:
                self._demand.touched(model.name)

    def _while_cold(
        self, snapshot: Snapshot, model: Model, tenant: Tenant, endpoint: Endpoint
    ) -> tuple[ColdPolicy, Model | None]:
        """What becomes of a request if the model is cold now, and who answers instead: a live model, else it waits."""
        policy = snapshot.cold_policy(model.name, tenant.tenant_id)
        if model.provider is not None or not self._places.is_cold(model.name):
            return WAIT, None
        if policy.mode != "fallback":
            return policy, None
        fallback = snapshot.models.get(policy.fallback or "")
        # Never for vectors: those of two models have nothing in common.
        if fallback is None or not fallback.enabled or model.embedding or fallback.embedding:
            return WAIT, None
        return (policy, fallback) if fallback.provider is not None and endpoint.has_providers else (WAIT, None)

    def _permit(self, api_key: str, name: str) -> None:
        """Raises `ApiError` when this key may not use this model (any more)."""
        snapshot = self._snapshot()
        key, _ = snapshot.authenticate(api_key, self._settings.key_pepper, now_ms())
        snapshot.resolve(name, key)

    def _new_attempt(
        self,
        snapshot: Snapshot,
        request: InferenceRequest,
        key: Key,
        tenant: Tenant,
        model: Model,
        lane: str,
        request_id: str,
        max_tokens: int,
        fallback: Model | None,
    ) -> Attempt:
        """The first attempt, with the most that the request can cost as its reservation, whichever model answers it."""
        tokens, nusd = cost_bound(request, model, max_tokens)
        if fallback is not None:
            its_tokens, its_nusd = cost_bound(request, fallback, output_bound(request, fallback, key))
            tokens, nusd = max(tokens, its_tokens), max(nusd, its_nusd)
        account = Account(
            request_id=request_id,
            tenant_id=tenant.tenant_id,
            key_id=key.key_id,
            model=model.name,
            model_id=model.model_id,
            price=model.price,
            lane=lane,
            endpoint=request.endpoint.path,
            stream=request.stream,
            gateway_id=self._gateway_id,
            scopes=self._scopes.find(snapshot, tenant, key, model),
        )
        return Attempt(
            account=account,
            reserved_nusd=nusd,
            counted_tokens=tokens,
            started_at_ms=now_ms(),
        )

    async def _admit(self, call: Call) -> None:
        attempt = call.open_attempt
        if not self._redis_answers():
            self._admit_without_redis(attempt, "its connection is lost")
            return
        try:
            admitted = await self._leases.admit(attempt)
        except (ConnectionError, TimeoutError) as error:
            # Redis may have done it and only its answer was lost: that attempt is released, and another one goes on.
            self._metering.release(attempt)
            call.attempt = attempt.successor()
            self._admit_without_redis(call.attempt, type(error).__name__)
            return
        except RedisError as error:
            self._metering.release(attempt)
            raise redis_unavailable(type(error).__name__) from error
        except asyncio.CancelledError:
            self._metering.release(attempt)
            raise
        self._metering.open(attempt)
        reach("gateway.admitted")
        call.reply.headers.extend(admitted.headers())

    def _admit_without_redis(self, attempt: Attempt, reason: str) -> None:
        """Raises `ApiError` 503 when the operator does not allow it, or no more of it."""
        if not self._metering.open_without_redis(attempt):
            raise redis_unavailable(reason)

    def _end(self, call: Call, outcome: str) -> None:
        """Ends the open attempt, if any: with an event once a worker had it, else by giving everything back."""
        attempt, call.attempt = call.attempt, None
        if attempt is None:
            return
        if attempt.dispatched:
            self._metering.finish(attempt, outcome)
        else:
            self._metering.release(attempt)


def bearer(scope: Scope) -> str:
    """The API key of a request, from `Authorization: Bearer` or Anthropic's `x-api-key`. Raises `ApiError` 401."""
    sent = header_of(scope, b"authorization")
    if sent is not None and sent[:7].lower() == b"bearer ":
        return sent[7:].strip().decode("latin-1")
    sent = header_of(scope, b"x-api-key")
    if sent is not None:
        return sent.strip().decode("latin-1")
    raise invalid_api_key()
