"""The ledger's tasks: usage events from the Redis stream become rows in SQL, each attempt once, whatever dies when."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import structlog
from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.keep_alive import note
from orchestrator.prewarming import expected
from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import ColdStart, ColdStartEvent, Model, ModelUse
from registry.ops.ledger import Settlement, settle
from registry.publish import publish_balances, rebuild_redis_if_lost
from tasks.app import app
from tasks.budget_alerts import alert
from tasks.demand import GATEWAY_DEAD_MS, is_known
from tasks.failpoints import reach
from tasks.runtime import Runtime, runtime
from tasks.watch import LEDGER, look

STREAM = "hyd:usage"
CONSUMER_GROUP = "ledger"
CONSUMER = "ledger"
BATCH = 500
BATCHES = 40
"""Bounds one task's work; the next tick goes on."""

# An attempt's reservation is given back once, however often this runs: only what HDEL really removed counts.
_CLOSE_ATTEMPTS = """
for _, id in ipairs(ARGV) do
  local raw = redis.call('HGET', KEYS[1], id)
  if raw then
    redis.call('HDEL', KEYS[1], id)
    local attempt = cjson.decode(raw)
    local change = string.format('%.0f', 0 - attempt.reserved_nusd)
    local left = redis.call('HINCRBY', KEYS[2], attempt.tenant_id, change)
    if left <= 0 then redis.call('HDEL', KEYS[2], attempt.tenant_id) end
    for _, field in ipairs(attempt.budgets or {}) do
      if redis.call('HINCRBY', KEYS[3], field, change) <= 0 then redis.call('HDEL', KEYS[3], field) end
    end
  end
end
"""

log = structlog.get_logger(__name__)


@app.task(name="ledger.drain")  # type: ignore[untyped-decorator]
def drain() -> None:
    """Settle what lies in the usage stream."""
    drain_stream(runtime())


