"""`hydrant doctor`: looks for what keeps Hydrant from working on this machine, and says how to mend each."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import checks
from cli.checks import Finding, Verdict
from cli.command import Command, reporting
from cli.console import Console
from cli.errors import expected
from registry.ids import now_ms

if TYPE_CHECKING:
    from registry.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
_MARKS = {Verdict.OK: "ok  ", Verdict.WARNING: "warn", Verdict.FAILED: "FAIL"}


@click.command(cls=Command, examples=["hydrant doctor", "hydrant doctor --control-only", "hydrant doctor --json"])
@click.option("--control-only", is_flag=True, help="This machine runs no node: no engine and no /dev/shm is needed.")
@reporting
def doctor(console: Console, control_only: bool) -> None:
    """Check this machine: Python, disk, memory for weights, Redis, database, secrets, engine, ports, nodes.

    Changes nothing. Ends with status 1 when something must be mended; each such line says how.
    """
    findings = examine(control_only=control_only)
    failed = sum(1 for finding in findings if finding.verdict is Verdict.FAILED)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.verdict]}  {finding.check}: {finding.detail}")
        if finding.remedy is not None:
            lines.append(f"      -> {finding.remedy}")
    lines += ["", f"{failed} of {len(findings)} checks failed" if failed else f"all {len(findings)} checks passed"]
    console.show({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, lines)
    if failed:
        click.get_current_context().exit(1)


def examine(*, control_only: bool) -> list[Finding]:
    """All checks that can be made; those that need what another found broken are left out."""
    findings = [checks.check_python(tuple(sys.version_info[:3]))]
    settings = _settings(findings)
    largest, in_sql = 0, dict[str, int]()
    if settings is not None:
        engine = checks.check_engine(ROOT / ".venv-engine")
        to_install = not control_only and engine.verdict is not Verdict.OK
        findings.append(checks.check_disk(settings.home, engine_to_install=to_install))
        findings.append(checks.check_secrets(settings.home / "secrets.json"))
        findings.append(checks.check_redis(settings))
        largest, in_sql = _database(settings, findings)
    if not control_only:
        findings.append(checks.check_shm(largest))
        findings.append(checks.check_engine(ROOT / ".venv-engine"))
    if settings is not None:
        for service in ("gateway", "admin", "hosted"):
            findings.append(checks.check_port(service, getattr(settings, f"{service}_port")))
        findings += _nodes(settings, in_sql)
    return findings


def _settings(findings: list[Finding]) -> "Settings | None":
    """The settings, without making the home directory or its secrets."""
    from pydantic import ValidationError

    from registry.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "environment"
        findings.append(
            Finding("environment", Verdict.FAILED, f"{name}: {first['msg']}", f"correct or unset the variable {name}")
        )
        return None
    findings.append(Finding("environment", Verdict.OK, f"HYDRANT_HOME is {settings.home}"))
    return settings


def _database(settings: "Settings", findings: list[Finding]) -> tuple[int, dict[str, int]]:
    """Whether the database is there and of this version; the largest model's bytes, and when each node reported."""
    from sqlalchemy import func, select

    from cli.services import nodes_of_up
    from cli.workspace import open_engine, require_schema
    from registry.db import make_session_factory, read_scope
    from registry.models import Model, Node
    from registry.ops import reconciliations

    engine = None
    try:
        engine = open_engine(settings)
        require_schema(engine)
        with read_scope(make_session_factory(engine)) as session:
            largest = session.scalar(select(func.max(Model.weight_bytes)).where(Model.deleted_at_ms.is_(None)))
            seen = {name: int(at_ms) for name, at_ms in session.execute(select(Node.name, Node.seen_at_ms))}
            last = reconciliations.last(session)
    except Exception as error:
        failure = expected(error)
        if failure is None:
            raise
        problem, _, remedy = failure.message.partition("; ")
        findings.append(Finding("database", Verdict.FAILED, problem, remedy.removeprefix("run: ") or None))
        return 0, {}
    finally:
        if engine is not None:
            engine.dispose()
    findings.append(Finding("database", Verdict.OK, "answers, at this version's schema"))
    ended, differences = (None, 0) if last is None else (last.ended_at_ms, len(last.differences))
    findings.append(checks.check_books(ended, differences, now_ms(), of_up=bool(nodes_of_up(settings.home))))
    return int(largest or 0), seen


def _nodes(settings: "Settings", seen: dict[str, int]) -> list[Finding]:
    """Nodes of this machine by their sockets, the others by their last report."""
    from cli.services import nodes_of_up
    from tasks.state import NODE_LOST_MS

    of_up = nodes_of_up(settings.home)
    sockets = {path.parent.name: path for path in sorted(settings.home.glob("*/noded.sock"))}
    if os.environ.get("HYDRANT_NODE_CONFIG"):
        from engine.node_config import ConfigError, load_config

        try:
            config = load_config()
        except ConfigError as error:
            return [
                Finding("node configuration", Verdict.FAILED, str(error), "correct the file HYDRANT_NODE_CONFIG names")
            ]
        sockets[config.name] = config.api_socket
    at_ms = now_ms()
    here = [checks.check_noded(name, path, of_up=name in of_up) for name, path in sockets.items()]
    others = [
        checks.check_seen(name, max(0, at_ms - last), NODE_LOST_MS, of_up=name in of_up)
        for name, last in sorted(seen.items())
        if name not in sockets
    ]
    if not here and not others:
        remedy = "hydrant up starts two on this machine; on GPU servers see docs/operations.md"
        return [Finding("nodes", Verdict.WARNING, "no node has reported yet, so no model can run", remedy)]
    return here + others
