"""Requests that a hosted provider answers: it serves the model that was asked for, or that one is cold."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from gateway.accounting.attempts import Account
from gateway.body.parameters import output_bound
from gateway.call import Call
from gateway.errors import ApiError, worker_failed
from gateway.readmodel.snapshot import Model
from gateway.waiting.places import Places
from gateway.workers.proxy import Proxy
from gateway.workers.upstream import UpstreamFailed, provider_route

log = logging.getLogger(__name__)

SERVED_BY_HEADER = b"x-hydrant-served-by"
_CUT_SHORT = "The model's provider stopped in the middle of this answer."


class Providers:
    """`next_attempt` ends a call's failed attempt and opens its successor."""

    def __init__(self, proxy: Proxy, places: Places, next_attempt: Callable[[Call], Awaitable[None]]) -> None:
        self._proxy = proxy
        self._places = places
        self._next_attempt = next_attempt

    async def serve(self, call: Call) -> None:
        """Answers a request for a provider's own model; nothing is asked twice of a provider. Raises `ApiError`."""
        while True:
            try:
                await self._ask(call)
                return
            except UpstreamFailed as error:
                if call.delivered:
                    raise worker_failed(_CUT_SHORT) from error
                if not (error.hosted and not error.ran):
                    raise error.answer or worker_failed("The model's provider gave no answer. Try again.") from error
            # The hosted process does not run: nobody has heard of the request, and its supervisor starts it again.
            call.open_attempt.provider_asked = False
            await self._places.until_hosted(call)

    async def fall_back(self, call: Call, model: Model) -> bool:
        """Has `model`, a provider's, answer for the one that is cold, at its own price. False: it could not.

        Raises `ApiError` when it fails in the middle of its answer.
        """
        asked = call.model, call.lane, call.max_tokens, call.reply.headers
        account = call.open_attempt.account
        call.model, call.lane = model, "hosted"
        call.max_tokens = output_bound(call.request, model, call.key)
        call.open_attempt.account = _account_of(account, model)
        call.reply.headers = [*call.reply.headers, (SERVED_BY_HEADER, model.name.encode())]
        try:
            await self._ask(call)
            return True
        except (UpstreamFailed, ApiError) as error:
            if call.delivered:
                raise worker_failed(_CUT_SHORT) from error
            reason = error.reason if isinstance(error, UpstreamFailed) else error.message
            log.warning("%s could not answer for %s: %s", model.name, asked[0].name, reason)
        if call.open_attempt.provider_asked:
            await self._next_attempt(call)
        call.model, call.lane, call.max_tokens, call.reply.headers = asked
        call.open_attempt.account = account
        return False

    async def _ask(self, call: Call) -> None:
        attempt = call.open_attempt
        attempt.provider_asked = True
        try:
            await self._proxy.run(call, provider_route(call.model))
        except ApiError:
            # Refused: nothing ran, and nothing is owed.
            attempt.provider_asked = False
            raise


def _account_of(account: Account, model: Model) -> Account:
    return account._replace(model=model.name, model_id=model.model_id, price=model.price, lane="hosted")
