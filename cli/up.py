"""`hydrant up`: start everything on this machine and stay until Ctrl-C."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import select

from cli import seed
from cli.home_lock import only_one
from cli.interrupts import Interrupted, ignore_further, interruptible
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


def dev_nodes(link_gbps: float, first_port: int) -> list[DevNode]:
    """Two stand-ins for two servers, a core of this process' each (the same one, if there is but one)."""
    cores = sorted(os.sched_getaffinity(0))
    return [
        DevNode("node-a", core=cores[0], ports=(first_port, first_port + 99), link_gbps=link_gbps),
        DevNode("node-b", core=cores[1 % len(cores)], ports=(first_port + 100, first_port + 199), link_gbps=link_gbps),
    ]


@contextmanager
def running(
    progress: Progress,
    *,
    link_gbps: float,
    slo_ttft_ms: int,
    keep_alive_s: int,
    on_seeded: Callable[[seed.Seeded], None] = lambda _seeded: None,
) -> Iterator[Running]:
    """Start everything in HYDRANT_HOME, wait until it is ready, and stop all of it at the end, whatever happens.

    `on_seeded` is called as soon as the secrets exist: a start that fails later does not make them again.
    Raises CannotStart, TimedOut, RegistryError, and Interrupted for a signal, at once whatever is being waited for.
    """
    settings = load_settings()
    services = Services(settings.home, Ports.of(settings), dev_nodes(link_gbps, settings.engine_ports))
    with only_one(settings.home), interruptible():
        orphans = services.end_all()
        if orphans:
            progress.say(f"ended {len(orphans)} processes that an earlier start, killed before it could stop, had left")
        services.check()
        sessions = seed.open_database(settings)
        seeded = seed.seed(sessions, settings, progress, slo_ttft_ms=slo_ttft_ms, keep_alive_s=keep_alive_s)
        on_seeded(seeded)
        try:
            progress.say("starting the Procfile: Redis, gateway, hosted, controller, ledger, beat, admin UI, two nodes")
            services.start()
            redis = Redis.from_url(settings.redis_url.get_secret_value())
            _wait_until_ready(services, settings, sessions, redis, progress)
            yield Running(services, settings, sessions, redis, seeded)
        finally:
            ignore_further()
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
        "both nodes to import SGLang (usually half a minute; a minute and more on a busy machine)",
        nodes_warm,
        within_s=READY_WITHIN_S,
        hint=hint,
    )


def up(*, as_json: bool = False) -> int:
    """Start, print where to go, stay until a signal; 0 when all was stopped in order."""
    progress = Progress(sys.stderr if as_json else sys.stdout)
    made: list[seed.Seeded] = []
    ready = False
    try:
        with running(progress, link_gbps=1.0, slo_ttft_ms=15_000, keep_alive_s=300, on_seeded=made.append) as hydrant:
            ready = True
            # With --json the secrets are in the document alone: standard error is what ends up in logs.
            progress.say(welcome(hydrant) if not as_json else "ready")
            if as_json:
                print(json.dumps(document(hydrant)), flush=True)
            while not hydrant.services.died():
                time.sleep(0.5)
            progress.say(f"a process has ended, and honcho stopped the others:\n{hydrant.services.log_tail()}")
            return 1
    except Interrupted as signalled:
        progress.say("stopped")
        return 0 if ready else signalled.exit_status
    finally:
        # A start that did not come to its end made them all the same, and the next one cannot show them.
        if made and (made[0].api_key or made[0].owner_password) and not ready and not as_json:
            progress.say("\n".join([f"what was made, for {made[0].owner} at the next start:", *secrets_once(made[0])]))


def secrets_once(seeded: seed.Seeded) -> tuple[str, str]:
    """The two secrets that are shown once, or how to have new ones."""
    key = (
        f"{seeded.api_key}   (shown once)" if seeded.api_key else f"made before; for another: {seeded.new_key_command}"
    )
    password = (
        f"{seeded.owner_password}   (shown once)"
        if seeded.owner_password
        else f"made before; for a new one: {seeded.new_password_command}"
    )
    return f"  API key           {key}", f"  one-time password {password}"


def welcome(hydrant: Running) -> str:
    """Where things are, and what opens them."""
    key, password = secrets_once(hydrant.seeded)
    lines = [
        "ready",
        f"  OpenAI base URL   {hydrant.services.gateway_url}/v1   model: {seed.MODEL_NAME}",
        key,
        f"  admin UI          {hydrant.services.admin_url}",
        f"  user              {hydrant.seeded.owner}",
        password,
        f"  log               {hydrant.services.log}",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def document(hydrant: Running) -> dict[str, str | None]:
    """The same for a program; a secret that an earlier start made is null."""
    return {
        "base_url": f"{hydrant.services.gateway_url}/v1",
        "model": seed.MODEL_NAME,
        "api_key": hydrant.seeded.api_key,
        "admin_url": hydrant.services.admin_url,
        "admin_user": hydrant.seeded.owner,
        "one_time_password": hydrant.seeded.owner_password,
        "log": str(hydrant.services.log),
    }
