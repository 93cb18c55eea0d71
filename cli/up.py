"""`hydrant up`: start everything on this machine and stay until Ctrl-C."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from redis import Redis
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import select

from cli import seed
from cli.progress import Progress
from cli.services import CannotStart, DevNode, Ports, Services
from registry.db import SessionFactory, read_scope
from registry.ids import now_ms
from registry.models import Node
from registry.settings import Settings, load_settings

READY_WITHIN_S = 120.0


@dataclass(frozen=True)
class Running:
    """A Hydrant that has started, with the handles a command needs."""

    services: Services
    settings: Settings
    sessions: SessionFactory
    redis: "Redis"
    seeded: seed.Seeded


def dev_nodes(link_gbps: float) -> list[DevNode]:
    """Two stand-ins for two servers, a core each."""
    return [
        DevNode("node-a", core=0, ports=(31000, 31099), link_gbps=link_gbps),
        DevNode("node-b", core=1, ports=(31100, 31199), link_gbps=link_gbps),
    ]


@contextmanager
def running(
    progress: Progress, *, home: Path, link_gbps: float, slo_ttft_ms: int, keep_alive_s: int
) -> Iterator[Running]:
    """Start everything, wait until it is ready, and stop all of it at the end, whatever happens in between."""
    services = Services(home, Ports.from_environment(), dev_nodes(link_gbps))
    services.check()
    settings = load_settings()
    sessions = seed.open_database(settings)
    seeded = seed.seed(sessions, settings, progress, slo_ttft_ms=slo_ttft_ms, keep_alive_s=keep_alive_s)
    try:
        progress.say("starting the Procfile: Redis, gateway, hosted, controller, ledger, beat, admin UI, two nodes")
        services.start()
        redis = Redis.from_url(settings.redis_url.get_secret_value())
        _wait_until_ready(services, settings, sessions, redis, progress)
        yield Running(services, settings, sessions, redis, seeded)
    finally:
        services.stop(progress)


def _wait_until_ready(
    services: Services, settings: Settings, sessions: SessionFactory, redis: Redis, progress: Progress
) -> None:
    hint = f"Look at {services.log}"

    def redis_answers() -> bool | None:
        try:
            return bool(redis.ping()) or None
        except RedisAway:
            # Still starting; a process that ended instead is noticed here too.
            if services.died():
                raise CannotStart(f"a process ended while starting:\n{services.log_tail()}") from None
            return None

    progress.wait_for("Redis", redis_answers, within_s=READY_WITHIN_S, hint=hint)
    seed.publish(sessions, redis, settings)
    for name, url in (("gateway", services.gateway_url + "/ready"), ("admin UI", services.admin_url + "/health")):
        progress.wait_for(name, lambda url=url: services.answers(url) or None, within_s=READY_WITHIN_S, hint=hint)  # type: ignore[misc]
    wanted = {node.name for node in services.nodes}

    def nodes_warm() -> bool | None:
        if services.died():
            raise CannotStart(f"a process ended while starting:\n{services.log_tail()}")
        with read_scope(sessions) as session:
            nodes = session.scalars(select(Node)).all()
        fresh = [node for node in nodes if now_ms() - node.seen_at_ms < 15_000]
        warm = {node.name for node in fresh if node.report.get("warm", {}).get("ready")}
        return wanted <= warm or None

    progress.wait_for(
        "both nodes' warm runtimes (SGLang imported once)", nodes_warm, within_s=READY_WITHIN_S, hint=hint
    )


def up() -> int:
    """Start, print where to go, stay until a signal; 0 when all was stopped in order."""
    progress = Progress(sys.stdout)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    home = load_settings().home
    with running(progress, home=home, link_gbps=1.0, slo_ttft_ms=15_000, keep_alive_s=300) as hydrant:
        progress.say(welcome(hydrant))
        while not stop.wait(1.0):
            if hydrant.services.died():
                progress.say(f"a process has ended, and honcho stopped the others:\n{hydrant.services.log_tail()}")
                return 1
        progress.say("stopping (running answers get up to 30 s to end)")
    progress.say("stopped")
    return 0


def welcome(hydrant: Running) -> str:
    """Where things are, and the two secrets that are shown once."""
    lines = [
        "ready",
        f"  OpenAI base URL   {hydrant.services.gateway_url}/v1   model: {seed.MODEL_NAME}",
        f"  API key           {hydrant.seeded.api_key or 'made by an earlier start; make another: hydrant key create'}",
        f"  admin UI          {hydrant.services.admin_url}   user: {seed.OWNER}",
        f"  one-time password {hydrant.seeded.owner_password or 'used; a new one: hydrant user reset-password'}",
        f"  log               {hydrant.services.log}",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)
