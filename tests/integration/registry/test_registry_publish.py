"""What gateways read: exactly the live state of SQL, in a real Redis, however publishers race and whatever is lost."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from sqlalchemy.orm import Session
from support.redis_server import RedisServer
from support.registry_rows import add_model, add_tenant, current_price

from registry import publish
from registry.db import SessionFactory, session_scope
from registry.ids import now_ms
from registry.models import Tenant
from registry.ops import aliases, keys, models, money, prices, tenants
from registry.publish import build_snapshot, publish_balances, publish_snapshot, rebuild_redis_if_lost
from registry.snapshot import SNAPSHOT_CHANGED_CHANNEL, SNAPSHOT_KEY, SnapshotDoc, key_digest, parse_snapshot

PEPPER = "pepper"


def published(redis: Redis) -> SnapshotDoc:
    raw = redis.get(SNAPSHOT_KEY)
    assert raw is not None
    return parse_snapshot(raw)


def test_the_snapshot_holds_what_a_gateway_needs(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        tenant = tenants.create_tenant(session, "t", name="acme", rpm=60, parallel=4)
        model = add_model(session, settings={"embedding": True, "context_length": 2048})
        aliases.add_alias(session, "t", model.id, "chat")
        key, plaintext = keys.create_key(
            session, PEPPER, PEPPER, tenant_id=tenant.id, name="k", models=["chat"], tpm=9, sse_ping=False
        )
        price = current_price(session, model)
    with session_scope(session_factory) as session:
        snapshot = build_snapshot(session, now_ms(), version=3)
    assert snapshot["version"] == 3
    assert snapshot["keys"] == {
        key_digest(PEPPER, plaintext): {
            "key_id": key.id,
            "tenant_id": tenant.id,
            "name": "k",
            "models": ["smol"],
            "expires_at_ms": None,
            "rpm": None,
            "tpm": 9,
            "parallel": None,
            "sse_ping": False,
            "defaults": {},
            "ceilings": {},
            "budgets": {},
        }
    }
    assert snapshot["tenants"][tenant.id] == {
        "name": "acme",
        "enabled": True,
        "rpm": 60,
        "tpm": None,
        "parallel": 4,
        "salt": tenant.salt,
        "service_class": "standard",
        "budgets": {},
    }
    assert snapshot["models"]["smol"] == {
        "model_id": model.id,
        "enabled": True,
        "lane": "direct",
        "provider": None,
        "context_length": 2048,
        "default_max_tokens": 1024,
        "embedding": True,
        "created_at_ms": model.created_at_ms,
        "price": {
            "price_id": price.id,
            "input_nusd": 20,
            "cached_input_nusd": 5,
            "output_nusd": 80,
            "request_nusd": 1000,
        },
        "slo_ttft_ms": 10_000,
        "keep_alive_s": 300,
        "rpm": None,
        "tpm": None,
        "parallel": None,
    }
    assert snapshot["aliases"] == {"chat": {"smol": 1}}
    assert plaintext not in json.dumps(snapshot)


def test_only_live_keys_of_enabled_tenants_are_in_it(session_factory: SessionFactory) -> None:
    later = now_ms() + 3_600_000
    with session_scope(session_factory) as session:
        acme, locked = add_tenant(session), add_tenant(session, "locked")
        live, _ = keys.create_key(session, "t", PEPPER, tenant_id=acme.id, name="live", expires_at_ms=later + 1)
        revoked, _ = keys.create_key(session, "t", PEPPER, tenant_id=acme.id, name="revoked")
        keys.revoke_key(session, "t", revoked.id)
        keys.create_key(session, "t", PEPPER, tenant_id=acme.id, name="expiring", expires_at_ms=later)
        keys.create_key(session, "t", PEPPER, tenant_id=locked.id, name="of the locked")
        tenants.set_enabled(session, "t", locked.id, False)
    with session_scope(session_factory) as session:
        snapshot = build_snapshot(session, later)
    assert [key["key_id"] for key in snapshot["keys"].values()] == [live.id]
    assert set(snapshot["tenants"]) == {acme.id}


def test_deleted_models_and_their_aliases_are_gone_and_disabled_ones_are_marked(
    session_factory: SessionFactory,
) -> None:
    with session_scope(session_factory) as session:
        gone, off = add_model(session, "gone"), add_model(session, "off")
        aliases.add_alias(session, "t", gone.id, "old-name")
        models.delete_model(session, "t", gone.id)
        models.set_enabled(session, "t", off.id, False)
    with session_scope(session_factory) as session:
        snapshot = build_snapshot(session, now_ms())
    assert {name: model["enabled"] for name, model in snapshot["models"].items()} == {"off": False}
    assert snapshot["aliases"] == {}


def test_the_price_is_the_one_in_force(session_factory: SessionFactory) -> None:
    change_ms = now_ms() + 3_600_000
    with session_scope(session_factory) as session:
        model = add_model(session)
        prices.set_price(session, "t", model.id, input_nusd=1, output_nusd=2, from_ms=change_ms)
        before = build_snapshot(session, change_ms - 1)["models"]["smol"]["price"]
        after = build_snapshot(session, change_ms)["models"]["smol"]["price"]
        assert prices.price_at(session, model.id, change_ms).id == after["price_id"]
    assert (before["input_nusd"], after["input_nusd"]) == (20, 1)


def test_publishing_tells_the_subscribers(session_factory: SessionFactory, redis_server: RedisServer) -> None:
    with session_scope(session_factory) as session:
        tenant = add_tenant(session)
    with redis_server.client() as redis, redis.pubsub() as listener, session_factory() as session:
        listener.subscribe(SNAPSHOT_CHANGED_CHANNEL)
        assert listener.get_message(timeout=10) is not None
        version = publish_snapshot(session, redis, now_ms())
        message = listener.get_message(timeout=10)
        assert message is not None
        assert int(message["data"]) == version == published(redis)["version"]
        assert set(published(redis)["tenants"]) == {tenant.id}
        assert publish_snapshot(session, redis, now_ms()) > version


def test_a_publisher_that_read_first_and_writes_last_does_not_win(
    session_factory: SessionFactory, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow one reads SQL, then the fast one commits, reads and publishes, then the slow one writes."""
    with session_scope(session_factory) as session:
        add_tenant(session, "first")
    slow_has_read, fast_is_done = threading.Event(), threading.Event()
    build = publish.build_snapshot

    def build_slowly(session: Session, *arguments: int, **options: object) -> SnapshotDoc:
        document = build(session, *arguments, **options)  # type: ignore[arg-type]
        if threading.current_thread() is slow:
            slow_has_read.set()
            assert fast_is_done.wait(30)
        return document

    def publish_once() -> None:
        with redis_server.client() as redis, session_factory() as session:
            publish_snapshot(session, redis, now_ms())

    monkeypatch.setattr(publish, "build_snapshot", build_slowly)
    slow = threading.Thread(target=publish_once)
    slow.start()
    assert slow_has_read.wait(30)
    with session_scope(session_factory) as session:
        add_tenant(session, "second")
    publish_once()
    fast_is_done.set()
    slow.join(30)
    with redis_server.client() as redis:
        assert len(published(redis)["tenants"]) == 2


