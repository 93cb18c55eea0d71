"""What registry and controller publish is what the gateway reads, with no hand-written document between them."""

from __future__ import annotations

from typing import Any

import pytest
from support.registry_rows import add_tenant

from gateway.errors import ApiError
from gateway.readmodel.routes import parse_cold_start, parse_routes
from gateway.readmodel.snapshot import Limits, parse_snapshot
from registry.db import session_scope
from registry.ids import now_ms
from registry.ops import aliases, budgets, keys, models
from registry.publish import build_snapshot
from registry.snapshot import encode_snapshot

PEPPER = "pepper"


def test_the_gateway_reads_the_snapshot_that_the_registry_builds(bench: Any) -> None:
    model_id = bench.add_model(lane="litellm", keep_alive_s=60)
    with session_scope(bench.here.sessions) as session:
        aliases.add_alias(session, "tester", model_id, "short")
        tenant = add_tenant(session)
        limits = {"rpm": 3, "tpm": 1000, "parallel": 2}
        row, secret = keys.create_key(
            session, "tester", PEPPER, tenant_id=tenant.id, name="k", models=["m"], sse_ping=False, **limits
        )
        budgets.set_budget(session, "tester", tenant.id, "month", amount_nusd=77)
        budgets.set_budget(session, "tester", row.id, "day", amount_nusd=5, hard=False)
        models.update_model(session, "tester", model_id, rpm=9, parallel=8)
        plain, any_secret = keys.create_key(session, "tester", PEPPER, tenant_id=tenant.id, name="any")
        ids = (tenant.id, row.id, plain.id)
        document = build_snapshot(session, now_ms(), version=7)
    read = parse_snapshot(encode_snapshot(document))
    assert read.version == 7
    key, owner = read.authenticate(secret, PEPPER.encode(), now_ms())
    assert (owner.tenant_id, key.key_id, key.sse_ping) == (ids[0], ids[1], False)
    assert (key.limits.rpm, key.limits.tpm, key.limits.parallel) == (3, 1000, 2)
    assert (owner.budgets, key.budgets) == ({"month": 77}, {})
    assert read.models["m"].limits == Limits(9, None, 8)
    assert read.authenticate(any_secret, PEPPER.encode(), now_ms())[0].limits.rpm is None
    for name in ("m", "short"):
        model = read.resolve(name, key)
        assert (model.name, model.model_id, model.lane, model.embedding) == ("m", model_id, "litellm", False)
    raw = document["models"]["m"]
    assert (model.context_length, model.default_max_tokens) == (raw["context_length"], raw["default_max_tokens"])
    price = model.price
    assert (price.input_nusd, price.cached_input_nusd, price.output_nusd, price.request_nusd) == (20, 5, 80, 1000)
    assert read.hold.max_requests == document["hold"]["max_requests"]
    with pytest.raises(ApiError):
        read.authenticate(secret, b"another pepper", now_ms())


def test_the_gateway_reads_the_cold_start_and_the_routes_that_the_controller_publishes(bench: Any) -> None:
    bench.add_model(split=True)
    bench.gateway.activity("m", waiting=1)
    bench.run()
    start = parse_cold_start(bench.redis.hget("hyd:coldstart", "m"))
    (group,) = bench.groups()
    assert (start.cold_start_id, start.state, start.failed_at_ms) == (group.cold_start_id, "starting", None)
    assert start.eta_ms is not None
    for node in bench.nodes.values():
        node.lives.extend(["ready", "hold"])
    bench.settle()
    (route,) = parse_routes("m", bench.redis.hget("hyd:routes", "m"))
    pipeline = bench.groups()[0]
    assert (route.group_id, route.url, route.api_key) == (pipeline.id, pipeline.url, pipeline.api_key)
    assert (route.state, route.prefer, route.capacity) == ("pipeline", 1, 8)
    assert route.cold_start_id == start.cold_start_id


def test_the_gateway_reads_why_a_model_cannot_start(bench: Any) -> None:
    bench.add_model()
    for node in bench.nodes.values():
        node.lives.extend(["fail"] * 8)
    bench.gateway.activity("m", waiting=1)
    bench.settle()
    document = bench.redis.hget("hyd:coldstart", "m")
    assert document is not None
    start = parse_cold_start(document)
    assert start.state in ("waiting", "failed")
    assert (start.failed_at_ms is not None) == (start.state == "failed")
    assert start.error
