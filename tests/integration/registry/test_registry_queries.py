"""Questions that pages and the command line ask: usage, ledger, CSV, cold starts."""

import csv
import io
from typing import Any

import pytest
from sqlalchemy.orm import Session
from support.registry_rows import add_model, add_tenant, current_price, usage_event

from registry.db import SessionFactory, read_scope, session_scope
from registry.errors import InvalidError, NotFoundError
from registry.models import ColdStart, ColdStartEvent, Group, Model, Stage, Tenant
from registry.ops import coldstarts, ledger, money, nodes, usage
from registry.ops.usage import UsageFilter, UsageTotals


@pytest.fixture
def billed(session_factory: SessionFactory) -> tuple[Tenant, Tenant, Model]:
    """Five attempts of one tenant on two models, ending at 1000, 2000, ... ms, and one of another tenant."""
    with session_scope(session_factory) as session:
        acme, other = add_tenant(session), add_tenant(session, "other")
        smol, big = add_model(session), add_model(session, "big")
        events = [
            usage_event(acme, model, current_price(session, model), ended_at_ms=1000 * number, request_id=f"r{number}")
            for number, model in enumerate([smol, smol, smol, big, big], start=1)
        ]
        events.append(usage_event(other, smol, current_price(session, smol), ended_at_ms=1000, request_id="=cmd()"))
        assert len(ledger.settle(session, events).settled) == 6
        return acme, other, smol