def test_racing_publishers_end_with_the_last_state(session_factory: SessionFactory, redis_server: RedisServer) -> None:
    with session_scope(session_factory) as session:
        tenant = add_tenant(session)

    def change_and_publish(number: int) -> None:
        with session_scope(session_factory) as session:
            keys.create_key(session, "t", PEPPER, tenant_id=tenant.id, name=f"k{number}")
            money.top_up(session, "t", tenant.id, 10, "race")
        with redis_server.client() as redis, session_factory() as session:
            publish_snapshot(session, redis, now_ms())
            publish_balances(session, redis, [tenant.id])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change_and_publish, range(40)))
    with redis_server.client() as redis:
        assert len(published(redis)["keys"]) == 40
        assert redis.hget("hyd:balance", tenant.id) == "400"


def test_large_balances_are_not_rounded(session_factory: SessionFactory, redis_server: RedisServer) -> None:
    amount = 2**53 + 1  # the first whole number that a double cannot hold
    with session_scope(session_factory) as session:
        tenant = add_tenant(session)
        money.top_up(session, "t", tenant.id, amount, "large")
    with redis_server.client() as redis, session_factory() as session:
        publish_balances(session, redis, [tenant.id])
        assert redis.hgetall("hyd:balance") == {tenant.id: str(amount)}


