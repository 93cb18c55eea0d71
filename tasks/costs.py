"""The ledger's tick for device time: what a start has cost is split over those who waited, once all are known."""

import orjson
import structlog
from redis import Redis

from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.ops import group_costs
from registry.publish import publish_balances
from tasks.app import app
from tasks.budget_alerts import alert
from tasks.failpoints import reach
from tasks.runtime import Runtime, runtime
from tasks.watch import LEDGER, look

log = structlog.get_logger(__name__)


@app.task(name="ledger.costs")  # type: ignore[untyped-decorator]
def costs() -> None:
    """Complete what groups have cost."""
    complete_costs(runtime())


def complete_costs(here: Runtime) -> int:
    """Complete what can be told by now; how many starts were split.

    A start is split when the longest hold since it was ready is over, and so much time has gone by without Redis having
    been away or empty, in which open attempts tell of themselves: an attempt that comes later pays nothing.
    """
    now = now_ms()
    patience_ms = here.settings.hold["deadline_s"] * 1000 + group_costs.SPLIT_AFTER_MS
    split_before_ms = now - patience_ms if now - look(here.redis, LEDGER, now) >= patience_ms else 0
    # Before SQL is read: an attempt that is not here any more then, has its usage there.
    awaited = _awaited(here.redis)
    with read_scope(here.sessions) as session:
        if not group_costs.has_work(session, now, split_before_ms=split_before_ms):
            return 0
    with session_scope(here.sessions) as session:
        done = group_costs.complete(session, now, split_before_ms=split_before_ms, awaited=awaited)
        reach("ledger.costs_written")
    reach("ledger.costs_committed")
    if done.split:
        log.info("split what cold starts have cost", starts=done.split, charged_tenants=len(done.tenant_ids))
    # Should this die before, the sweep publishes the balances of all recent entries, with what is spent of budgets.
    with read_scope(here.sessions) as session:
        publish_balances(session, here.redis, done.tenant_ids)
    alert(here, done.tenant_ids)
    return done.split


def _awaited(redis: Redis) -> dict[str, int]:
    """The cold starts of which attempts that are still open were held, and when (ms) the first of these began."""
    earliest: dict[str, int] = {}
    for attempt in map(orjson.loads, redis.hvals("hyd:attempts")):
        start, began = attempt.get("cold_start_id"), attempt["started_at_ms"]
        if start and attempt.get("held_ms"):
            earliest[start] = min(began, earliest.get(start, began))
    return earliest
