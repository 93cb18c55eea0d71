"""An admitted request is tried on workers, or asked of a provider, until one has answered."""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from gateway.accounting.admission import redis_unavailable
from gateway.accounting.metering import Metering
from gateway.call import Call
from gateway.errors import ApiError, unavailable, worker_failed
from gateway.failpoints import reach
from gateway.readmodel.cold_policy import WAIT
from gateway.readmodel.routes import Route
from gateway.tracing import step
from gateway.waiting.places import Places
from gateway.workers.providers import SERVED_BY_HEADER, Providers
from gateway.workers.proxy import Proxy
from gateway.workers.upstream import UpstreamFailed, as_asked, room_left

log = logging.getLogger(__name__)

# How often one request is tried on workers that took it and then failed. A worker that cannot even be reached does not
# count: the hold's deadline bounds those.
MAX_TRIES = 3


class Tries:
    """See the module."""

    def __init__(self, metering: Metering, places: Places, proxy: Proxy) -> None:
        self._metering = metering
        self._places = places
        self._proxy = proxy
        self._providers = Providers(proxy, places, self._next_attempt)

    async def serve(self, call: Call) -> None:
        """Answers a request. Nothing is tried again once the client has a part of an answer. Raises `ApiError`."""
        if call.model.provider is not None:
            call.reply.headers.append((SERVED_BY_HEADER, call.model.name.encode()))
            await self._providers.serve(call)
            return
        tries = 0
        while True:
            route = await self._place(call)
            if route is None:
                return
            lost = False
            try:
                attempt = call.open_attempt
                attempt.group_id, attempt.cold_start_id = route.group_id, route.cold_start_id
                reach("gateway.routed")
                with step(call.trace, "attempt") as traceparent:
                    await self._proxy.run(call, route, traceparent)
                return
            except ApiError as refusal:
                # The worker refused the request itself: nothing ran, nothing is owed.
                call.open_attempt.group_id = None
                if not _shorten(call, refusal):
                    raise as_asked(refusal, call.request.max_tokens, call.max_tokens) from None
                continue
            except UpstreamFailed as error:
                log.warning("worker %s failed: %s", route.group_id, error.reason)
                failure, lost = error, error.lost
            finally:
                self._places.give_back(route, lost=lost)
            if call.delivered:
                raise worker_failed("The worker stopped in the middle of this answer.") from failure
            if failure.answer is not None:
                raise failure.answer
            tries += failure.ran
            if tries >= MAX_TRIES:
                raise worker_failed("The workers that took this request failed. Try again.") from failure
            if not failure.hosted:
                call.failed.add(route.group_id)
            if failure.hosted and not failure.ran:
                # No worker has heard of it: the same attempt goes on.
                call.open_attempt.group_id = None
                await self._places.until_hosted(call)
            else:
                await self._next_attempt(call)

    async def _place(self, call: Call) -> Route | None:
        """A worker's place; None when the fallback has answered. One that fails before it is heard leaves the request
        waiting for the model that was asked for."""
        failure = None
        try:
            route = await self._places.find(call)
        except ApiError as error:
            if error.code != "model_start_failed" or call.fallback is None:
                raise
            route, failure = None, error
        if route is not None:
            return route
        fallback, call.fallback, call.policy = call.fallback, None, WAIT
        assert fallback is not None
        if await self._providers.fall_back(call, fallback):
            return None
        if failure is not None:
            raise failure
        return await self._places.find(call)

    async def _next_attempt(self, call: Call) -> None:
        try:
            call.attempt = await self._metering.replace(call.open_attempt)
        except RedisError as error:
            raise redis_unavailable(type(error).__name__) from error
        if call.attempt is None:
            raise unavailable("This request's reservation was lost. Try again.", "reservation_lost")


def _shorten(call: Call, refusal: ApiError) -> bool:
    """Whether to ask again for as much as fits, because the worker refuses the bound that we, not the client, set.

    SGLang alone would fill what the prompt leaves of the context. Only it counts the prompt, and so it is asked first.
    """
    left = room_left(refusal.message) if call.request.max_tokens is None and not call.shortened else None
    if left is None or not 0 < left < call.max_tokens:
        return False
    call.shortened, call.max_tokens = True, left
    return True