@app.task(name="ledger.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Settle what dead gateways left open, and make good a Redis that has lost its memory."""
    here = runtime()
    with read_scope(here.sessions) as session:
        rebuilt = rebuild_redis_if_lost(session, here.redis, hold=here.settings.hold)
    if rebuilt.balances:
        log.warning("Redis had lost balances; they were rebuilt from SQL", tenants=rebuilt.balances)
    settle_lost(here)
    # Of all tenants: a budget may be set below what is spent, and a ledger may have died before it told of it.
    alert(here)


def drain_stream(here: Runtime) -> int:
    """Settle batch after batch until the stream is empty (or BATCHES are done); the number of events read.

    What an earlier run read and did not acknowledge, because it was killed, comes first.
    """
    _ensure_group(here.redis)
    total = 0
    for start in ("0", ">"):
        for _ in range(BATCHES):
            # The sweep alone looks too seldom to tell a gap.
            look(here.redis, LEDGER, now_ms())
            entries = _read(here.redis, start)
            if not entries:
                break
            # An entry without fields was deleted from the stream by other hands; it is only acknowledged.
            _settle(here, [_event(fields) for _, fields in entries if fields])
            reach("ledger.settled")
            pipe = here.redis.pipeline(transaction=True)
            ids = [entry for entry, _ in entries]
            pipe.xack(STREAM, CONSUMER_GROUP, *ids)
            pipe.xdel(STREAM, *ids)
            pipe.execute()
            total += len(entries)
    return total


def settle_lost(here: Runtime) -> int:
    """Settle open attempts of gateways without a heartbeat from their last checkpoint; how many there were.

    Not just after Redis was away or has lost its memory: the heartbeats of gateways that live come again later.
    """
    now = now_ms()
    if not is_known(look(here.redis, LEDGER, now), now):
        return 0
    pipe = here.redis.pipeline(transaction=False)
    pipe.hgetall("hyd:gateways")
    pipe.hgetall("hyd:attempts")
    beats, attempts = pipe.execute()
    alive = {name.decode() for name, beat in beats.items() if now - orjson.loads(beat)["at_ms"] < GATEWAY_DEAD_MS}
    abandoned = [
        attempt
        for attempt in map(orjson.loads, attempts.values())
        # With an outcome, its final event is in the stream. And the heartbeat of a new gateway may not be there yet.
        if attempt.get("outcome") is None
        and attempt["gateway_id"] not in alive
        and now - attempt["started_at_ms"] > GATEWAY_DEAD_MS
    ]
    # Of those that were admitted ahead no request has been checkpointed: they are nobody's usage.
    _close(here.redis, [attempt["attempt_id"] for attempt in abandoned if attempt.get("ahead")])
    lost = [
        {**attempt, "outcome": "gateway_lost", "ended_at_ms": now} for attempt in abandoned if not attempt.get("ahead")
    ]
    if lost:
        log.warning("settling attempts of lost gateways from their last checkpoint", attempts=len(lost))
        _settle(here, lost)
    return len(lost)


def _settle(here: Runtime, events: Sequence[Any]) -> Settlement:
    with session_scope(here.sessions) as session:
        result = settle(session, events)
        _note_first_tokens(session, events, {*result.settled, *result.corrected})
        _note_use(session, events, set(result.settled))
    reach("ledger.committed")
    for rejected in result.rejected:
        log.error(
            "a usage event cannot be billed; it is kept in rejected_usage", digest=rejected.digest, why=rejected.reason
        )
    with read_scope(here.sessions) as session:
        # The new balance first, the reservation after it: for a moment both count, and never neither.
        publish_balances(session, here.redis, result.tenant_ids)
    # A rejected attempt is closed too: it is kept in SQL, and nothing more will come of it here.
    closed = [event["attempt_id"] for event in events if isinstance(event, dict) and "attempt_id" in event]
    _close(here.redis, [attempt_id for attempt_id in closed if isinstance(attempt_id, str)])
    alert(here, result.tenant_ids)
    return result


def _close(redis: Redis, attempt_ids: Sequence[str]) -> None:
    if attempt_ids:
        redis.eval(_CLOSE_ATTEMPTS, 3, "hyd:attempts", "hyd:reserved", "hyd:budget:reserved", *attempt_ids)


def _note_first_tokens(session: Session, events: Iterable[Any], settled: set[str]) -> None:
    """The first token of each cold start that these attempts waited for: the outcome beside the plan's prediction."""
    firsts: dict[str, int] = {}
    for event in events:
        # Only what settle() has accepted is known to be an event at all.
        if not isinstance(event, dict) or str(event.get("attempt_id")) not in settled:
            continue
        cold_start, at_ms = event.get("cold_start_id"), event.get("first_token_at_ms")
        if cold_start and at_ms and event.get("held_ms"):
            firsts[cold_start] = min(at_ms, firsts.get(cold_start, at_ms))
    for row in session.scalars(
        select(ColdStart).where(ColdStart.id.in_(firsts), ColdStart.first_token_at_ms.is_(None))
    ):
        row.first_token_at_ms = firsts[row.id]
        session.add(ColdStartEvent(cold_start_id=row.id, kind="first_token", at_ms=firsts[row.id]))


def _note_use(session: Session, events: Iterable[Any], settled: set[str]) -> None:
    """Each model's pauses, from when these attempts ran, and when it is to be expected again."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        if isinstance(event, dict) and str(event.get("attempt_id")) in settled:
            spans[event["model_id"]].append((event["started_at_ms"], event["ended_at_ms"]))
    # What was billed may be of a model that this database has never had (it was restored from a backup).
    known = select(Model.id, Model.keep_alive_s, Model.keep_alive_mode).where(Model.id.in_(spans))
    for model_id, keep_alive_s, mode in session.execute(known):
        row = session.get(ModelUse, model_id) or ModelUse(model_id=model_id, busy_until_ms=0, pauses_ms=[])
        row.busy_until_ms, row.pauses_ms = note(row.busy_until_ms, row.pauses_ms, spans[model_id])
        window = expected(row.pauses_ms, keep_alive_s * 1000) if mode == "learned" else None
        row.expected_from_ms, row.expected_until_ms = (
            (None, None) if window is None else (row.busy_until_ms + window[0], row.busy_until_ms + window[1])
        )
        session.add(row)


def _ensure_group(redis: Redis) -> None:
    try:
        redis.xgroup_create(STREAM, CONSUMER_GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _read(redis: Redis, start: str) -> list[tuple[bytes, dict[bytes, bytes] | None]]:
    reply = redis.xreadgroup(CONSUMER_GROUP, CONSUMER, {STREAM: start}, count=BATCH)
    return list(reply[0][1]) if isinstance(reply, list) and reply else []


def _event(fields: dict[bytes, bytes]) -> Any:
    raw = fields.get(b"event", b"")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # Not lost: settle() puts aside whatever is not an event, with the bytes as they came.
        return {"malformed": raw.decode(errors="replace")}