def test_a_lost_redis_is_rebuilt(session_factory: SessionFactory, redis_server: RedisServer) -> None:
    with session_scope(session_factory) as session:
        rich, poor = add_tenant(session, "rich"), add_tenant(session, "poor")
        money.top_up(session, "t", rich.id, 7, "gift")
    with redis_server.client() as redis, session_factory() as session:
        first = publish_snapshot(session, redis, now_ms())
        redis.flushall()
        # After the loss, the ledger settles for one tenant before the sweep comes by.
        publish_balances(session, redis, [rich.id])
        done = rebuild_redis_if_lost(session, redis)
        assert (done.snapshot, done.balances) == (True, 1)
        assert redis.hgetall("hyd:balance") == {rich.id: "7", poor.id: "0"}
        assert published(redis)["version"] > first
        again = rebuild_redis_if_lost(session, redis)
        assert (again.snapshot, again.balances) == (False, 0)


def test_a_change_whose_publisher_died_is_published_by_the_sweep(
    session_factory: SessionFactory, redis_server: RedisServer
) -> None:
    with session_scope(session_factory) as session:
        tenant = add_tenant(session)
        key, _ = keys.create_key(session, "t", PEPPER, tenant_id=tenant.id, name="k")
    with redis_server.client() as redis, session_factory() as session:
        rebuild_redis_if_lost(session, redis)
        assert len(published(redis)["keys"]) == 1
    with session_scope(session_factory) as session:
        keys.revoke_key(session, "t", key.id)
        money.top_up(session, "t", tenant.id, 5, "gift")
    with redis_server.client() as redis, session_factory() as session:
        assert rebuild_redis_if_lost(session, redis).snapshot
        assert published(redis)["keys"] == {}
        assert redis.hget("hyd:balance", tenant.id) == "5"


def test_time_alone_changes_the_read_model(session_factory: SessionFactory, redis_server: RedisServer) -> None:
    change_ms = now_ms() + 3_600_000
    with session_scope(session_factory) as session:
        model = add_model(session)
        prices.set_price(session, "t", model.id, input_nusd=1, output_nusd=2, from_ms=change_ms)
    with redis_server.client() as redis, session_factory() as session:
        assert rebuild_redis_if_lost(session, redis, change_ms - 1).snapshot
        assert not rebuild_redis_if_lost(session, redis, change_ms - 1).snapshot
        assert rebuild_redis_if_lost(session, redis, change_ms).snapshot
        assert published(redis)["models"]["smol"]["price"]["input_nusd"] == 1


def test_a_damaged_snapshot_is_replaced(session_factory: SessionFactory, redis_server: RedisServer) -> None:
    with redis_server.client() as redis, session_factory() as session:
        publish_snapshot(session, redis, now_ms())
        redis.set(SNAPSHOT_KEY, "{")
        assert rebuild_redis_if_lost(session, redis).snapshot
        assert published(redis)["tenants"] == {}


def test_uncommitted_changes_are_not_published(session_factory: SessionFactory, redis_server: RedisServer) -> None:
    with redis_server.client() as redis, session_factory() as session:
        session.add(Tenant(id="ten_1", name="n", enabled=True, salt="s", created_at_ms=1))
        session.flush()
        publish_snapshot(session, redis, now_ms())
        assert published(redis)["tenants"] == {}
