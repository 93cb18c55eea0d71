"""From SQL to Redis: the snapshot that gateways read, and the settled balances. Called after the commit of a change.

Publications race: two processes may read SQL in one order and write Redis in the other. Each write therefore carries
a number that grows with what it has seen, and Redis keeps the highest: for the snapshot a counter drawn before SQL is
read, for a balance the number of ledger rows summed (the ledger only grows), for what was spent in a budget's window
the sum itself (a cost, once settled, is only ever corrected upwards).
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from registry.budget_windows import is_over
from registry.db import separate_reader
from registry.errors import SnapshotError
from registry.ids import now_ms as clock_ms
from registry.models import AliasTarget, ApiKey, ColdPolicy, LedgerEntry, Model, Price, Tenant
from registry.ops.budgets import fields_at, list_budgets, spent_nusd
from registry.snapshot import (
    BALANCE_KEY,
    BALANCE_ROWS_KEY,
    BUDGET_SPENT_KEY,
    SNAPSHOT_CHANGED_CHANNEL,
    SNAPSHOT_DRAWN_KEY,
    SNAPSHOT_KEY,
    SNAPSHOT_VERSION_KEY,
    ColdPolicyDoc,
    HoldDoc,
    SnapshotDoc,
    encode_snapshot,
    parse_snapshot,
)

DEFAULT_HOLD: HoldDoc = {"max_requests": 512, "max_bytes": 64_000_000, "deadline_s": 120}

# A balance changed this recently may have lost its publisher between commit and publication.
_RECENT_MS = 120_000

# KEYS: the version drawn last, version of what is stored. ARGV: the clock in ms, which keeps versions growing even over
# a loss of Redis.
_DRAW_VERSION = """
local drawn, stored = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local version = math.max((tonumber(drawn) or 0) + 1, (tonumber(stored) or 0) + 1, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', version))
return version
"""

# KEYS: snapshot, version of what is stored. ARGV: version, document, channel.
_SET_SNAPSHOT = """
local stored = redis.call('GET', KEYS[2])
if stored and redis.call('EXISTS', KEYS[1]) == 1 and tonumber(stored) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
"""

# KEYS: balances, rows summed for each. ARGV: tenant, balance, rows, tenant, balance, rows, ...
_SET_BALANCES = """
for i = 1, #ARGV, 3 do
  local rows = redis.call('HGET', KEYS[2], ARGV[i])
  if not rows or tonumber(rows) <= tonumber(ARGV[i + 2]) or redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
  end
end
return #ARGV / 3
"""


# KEYS: spent of budgets. ARGV: field, sum, field, sum, ...
_SET_SPENT = """
for i = 1, #ARGV, 2 do
  local before = redis.call('HGET', KEYS[1], ARGV[i])
  if not before or tonumber(before) <= tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return #ARGV / 2
"""


@dataclass(frozen=True)
class Rebuilt:
    """What `rebuild_redis_if_lost` found stale or missing and wrote anew."""

    snapshot: bool
    balances: int


def build_snapshot(session: Session, now_ms: int, *, version: int = 0, hold: HoldDoc = DEFAULT_HOLD) -> SnapshotDoc:
    """The read model as of `now_ms`: live keys of enabled tenants, live models with the price in force, aliases."""
    tenants = session.scalars(select(Tenant).where(Tenant.enabled.is_(True)).order_by(Tenant.id)).all()
    keys = session.scalars(
        select(ApiKey)
        .join(Tenant)
        .where(
            Tenant.enabled.is_(True),
            ApiKey.revoked_at_ms.is_(None),
            or_(ApiKey.expires_at_ms.is_(None), ApiKey.expires_at_ms > now_ms),
        )
        .order_by(ApiKey.id)
    ).all()
    models = session.execute(
        # Without `manifest`: it is large, and of no use to a gateway.
        select(
            Model.id,
            Model.name,
            Model.enabled,
            Model.lane,
            Model.provider,
            Model.context_length,
            Model.default_max_tokens,
            Model.settings,
            Model.created_at_ms,
            Model.slo_ttft_ms,
            Model.keep_alive_s,
            Model.rpm,
            Model.tpm,
            Model.parallel,
        )
        .where(Model.deleted_at_ms.is_(None))
        .order_by(Model.name)
    ).all()
    prices = _prices_in_force(session, [model.id for model in models], now_ms)
    names = {model.id: model.name for model in models}
    aliases: dict[str, dict[str, int]] = {}
    for target in session.scalars(select(AliasTarget).order_by(AliasTarget.alias_name, AliasTarget.model_id)):
        if target.model_id in names:
            aliases.setdefault(target.alias_name, {})[names[target.model_id]] = target.weight
    budgets: dict[str, dict[str, int]] = defaultdict(dict)
    for budget in list_budgets(session):
        if budget.hard:
            budgets[budget.scope_id][budget.period] = budget.amount_nusd
    return {
        "version": version,
        "built_at_ms": now_ms,
        "keys": {
            key.digest: {
                "key_id": key.id,
                "tenant_id": key.tenant_id,
                "name": key.name,
                "models": list(key.models),
                "expires_at_ms": key.expires_at_ms,
                "rpm": key.rpm,
                "tpm": key.tpm,
                "parallel": key.parallel,
                "sse_ping": key.sse_ping,
                "defaults": key.defaults,
                "ceilings": key.ceilings,
                "budgets": budgets.get(key.id, {}),
            }
            for key in keys
        },
        "tenants": {
            tenant.id: {
                "name": tenant.name,
                "enabled": tenant.enabled,
                "rpm": tenant.rpm,
                "tpm": tenant.tpm,
                "parallel": tenant.parallel,
                "salt": tenant.salt,
                "service_class": tenant.service_class,
                "budgets": budgets.get(tenant.id, {}),
            }
            for tenant in tenants
        },
        "models": {
            model.name: {
                "model_id": model.id,
                "enabled": model.enabled,
                "lane": model.lane,
                "provider": model.provider,
                "context_length": model.context_length,
                "default_max_tokens": model.default_max_tokens,
                "embedding": bool(model.settings.get("embedding", False)),
                "created_at_ms": model.created_at_ms,
                "price": {
                    "price_id": price.id,
                    "input_nusd": price.input_nusd,
                    "cached_input_nusd": price.cached_input_nusd,
                    "output_nusd": price.output_nusd,
                    "request_nusd": price.request_nusd,
                },
                "slo_ttft_ms": model.slo_ttft_ms,
                "keep_alive_s": model.keep_alive_s,
                "rpm": model.rpm,
                "tpm": model.tpm,
                "parallel": model.parallel,
            }
            for model in models
            for price in [prices[model.id]]
        },
        "aliases": aliases,
        "policies": _cold_policies(session, names),
        "hold": hold,
    }


def _cold_policies(session: Session, names: Mapping[str, str]) -> dict[str, dict[str, ColdPolicyDoc]]:
    """By model name, then by tenant id, "*" for all others. Models that are deleted have none, and are no fallback."""
    found: dict[str, dict[str, ColdPolicyDoc]] = {}
    for row in session.scalars(select(ColdPolicy).order_by(ColdPolicy.id)):
        if row.model_id in names:
            fallback = names.get(row.fallback_model_id or "")
            document = {"mode": row.mode, "after_s": row.after_s, "fallback": fallback}
            found.setdefault(names[row.model_id], {})[row.tenant_id or "*"] = cast(ColdPolicyDoc, document)
    return found


def publish_snapshot(session: Session, redis: Redis, now_ms: int, *, hold: HoldDoc = DEFAULT_HOLD) -> int:
    """Publish the read model and tell the gateways; returns its version. Call it after the commit.

    SQL is read through a connection of its own, in a transaction begun after the version was drawn: so the highest
    version has seen every change that was committed before any lower version was drawn.
    """
    version = int(redis.eval(_DRAW_VERSION, 2, SNAPSHOT_DRAWN_KEY, SNAPSHOT_VERSION_KEY, str(clock_ms())))
    with separate_reader(session) as fresh:
        document = build_snapshot(fresh, now_ms, version=version, hold=hold)
    _write_snapshot(redis, document)
    return version


def publish_balances(session: Session, redis: Redis, tenant_ids: Collection[str]) -> None:
    """Publish the settled balances of `tenant_ids`, and what was spent in their budgets' windows (their keys' too), as
    absolute values. Call it after the commit."""
    ordered = sorted(tenant_ids)
    # Before SQL is read, and by the clock that admission goes by: all that was admitted in an earlier window is over.
    at_ms = _redis_ms(redis)
    with separate_reader(session) as fresh:
        for start in range(0, len(ordered), 500):
            chunk = ordered[start : start + 500]
            _write_balances(redis, _sum_ledger(fresh, chunk))
            _write_spent(redis, _sum_budgets(fresh, chunk, at_ms))


def rebuild_redis_if_lost(
    session: Session, redis: Redis, now_ms: int | None = None, *, hold: HoldDoc = DEFAULT_HOLD
) -> Rebuilt:
    """Make Redis agree with SQL again: after Redis lost its data, after a publisher died between its commit and its
    publication, and when time alone changed the read model (a price came into force, a key expired)."""
    at_ms = clock_ms() if now_ms is None else now_ms
    with separate_reader(session) as fresh:
        wanted = build_snapshot(fresh, at_ms, hold=hold)
        tenant_ids = set(fresh.scalars(select(Tenant.id)))
        budgets = list_budgets(fresh)
        recent = set(
            fresh.scalars(select(LedgerEntry.tenant_id).where(LedgerEntry.at_ms > at_ms - _RECENT_MS).distinct())
        )
    stale = not _is_published(redis, wanted)
    if stale:
        publish_snapshot(session, redis, at_ms, hold=hold)
    present = {_text(field) for field in redis.hkeys(BALANCE_KEY)}
    lost = tenant_ids - present
    # What a budget's present and next window have seen is always there, so that a new day begins without a pause.
    windows = fields_at(budgets, _redis_ms(redis))
    known = {_text(name) for name in redis.hkeys(BUDGET_SPENT_KEY)}
    unknown = {budget.tenant_id for name, (budget, _) in windows.items() if name not in known}
    publish_balances(session, redis, lost | recent | unknown)
    over = [name for name in known if is_over(name, _redis_ms(redis))]
    if over:
        redis.hdel(BUDGET_SPENT_KEY, *over)
    return Rebuilt(snapshot=stale, balances=len(lost))


def _is_published(redis: Redis, wanted: SnapshotDoc) -> bool:
    raw = redis.get(SNAPSHOT_KEY)
    if raw is None:
        return False
    try:
        published = parse_snapshot(raw)
    except SnapshotError:  # another version's document: ours replaces it
        return False
    return {**published, "version": 0, "built_at_ms": 0} == {**wanted, "version": 0, "built_at_ms": 0}


def _write_snapshot(redis: Redis, document: SnapshotDoc) -> None:
    redis.eval(
        _SET_SNAPSHOT,
        2,
        SNAPSHOT_KEY,
        SNAPSHOT_VERSION_KEY,
        str(document["version"]),
        encode_snapshot(document),
        SNAPSHOT_CHANGED_CHANNEL,
    )


def _write_balances(redis: Redis, sums: Mapping[str, tuple[int, int]]) -> None:
    # Amounts travel as text: Lua's numbers are doubles and would round a nano-dollar above 9 million dollars.
    arguments: list[Any] = []
    for tenant_id, (balance, rows) in sums.items():
        arguments += [tenant_id, str(balance), str(rows)]
    if arguments:
        redis.eval(_SET_BALANCES, 2, BALANCE_KEY, BALANCE_ROWS_KEY, *arguments)


def _write_spent(redis: Redis, sums: Mapping[str, int]) -> None:
    arguments: list[Any] = [part for name, spent in sums.items() for part in (name, str(spent))]
    if arguments:
        redis.eval(_SET_SPENT, 1, BUDGET_SPENT_KEY, *arguments)


def _sum_budgets(session: Session, tenant_ids: Sequence[str], at_ms: int) -> dict[str, int]:
    windows = fields_at(list_budgets(session, tenant_ids), at_ms)
    return {
        name: spent_nusd(session, budget.tenant_id, budget.scope_id, budget.period, window)
        for name, (budget, window) in windows.items()
    }


def _redis_ms(redis: Redis) -> int:
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _sum_ledger(session: Session, tenant_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    rows = session.execute(
        select(LedgerEntry.tenant_id, func.sum(LedgerEntry.amount_nusd), func.count())
        .where(LedgerEntry.tenant_id.in_(tenant_ids))
        .group_by(LedgerEntry.tenant_id)
    )
    found = {tenant_id: (int(total), int(count)) for tenant_id, total, count in rows}
    return {tenant_id: found.get(tenant_id, (0, 0)) for tenant_id in tenant_ids}


def _prices_in_force(session: Session, model_ids: Sequence[str], at_ms: int) -> dict[str, Price]:
    """The price of each model at a moment, by the rule of `registry.ops.prices.price_at`."""
    query = (
        select(Price)
        .where(Price.model_id.in_(model_ids), Price.from_ms <= at_ms)
        .order_by(Price.from_ms, Price.created_at_ms, Price.id)
    )
    return {price.model_id: price for price in session.scalars(query)}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
