"""Finds a worker's place for a request: at once, or after waiting in line, with comments to a stream meanwhile."""

from __future__ import annotations

import asyncio
import time

from gateway import metrics
from gateway.call import Call
from gateway.clock import now_ms
from gateway.errors import hold_timed_out, model_cold, unavailable
from gateway.readmodel.cold_policy import Step, next_step
from gateway.readmodel.routes import Route
from gateway.settings import Settings
from gateway.tracing import step
from gateway.waiting.demand import Demand
from gateway.waiting.hold import Hold, Waiter

# Before a worker gets a request again that it has just answered badly.
AGAIN_SECONDS = 0.2
# Before the translating process is tried again while it does not run; its supervisor starts it within seconds.
HOSTED_SECONDS = 0.25
COLD_START_HEADER = b"x-hydrant-cold-start"


class Places:
    """The line and the routes, for one request at a time."""

    def __init__(self, settings: Settings, hold: Hold, demand: Demand) -> None:
        self._settings = settings
        self._hold = hold
        self._demand = demand

    async def find(self, call: Call) -> Route | None:
        """A worker's place, to be given back; None where the call's policy wants its fallback asked now.

        Raises `ApiError` when the wait ends without a place, or is not to begin.
        """
        model = call.model.name
        route = self._hold.take(model, call.failed)
        if route is None:
            waited_s = (now_ms() - call.arrived_at_ms) / 1000
            step = next_step(call.policy, cold=self._hold.is_cold(model), waited_s=waited_s)
            if step in (Step.REJECT, Step.FALL_BACK):
                # Nobody waits for it in line, and still it is to start.
                self._demand.want(model, call.tenant.service_class, call.deadline)
            if step is Step.REJECT:
                raise model_cold(call.request.model, self._left_s(model))
            if step is Step.FALL_BACK:
                return None
            until = call.deadline
            if step is Step.WAIT_A_LITTLE:
                until = min(until, time.monotonic() + call.policy.after_s - waited_s)
            route = await self._in_line(call, until)
            if route is None:
                self._demand.want(model, call.tenant.service_class, call.deadline)
                return None
        if route.group_id in call.failed:
            try:
                await self._until(call, time.monotonic() + AGAIN_SECONDS)
            except BaseException:
                self._hold.give_back(route)
                raise
        return route

    def is_cold(self, model: str) -> bool:
        """Whether no worker serves the model now."""
        return self._hold.is_cold(model)

    def give_back(self, route: Route, *, lost: bool = False) -> None:
        """Frees a place; `lost`: the worker could not be reached, or broke off, so it is passed over for a while."""
        if lost:
            self._hold.mark_bad(route)
        self._hold.give_back(route)

    async def until_hosted(self, call: Call) -> None:
        """Waits a little for the translating process to come back.

        Raises `ApiError`: 503 at the hold's deadline, and what `permit` raises.
        """
        now = time.monotonic()
        if now >= call.deadline:
            raise unavailable("The translating process is not running. Try again shortly.", "hosted_down")
        await self._until(call, min(call.deadline, now + HOSTED_SECONDS))
        call.permit()

    def _left_s(self, model: str) -> float | None:
        """In how many seconds a first token is expected; None: unknown."""
        eta_ms = self._hold.eta_ms(model)
        return None if eta_ms is None else (eta_ms - now_ms()) / 1000

    async def _in_line(self, call: Call, until: float) -> Route | None:
        model = call.model.name
        tenant = call.tenant
        waiter = Waiter(
            model,
            tenant.tenant_id,
            call.request.size_bytes,
            now_ms(),
            call.failed,
            call.permit,
            tenant.service_class,
            None if call.trace is None else call.trace.traceparent,
        )
        is_first = model not in self._hold.models()
        if call.warm_starts is None:
            call.warm_starts = self._hold.cold_starts(model)
        self._hold.enter(waiter)
        began = time.monotonic()
        if is_first:
            self._demand.first_waiter(model)
        try:
            with step(call.trace, "held"):
                await self._until(call, until, waiter.ready)
            if not waiter.ready.done():
                if until < call.deadline:
                    return None
                waited_s = (now_ms() - call.arrived_at_ms) / 1000
                raise hold_timed_out(call.request.model, waited_s, self._left_s(model))
            # Key, tenant and model may have gone since they were looked up.
            call.permit()
            route = waiter.claim()
        finally:
            self._hold.leave(waiter)
            if model not in self._hold.models():
                self._demand.last_waiter_left(model)
            waited = time.monotonic() - began
            call.open_attempt.held_ms += int(waited * 1000)
            metrics.HELD_SECONDS.labels(model).observe(waited)
        _note_cold_start(call, route.cold_start_id)
        return route

    async def _until(self, call: Call, end: float, ready: asyncio.Future[Route] | None = None) -> None:
        """Waits until `ready` is done, or until `end` (monotonic); sends comments to a stream meanwhile."""
        waited_for = asyncio.get_running_loop().create_future() if ready is None else ready
        pings = call.request.stream and call.key.sse_ping
        while not waited_for.done() and (now := time.monotonic()) < end:
            if pings and now >= call.ping_at:
                _note_cold_start(call, self._hold.starting(call.model.name))
                await call.reply.ping()
                call.ping_at = now + self._settings.ping_every_s
            await asyncio.wait({waited_for}, timeout=(min(end, call.ping_at) if pings else end) - now)


def _note_cold_start(call: Call, cold_start_id: str | None) -> None:
    """Has the answer's head tell of the start that was waited for: not of one that was over when the wait began."""
    if cold_start_id is None or call.warm_starts is None or cold_start_id in call.warm_starts or call.reply.started:
        return
    # A request that is tried again may have been held before.
    kept = [header for header in call.reply.headers if header[0] != COLD_START_HEADER]
    note = f"{cold_start_id}; {now_ms() - call.arrived_at_ms}"
    call.reply.headers = [*kept, (COLD_START_HEADER, note.encode())]
