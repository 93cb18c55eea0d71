"""`hydrant status`: what there is and what runs, at a glance."""

from typing import Any

import click

from cli.command import Command, reporting
from cli.console import Console, table
from cli.errors import expected
from cli.units import moment, size
from registry.ids import now_ms


@click.command(
    cls=Command, examples=["hydrant status", "watch -n 2 hydrant status", "hydrant status --json | jq .groups"]
)
@reporting
def status(console: Console) -> None:
    """Database and Redis, gateways, nodes and devices, models and their groups, balances.

    Ends with status 1 when the database or Redis does not answer.
    """
    from cli.nodes import nodes_table
    from cli.workspace import Workspace

    reached: dict[str, str] = {}
    document: dict[str, Any] = {"reachable": reached, "nodes": [], "groups": [], "models": [], "tenants": []}
    try:
        with Workspace(console) as here:
            document |= _from_sql(here)
            reached["database"] = "ok"
            redis_url = here.settings.redis_url.get_secret_value()
    except Exception as error:
        failure = expected(error)
        if failure is None:
            raise
        reached["database"] = failure.message
        redis_url = None
    document["gateways"] = _gateways(redis_url, reached)
    lines = [f"database  {reached['database']}", f"redis     {reached['redis']}"]
    gateways = document["gateways"]
    lines.append(f"gateways  {', '.join(gateways) if gateways else 'none alive'}")
    if reached["database"] == "ok":
        lines += [
            "",
            *nodes_table(document["nodes"]),
            _idle_memory(document["idle_memory"]),
            "",
            *_models(document["models"]),
        ]
        lines += ["", *_groups(document["groups"]), "", *_tenants(document["tenants"])]
        if document["rejected_usage"]:
            count = document["rejected_usage"]
            lines += ["", f"{count} usage event{'' if count == 1 else 's'} could not be billed: hydrant usage rejected"]
    console.show(document, lines)
    if any(answer != "ok" for answer in reached.values()):
        click.get_current_context().exit(1)


def _from_sql(here: Any) -> dict[str, Any]:
    from cli.cluster import group_documents, idle_memory_document, node_documents
    from registry.ops import models, money, tenants
    from registry.ops.ledger import list_rejected

    with here.read() as session:
        balances = money.balances_nusd(session)
        return {
            "nodes": node_documents(session, now_ms()),
            "groups": group_documents(session),
            "idle_memory": idle_memory_document(session, here.settings, now_ms()),
            "rejected_usage": len(list_rejected(session, limit=1000)),
            "models": [
                {
                    "name": row.name,
                    "enabled": row.enabled,
                    "lane": row.lane,
                    "weight_bytes": row.weight_bytes,
                    "min_replicas": row.min_replicas,
                    "warm_until_ms": row.warm_until_ms,
                }
                for row in models.list_models(session)
            ],
            "tenants": [
                {
                    "name": row.name,
                    "enabled": row.enabled,
                    "balance_nusd": balances.get(row.id, 0),
                    "balance_usd": money.format_dollars(balances.get(row.id, 0)),
                }
                for row in tenants.list_tenants(session)
            ],
        }


def _gateways(redis_url: str | None, reached: dict[str, str]) -> list[str]:
    """Ids of the gateways whose heart beats; notes in `reached` how Redis is."""
    import json

    from redis.exceptions import RedisError

    from cli.workspace import connect_redis
    from registry.settings import load_settings
    from tasks.demand import GATEWAY_DEAD_MS

    try:
        url = redis_url if redis_url is not None else load_settings().redis_url.get_secret_value()
        with connect_redis(url) as redis:
            beats = redis.hgetall("hyd:gateways")
    except (RedisError, OSError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        reached["redis"] = f"does not answer ({reason}); start it (hydrant up starts one), or set REDIS_URL"
        return []
    reached["redis"] = "ok"
    at_ms = now_ms()
    return sorted(name.decode() for name, beat in beats.items() if at_ms - json.loads(beat)["at_ms"] < GATEWAY_DEAD_MS)


def _idle_memory(document: dict[str, int]) -> str:
    return (
        f"idle workers hold {size(document['held_bytes'])} beyond their set keep-alives, of"
        f" {size(document['budget_bytes'])} at most ({document['percent']} %, HYDRANT_IDLE_MEMORY_PERCENT)"
    )


def _models(documents: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            d["name"],
            d["enabled"],
            d["lane"],
            size(d["weight_bytes"]) if d["lane"] != "hosted" else None,
            d["min_replicas"],
            moment(d["warm_until_ms"]),
        )
        for d in documents
    ]
    headings = ("MODEL", "ENABLED", "LANE", "WEIGHTS", "MIN", "WARM UNTIL (UTC)")
    return table(headings, rows, right="000110") if rows else ["no model; add one: hydrant model register --help"]


def _groups(documents: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            d["model"],
            d["group_id"],
            d["state"],
            ", ".join(d["nodes"]),
            moment(d["created_at_ms"]),
            f"{size(d['bytes_fetched'])} of {size(d['bytes_to_fetch'])}" if d["bytes_to_fetch"] else "from memory",
        )
        for d in documents
    ]
    headings = ("RUNNING", "GROUP", "STATE", "NODES", "STARTED (UTC)", "FETCHED")
    return table(headings, rows) if rows else ["nothing runs: scaled to zero"]


def _tenants(documents: list[dict[str, Any]]) -> list[str]:
    from registry.ops.money import usd

    rows = [(d["name"], d["enabled"], usd(d["balance_nusd"])) for d in documents]
    return table(("TENANT", "ENABLED", "BALANCE"), rows, right="00.") if rows else ["no tenant"]
