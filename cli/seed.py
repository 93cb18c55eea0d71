"""What a first start puts into an empty database: schema, an owner, a demo tenant with a key, a small real model."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from sqlalchemy import select

from cli.progress import Progress
from cli.services import CannotStart
from registry.db import SessionFactory, make_engine, make_session_factory, read_scope, session_scope
from registry.migrate import upgrade
from registry.models import AdminUser, Model, Tenant
from registry.ops.admins import create_admin
from registry.ops.keys import create_key
from registry.ops.models import register_model
from registry.ops.money import top_up
from registry.ops.tenants import create_tenant
from registry.publish import rebuild_redis_if_lost
from registry.settings import Settings, default_home
from registry.sources import inspect_source

ACTOR = "hydrant up"
OWNER = "owner@localhost"
TENANT = "demo"
MODEL_NAME = "smollm2-135m"
MODEL_DIR = Path.home() / ".cache/hydrant/models/SmolLM2-135M-Instruct"
BUDGET_NUSD = 5_000_000_000

# Measured on two cores of a small virtual machine (docs/performance.md): from the fork of a warm runtime on, and what a
# node without one takes longer.
CPU_PROFILE = {
    "tpot_ms": 90,
    "prefill_ms": 400,
    "runtime_floor_ms": 2_000,
    "per_stage_floor_ms": 500,
    "tail_ms": 500,
    "plain_start_ms": 12_000,
    "hop_ms": 5,
}


@dataclass(frozen=True)
class Seeded:
    """What seeding made; a secret is None when it was made by an earlier start, and is then shown no more."""

    api_key: str | None = field(repr=False)
    owner_password: str | None = field(repr=False)
    owner: str
    hydrant: str
    """The command line's beginning, as it works from any directory and for this home."""

    @property
    def new_key_command(self) -> str:
        """What makes another key of the demo tenant."""
        return f"{self.hydrant} key create {TENANT} --name another"

    @property
    def new_password_command(self) -> str:
        """What gives the owner another one-time password."""
        return f"{self.hydrant} user reset-password {shlex.quote(self.owner)}"


def open_database(settings: Settings) -> SessionFactory:
    """The database of these settings, at this version's schema."""
    engine = make_engine(settings.database_url.get_secret_value())
    upgrade(engine)
    return make_session_factory(engine)


def seed(
    sessions: SessionFactory, settings: Settings, progress: Progress, *, slo_ttft_ms: int, keep_alive_s: int
) -> Seeded:
    """Fill in what is missing. What a person has changed since stays as it is."""
    with session_scope(sessions) as session:
        known = session.scalar(select(Model.id).where(Model.name == MODEL_NAME)) is not None
    if not known:
        if not MODEL_DIR.is_dir():
            raise CannotStart(f"the model {MODEL_NAME} is not at {MODEL_DIR}. Run: make setup")
        progress.say(f"registering {MODEL_NAME}: reading {MODEL_DIR} and recording a digest of every tensor")
        # Before any transaction: reading takes a second or two, and nobody should wait for a lock meanwhile.
        manifest = inspect_source(str(MODEL_DIR))
    password = key = None
    with session_scope(sessions) as session:
        if not known:
            model = register_model(
                session,
                ACTOR,
                name=MODEL_NAME,
                source=str(MODEL_DIR),
                manifest=manifest,
                input_nusd=20,
                cached_input_nusd=10,
                output_nusd=80,
                # float32 on a CPU: greedy answers are then the same token for token, however the model is split.
                settings={"dtype": "float32", "context_length": 2048},
                default_max_tokens=256,
                slo_ttft_ms=slo_ttft_ms,
                keep_alive_s=keep_alive_s,
                # So that what newcomers are told is what happens.
                keep_alive_mode="fixed",
            )
            model.profile = dict(CPU_PROFILE)
        if session.scalar(select(Tenant.id).where(Tenant.name == TENANT)) is None:
            tenant = create_tenant(session, ACTOR, name=TENANT)
            top_up(session, ACTOR, tenant.id, BUDGET_NUSD, "demo budget")
            _, key = create_key(
                session, ACTOR, settings.key_pepper.get_secret_value(), tenant_id=tenant.id, name="demo key"
            )
        if session.scalar(select(AdminUser.id).limit(1)) is None:
            _, password = create_admin(session, ACTOR, email=OWNER, role="owner")
        owners = select(AdminUser.email).where(AdminUser.role == "owner", AdminUser.disabled_at_ms.is_(None))
        owner = session.scalars(owners.order_by(AdminUser.created_at_ms).limit(1)).one()
    return Seeded(api_key=key, owner_password=password, owner=owner, hydrant=_hydrant(settings.home))


def _hydrant(home: Path) -> str:
    command = shlex.quote(str(Path(sys.executable).parent / "hydrant"))
    return command if home == default_home() else f"HYDRANT_HOME={shlex.quote(str(home))} {command}"


def publish(sessions: SessionFactory, redis: Redis, settings: Settings) -> None:
    """Give the gateways what SQL says, once Redis is there."""
    with read_scope(sessions) as session:
        rebuild_redis_if_lost(session, redis, hold=settings.hold)
