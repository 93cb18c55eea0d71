"""One admitted request on its way to a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.accounting.attempts import Attempt
from gateway.body.parsing import InferenceRequest
from gateway.clients.reply import Reply
from gateway.readmodel.cold_policy import WAIT, ColdPolicy
from gateway.readmodel.snapshot import Key, Model, Tenant
from gateway.tracing import Trace


@dataclass(slots=True)
class Call:
    """A request that was admitted.

    `attempt` is the open one, None once ended; `delivered` says events were sent. `deadline` and `ping_at` are on the
    monotonic clock. `max_tokens` is what one answer may have. `failed` holds the groups that took this request and
    answered badly, `warm_starts` the cold starts that were over when it began to wait (None: it never did). `permit`
    raises `ApiError` once key, tenant or model are not in force any more. `policy`: what becomes of it while `model`
    is cold, `fallback`: who answers then; whoever answers is `model`.
    """

    request: InferenceRequest
    key: Key
    tenant: Tenant
    model: Model
    lane: str
    reply: Reply
    arrived_at_ms: int
    deadline: float
    ping_at: float
    max_tokens: int
    permit: Callable[[], None]
    attempt: Attempt | None
    policy: ColdPolicy = WAIT
    fallback: Model | None = None
    delivered: bool = False
    shortened: bool = False
    warm_starts: frozenset[str] | None = None
    trace: Trace | None = None
    failed: set[str] = field(default_factory=set)

    @property
    def open_attempt(self) -> Attempt:
        """The attempt in progress."""
        assert self.attempt is not None
        return self.attempt
