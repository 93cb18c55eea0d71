"""What `hydrant doctor` looks at: one function a thing that can be wrong, each with what to do about it."""

import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import InvalidError

if TYPE_CHECKING:
    from registry.settings import Settings

PYTHON = (3, 11)
ENGINE = "sglang-0.5.23"
DISK_BYTES = 6_000_000_000
"""What the engine's environment and a small model take."""
DISK_BYTES_INSTALLED = 1_000_000_000
"""Once these are there: logs, the database and Redis' file."""
SHM_BYTES = 2_000_000_000
"""The least room for weights in host memory with which the demo works."""
PROBE_TIMEOUT_S = 2.0
BOOKS_OLD_S = 1800
"""Reconciled longer ago than this, the ledger's worker or beat is away."""
_SERVICES = {"gateway": "gateway", "admin": "admin UI", "hosted": "hosted process"}
SHM = Path("/dev/shm")  # noqa: S108 - not a temporary directory: where Linux keeps shared memory


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """The result of one check. `remedy` says what to do when it is not OK."""

    check: str
    verdict: Verdict
    detail: str
    remedy: str | None = None


def check_python(version: tuple[int, ...]) -> Finding:
    """The interpreter is of the version that everything was tested on."""
    found, wanted = ".".join(map(str, version[:3])), ".".join(map(str, PYTHON))
    if version[:2] == PYTHON:
        return Finding("python", Verdict.OK, f"{found} at {sys.executable}")
    remedy = f"install Python {wanted} (Debian 12: apt install python{wanted} python{wanted}-venv), then: make setup"
    return Finding("python", Verdict.FAILED, f"{found}, and Hydrant needs {wanted}", remedy)


def check_disk(path: Path, *, engine_to_install: bool) -> Finding:
    """There is room on the file system of `path`, or of its nearest parent that exists."""
    needed = DISK_BYTES if engine_to_install else DISK_BYTES_INSTALLED
    place = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free at {place}"
    if free >= needed:
        return Finding("disk space", Verdict.OK, detail)
    what = "the engine, a model and the logs" if engine_to_install else "logs and the database"
    remedy = f"free some space: {needed / 1e9:.0f} GB are needed for {what}"
    return Finding("disk space", Verdict.FAILED, detail, remedy)