def test_usage_is_paged_from_the_latest(session_factory: SessionFactory, billed: tuple[Tenant, Tenant, Model]) -> None:
    wanted = UsageFilter(tenant_id=billed[0].id)
    with read_scope(session_factory) as session:
        pages = [usage.list_usage(session, wanted, limit=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert [[row.request_id for row in page] for page in pages] == [["r5", "r4"], ["r3", "r2"], ["r1"], []]


@pytest.mark.parametrize(
    ("options", "requests"),
    [({}, 5), ({"from_ms": 2000}, 4), ({"until_ms": 2000}, 1), ({"from_ms": 2000, "until_ms": 4000}, 2)],
)
def test_totals_are_those_of_the_rows(
    session_factory: SessionFactory, billed: tuple[Tenant, Tenant, Model], options: dict[str, int], requests: int
) -> None:
    wanted = UsageFilter(tenant_id=billed[0].id, **options)
    with read_scope(session_factory) as session:
        assert len(usage.list_usage(session, wanted)) == requests
        assert usage.usage_totals(session, wanted) == UsageTotals(
            requests, requests, 100 * requests, 40 * requests, 10 * requests, 3200 * requests
        )


def test_totals_by_model_add_up_and_nothing_is_zero(
    session_factory: SessionFactory, billed: tuple[Tenant, Tenant, Model]
) -> None:
    with read_scope(session_factory) as session:
        by_model = usage.usage_by_model(session, UsageFilter())
        assert {name: totals.requests for name, totals in by_model.items()} == {"big": 2, "smol": 4}
        assert usage.usage_totals(session, UsageFilter(model_id=billed[2].id)) == by_model["smol"]
        assert usage.usage_totals(session, UsageFilter(key_id="key_none")) == UsageTotals(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_bounds(session_factory: SessionFactory, limit: int) -> None:
    with read_scope(session_factory) as session:
        with pytest.raises(InvalidError, match="limit"):
            usage.list_usage(session, UsageFilter(), limit=limit)
        with pytest.raises(InvalidError, match="limit"):
            usage.list_ledger(session, limit=limit)


def test_the_ledger_is_paged_from_the_latest(
    session_factory: SessionFactory, billed: tuple[Tenant, Tenant, Model]
) -> None:
    with read_scope(session_factory) as session:
        first = usage.list_ledger(session, tenant_id=billed[0].id, limit=3)
        rest = usage.list_ledger(session, tenant_id=billed[0].id, limit=3, before_id=first[-1].id)
    ids = [entry.id for entry in [*first, *rest]]
    assert len(ids) == 5
    assert ids == sorted(ids, reverse=True)


def test_csv_holds_exact_amounts_and_no_formula(
    session_factory: SessionFactory, billed: tuple[Tenant, Tenant, Model]
) -> None:
    with session_scope(session_factory) as session:
        money.adjust(session, "ada", billed[1].id, -7, "-2+3 is =1")
    with read_scope(session_factory) as session:
        rows = list(csv.DictReader(io.StringIO("".join(usage.usage_csv(session, UsageFilter(tenant_id=billed[1].id))))))
        entries = list(csv.DictReader(io.StringIO("".join(usage.ledger_csv(session, billed[1].id)))))
    assert [(row["request_id"], row["cost_nusd"], row["cost_usd"]) for row in rows] == [
        ("'=cmd()", "3200", "0.0000032")
    ]
    assert [(entry["kind"], entry["amount_nusd"], entry["amount_usd"], entry["reason"]) for entry in entries] == [
        ("settle", "-3200", "-0.0000032", ""),
        ("adjust", "-7", "-0.000000007", "'-2+3 is =1"),
    ]


def test_a_long_export_comes_in_pieces(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        tenant, model = add_tenant(session), add_model(session)
        price = current_price(session, model)
        ledger.settle(session, [usage_event(tenant, model, price) for _ in range(2500)])
    with read_scope(session_factory) as session:
        pieces = list(usage.usage_csv(session, UsageFilter()))
    assert len(pieces) == 4
    assert sum(piece.count("\r\n") for piece in pieces) == 2501


def add_cold_start(session: Session, model: Model, number: int, **fields: Any) -> ColdStart:
    row = ColdStart(
        id=f"cst_{number}", model_id=model.id, cause="demand", plan={}, requested_at_ms=1000 * number, **fields
    )
    session.add(row)
    session.flush()
    return row


def test_cold_starts_are_listed_from_the_latest(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        smol, big = add_model(session), add_model(session, "big")
        for number, model in enumerate([smol, big, smol], start=1):
            add_cold_start(session, model, number)
    with read_scope(session_factory) as session:
        assert [row.id for row in coldstarts.list_cold_starts(session)] == ["cst_3", "cst_2", "cst_1"]
        assert [row.model.name for row in coldstarts.list_cold_starts(session, model_id=big.id)] == ["big"]
        assert [row.id for row in coldstarts.list_cold_starts(session, limit=1, offset=1)] == ["cst_2"]
        with pytest.raises(NotFoundError, match="cst_9"):
            coldstarts.waterfall(session, "cst_9")


def test_a_cold_start_is_drawn_from_sql_alone(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        model = add_model(session)
        add_cold_start(session, model, 1)
        nodes.upsert_from_report(
            session,
            {
                "node": "node-a", "boot_id": "b", "seq": 1, "address": "127.0.0.1", "ports": [1, 2], "link_bps": 1,
                "devices": [],
            },
            1,
        )  # fmt: skip
        session.add(
            Group(
                id="grp_1", model_id=model.id, cold_start_id="cst_1", state="pipeline", plan={}, api_key="k",
                created_at_ms=1, deadline_ms=0,
            )
        )  # fmt: skip
        session.flush()
        for rank in (1, 0):
            session.add(
                Stage(
                    id=f"stg_{9 - rank}", group_id="grp_1", rank=rank, node_name="node-a", device_idx=rank,
                    first_layer=0, layer_count=1, full=True, reserved_bytes=1, port=1,
                )
            )  # fmt: skip
        events = {
            ("", "planned"): 1010,
            ("stg_9", "queued"): 1020,
            ("stg_9", "prefetch_start"): 1050,
            ("stg_9", "first_byte"): 1060,
            ("stg_9", "prefetch_end"): 2050,
            ("stg_9", "load_start"): 1500,
            ("stg_8", "prefetch_start"): 1055,
        }
        for (stage_id, kind), at_ms in events.items():
            session.add(ColdStartEvent(cold_start_id="cst_1", stage_id=stage_id, kind=kind, at_ms=at_ms))
    with read_scope(session_factory) as session:
        rows = [(row.label, row.step, row.start_ms, row.end_ms) for row in coldstarts.waterfall(session, "cst_1").rows]
    assert rows == [
        ("group", "planned", 10, 10),
        ("rank 0 on node-a", "queued", 20, 50),
        ("rank 0 on node-a", "prefetch", 50, 1050),
        ("rank 0 on node-a", "load", 500, None),
        ("rank 0 on node-a", "first_byte", 60, 60),
        ("rank 1 on node-a", "prefetch", 55, None),
    ]