def check_shm(largest_model_bytes: int, path: Path = SHM) -> Finding:
    """Host memory for weights is large enough for the largest registered model."""
    needed = max(SHM_BYTES, largest_model_bytes)
    if not path.is_dir():
        return Finding(
            "shared memory", Verdict.FAILED, f"there is no {path}", f"mount -t tmpfs -o size=8G tmpfs {path}"
        )
    total = shutil.disk_usage(path).total
    detail = f"{total / 1e9:.1f} GB"
    if total >= needed:
        return Finding("shared memory", Verdict.OK, f"{detail} at {path}")
    gigabytes = -(-needed // 10**9)
    remedy = f"mount -o remount,size={gigabytes}G {path}   (in a container: --shm-size={gigabytes}g)"
    return Finding("shared memory", Verdict.FAILED, f"{detail} at {path}, and weights need {needed / 1e9:.1f}", remedy)


def check_engine(venv: Path) -> Finding:
    """The engine's environment exists and holds the SGLang that everything was tested with."""
    remedy = "deploy/setup.sh engine   (on machines without a node: hydrant doctor --control-only)"
    if not os.access(venv / "bin" / "python", os.X_OK):
        return Finding("engine", Verdict.FAILED, f"there is no environment at {venv}", remedy)
    found = sorted(path.name.removesuffix(".dist-info") for path in venv.glob("lib/*/site-packages/sglang-*.dist-info"))
    if ENGINE not in found:
        return Finding(
            "engine", Verdict.FAILED, f"{venv} holds {', '.join(found) or 'no SGLang'}, not {ENGINE}", remedy
        )
    return Finding("engine", Verdict.OK, f"{ENGINE} in {venv}")


def check_secrets(path: Path) -> Finding:
    """The secrets file, if it was made already, can be read by its owner only and is whole."""
    from registry.settings import load_secrets

    if not path.exists():
        return Finding("secrets", Verdict.OK, f"{path} is made by the first process that starts")
    if path.stat().st_uid != os.getuid() and os.getuid() != 0:
        return Finding("secrets", Verdict.FAILED, f"{path} belongs to another user", f"chown {os.getuid()} {path}")
    try:
        load_secrets(path)
    except InvalidError as error:
        problem, _, remedy = error.message.partition("; ")
        return Finding("secrets", Verdict.FAILED, problem, remedy.removeprefix("run: "))
    return Finding("secrets", Verdict.OK, f"{path}, mode {path.stat().st_mode & 0o777:04o}")


def check_redis(settings: "Settings") -> Finding:
    """Redis answers, and keeps what it is told on disk."""
    from redis.exceptions import RedisError

    from cli.workspace import connect_redis

    try:
        with connect_redis(settings.redis_url.get_secret_value()) as redis:
            persistence = redis.info("persistence")
    except (RedisError, OSError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        return Finding("redis", Verdict.FAILED, reason, "start Redis (hydrant up starts one), or correct REDIS_URL")
    if not persistence.get("aof_enabled"):
        return Finding(
            "redis",
            Verdict.WARNING,
            "answers, but keeps nothing on disk: usage that is not settled yet would be settled from the last"
            " checkpoint after a crash of Redis",
            "redis-cli config set appendonly yes, and the same in redis.conf",
        )
    return Finding("redis", Verdict.OK, "answers, with AOF")


def check_books(ended_at_ms: int | None, differences: int, now_ms: int, *, of_up: bool) -> Finding:
    """The last comparison of events, usage, ledger and balances found no difference, and is not long ago. `of_up`:
    hydrant up starts the ledger, not systemd."""
    if ended_at_ms is None:
        return Finding("ledger", Verdict.OK, "not reconciled yet; its worker does so every five minutes")
    ago = max(0, now_ms - ended_at_ms) // 1000
    if differences:
        detail = f"{differences} difference(s) in the books, {ago} s ago"
        return Finding("ledger", Verdict.FAILED, detail, "see what differs: hydrant ledger reconcile")
    if ago > BOOKS_OLD_S:
        detail = f"was last reconciled {ago} s ago, and should be every five minutes"
        remedy = "start everything: hydrant up" if of_up else "systemctl status hydrant-ledger hydrant-beat"
        return Finding("ledger", Verdict.WARNING, detail, remedy)
    return Finding("ledger", Verdict.OK, f"reconciled {ago} s ago, no difference")


def check_port(service: str, port: int) -> Finding:
    """A port is free, or Hydrant's own service listens there already."""
    name = f"port {port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = error
        else:
            return Finding(name, Verdict.OK, f"free for the {_SERVICES[service]}")
    if _is_ours(port):
        return Finding(name, Verdict.OK, f"the {_SERVICES[service]} listens there")
    remedy = f"see who has it: ss -ltnp 'sport = :{port}'; or set HYDRANT_{service.upper()}_PORT to a free one"
    return Finding(name, Verdict.FAILED, f"the {_SERVICES[service]} needs it: {taken.strerror}", remedy)


def check_noded(node: str, path: Path, *, of_up: bool) -> Finding:
    """The node daemon behind a socket of this machine answers. `of_up`: hydrant up starts it, not systemd."""
    from engine.client import NodedClient, NodedError

    name = f"node {node}"
    try:
        report = NodedClient(path).report()
    except NodedError as error:
        start = "hydrant up" if of_up else "systemctl start hydrant-noded"
        remedy = f"start it: {start}; or remove {path} if the node is gone"
        return Finding(name, Verdict.FAILED, str(error).partition(";")[0], remedy)
    warm = "with a warm runtime" if report.get("warm", {}).get("ready") else "without a warm runtime yet"
    stages = sum(stage["state"] not in ("gone", "failed") for stage in report["stages"])
    return Finding(name, Verdict.OK, f"noded answers, {warm}, {stages} stage{'' if stages == 1 else 's'}")


def check_seen(node: str, ago_ms: int, lost_after_ms: int, *, of_up: bool) -> Finding:
    """A node without a socket here has reported lately. `of_up`: hydrant up starts it, not systemd."""
    name, detail = f"node {node}", f"reported {ago_ms / 1000:.0f} s ago"
    if ago_ms <= lost_after_ms:
        return Finding(name, Verdict.OK, detail)
    if of_up:
        return Finding(name, Verdict.FAILED, detail, "start everything: hydrant up")
    remedy = f"on {node}: systemctl status hydrant-noded hydrant-worker; if it is gone for good: hydrant node cordon"
    return Finding(name, Verdict.FAILED, detail, f"{remedy} {node}")


def _is_ours(port: int) -> bool:
    """Whether what listens answers /health as Hydrant's services do."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PROBE_TIMEOUT_S) as answer:
            body = answer.read(1000)
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
        return False
    return b'"status"' in body
