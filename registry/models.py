"""The SQL schema: the truth about tenants, models, desired state and money.

Units: times are integer milliseconds since the epoch (`*_at_ms`, UTC), sizes are bytes, link rates are bytes per
second, money is integer nano-dollars (`*_nusd`; $0.02 per million tokens is 20 nano-dollars a token). Ids are text with
a prefix that says what they name (`ten_`, `key_`, `mod_`, `grp_`, `stg_`, `cst_`, `att_`), made by `registry.ids`.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

# SQLite autoincrements only an INTEGER primary key; elsewhere ledgers outgrow 32 bits.
BigId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Names every constraint, so that Alembic can drop it again on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, int: BigInteger}  # noqa: RUF012 - SQLAlchemy's own idiom


# --- who may ask ------------------------------------------------------------------------------------------------------


class Tenant(Base):
    """A customer or team. Its balance is the sum of its ledger entries, never a column."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    enabled: Mapped[bool] = mapped_column(default=True)
    rpm: Mapped[int | None]  # requests a minute over all keys; None: unlimited
    tpm: Mapped[int | None]  # tokens a minute
    parallel: Mapped[int | None]  # requests at once
    service_class: Mapped[str] = mapped_column(String(16), default="standard", server_default="standard")
    salt: Mapped[str] = mapped_column(String(64))  # goes into every request's prefix-cache key: tenants share no cache
    created_at_ms: Mapped[int]
    keys: Mapped[list["ApiKey"]] = relationship(back_populates="tenant")


class ApiKey(Base):
    """A key's HMAC-SHA-256 under the server's pepper; the key itself is shown once and stored nowhere."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    prefix: Mapped[str] = mapped_column(String(16))  # public, helps a person to tell keys apart
    digest: Mapped[str] = mapped_column(String(64), unique=True)  # hex
    models: Mapped[list[Any]] = mapped_column(default=lambda: ["*"])  # model names, or ["*"]
    rpm: Mapped[int | None]
    tpm: Mapped[int | None]
    parallel: Mapped[int | None]
    sse_ping: Mapped[bool] = mapped_column(default=True)  # SSE comments while a stream is held
    # By parameter (registry.key_parameters): what a request that does not say gets, and the most that one may ask for.
    defaults: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    ceilings: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    user_id: Mapped[str | None] = mapped_column(String(200), index=True)  # whose it is, by a name of the client's own
    created_at_ms: Mapped[int]
    expires_at_ms: Mapped[int | None]
    revoked_at_ms: Mapped[int | None]
    tenant: Mapped[Tenant] = relationship(back_populates="keys")


# --- what may be asked for --------------------------------------------------------------------------------------------


class Model(Base):
    """A servable model: where its weights are, what they look like, how it should be served."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))  # unique among models that are not deleted
    source: Mapped[str] = mapped_column(Text)  # file:///dir, http(s)://host/dir, s3://, gs:// or az://bucket/prefix
    enabled: Mapped[bool] = mapped_column(default=True)
    lane: Mapped[str] = mapped_column(String(16), default="direct")  # direct | litellm | hosted
    # Of lane hosted only: registry.providers.ProviderDoc. Such a model has no weights: what describes them is empty.
    provider: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # What registration found and recorded: registry.manifest reads and writes it.
    architecture: Mapped[str] = mapped_column(String(80))
    layers: Mapped[int]
    tied_embeddings: Mapped[bool]
    weight_bytes: Mapped[int]
    max_stages: Mapped[int]
    manifest: Mapped[dict[str, Any]]  # tensors with byte ranges and digests, small files, per-layer sizes
    # Engine settings from the allow-list in registry.settings_allowlist.
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    context_length: Mapped[int]
    default_max_tokens: Mapped[int] = mapped_column(default=1024)
    capacity: Mapped[int] = mapped_column(default=8)  # requests one worker runs at once
    kv_reserve_bytes: Mapped[int]  # the paper's K: memory kept for the KV cache of a whole worker
    slo_ttft_ms: Mapped[int] = mapped_column(default=10_000)
    slo_tpot_ms: Mapped[int | None]
    keep_alive_s: Mapped[int] = mapped_column(default=300)
    # fixed: just so long | learned: so long as the model's own pauses make it worth (orchestrator/keep_alive.py)
    keep_alive_mode: Mapped[str] = mapped_column(String(16), default="fixed", server_default="fixed")
    min_replicas: Mapped[int] = mapped_column(default=0)
    # Whether tenants that wait for a start pay for its device time (registry/ops/group_costs.py).
    charge_cold_starts: Mapped[bool] = mapped_column(default=False, server_default=false())
    rpm: Mapped[int | None]  # requests a minute over all tenants; None: unlimited
    tpm: Mapped[int | None]  # tokens a minute
    parallel: Mapped[int | None]  # requests at once
    warm_until_ms: Mapped[int | None]  # "warm now": hold at least one worker until then
    # "stop": the controller drains every group that was created at or before this moment.
    stop_requested_at_ms: Mapped[int | None]
    control_version: Mapped[int] = mapped_column(
        default=1
    )  # compared and swapped when a group of this model is started
    profile: Mapped[dict[str, Any]] = mapped_column(
        default=dict
    )  # measured: floors, tail, prefill, tpot; see orchestrator.types
    created_at_ms: Mapped[int]
    updated_at_ms: Mapped[int]
    deleted_at_ms: Mapped[int | None]
    __table_args__ = (
        CheckConstraint("lane IN ('direct', 'litellm', 'hosted')", name="lane"),
        CheckConstraint("(lane = 'hosted') = (provider IS NOT NULL)", name="provider"),
        Index(
            "uq_models_live_name",
            "name",
            unique=True,
            sqlite_where=text("deleted_at_ms IS NULL"),
            postgresql_where=text("deleted_at_ms IS NULL"),
        ),
    )


class ModelUse(Base):
    """When a model was used: the ledger writes it with the usage that it settles."""

    __tablename__ = "model_use"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    busy_until_ms: Mapped[int]  # the latest end of a request
    pauses_ms: Mapped[list[Any]]  # the newest times from a last request's end to the next one's beginning, oldest first
    # When it is likely to be asked for again (orchestrator/prewarming.py); NULL: nothing is expected.
    expected_from_ms: Mapped[int | None]
    expected_until_ms: Mapped[int | None] = mapped_column(index=True)
    measured_at_ms: Mapped[int] = mapped_column(default=0, server_default="0")  # when tasks/speed.py last looked at it


class Alias(Base):
    """Another name under which models can be asked for: one model, or several that share its requests by weight."""

    __tablename__ = "aliases"
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    targets: Mapped[list["AliasTarget"]] = relationship(cascade="all, delete-orphan", order_by="AliasTarget.model_id")


class AliasTarget(Base):
    """A model behind an alias, with its share of the alias' requests: `weight` out of the sum of the alias' weights."""

    __tablename__ = "alias_targets"
    alias_name: Mapped[str] = mapped_column(ForeignKey("aliases.name"), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True, index=True)
    weight: Mapped[int] = mapped_column(default=1)
    model: Mapped[Model] = relationship()


class ColdPolicy(Base):
    """What becomes of requests for a model while it is cold, of one tenant or (NULL) of all others."""

    __tablename__ = "cold_policies"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    mode: Mapped[str] = mapped_column(String(16))  # wait | fallback | reject
    after_s: Mapped[int] = mapped_column(default=0)  # of fallback: seconds in line before it is asked
    fallback_model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    __table_args__ = (
        CheckConstraint("mode IN ('wait', 'fallback', 'reject')", name="mode"),
        UniqueConstraint("model_id", "tenant_id"),
        Index(
            "uq_cold_policies_default",
            "model_id",
            unique=True,
            sqlite_where=text("tenant_id IS NULL"),
            postgresql_where=text("tenant_id IS NULL"),
        ),
    )


class Price(Base):
    """Prices in nano-dollars per token, request and GPU-second, in force from a moment on; rows are never changed."""

    __tablename__ = "prices"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    from_ms: Mapped[int]
    input_nusd: Mapped[int]
    cached_input_nusd: Mapped[int]
    output_nusd: Mapped[int]
    request_nusd: Mapped[int] = mapped_column(default=0)
    gpu_second_nusd: Mapped[int] = mapped_column(default=0, server_default="0")  # of a whole device
    created_at_ms: Mapped[int]
    __table_args__ = (
        Index("ix_prices_model_from", "model_id", "from_ms"),
        CheckConstraint(
            "input_nusd >= 0 AND cached_input_nusd >= 0 AND output_nusd >= 0 AND request_nusd >= 0", name="not_negative"
        ),
    )


# --- where it runs ----------------------------------------------------------------------------------------------------


class Node(Base):
    """A GPU server, as its noded last reported it."""

    __tablename__ = "nodes"
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    address: Mapped[str] = mapped_column(String(80))
    boot_id: Mapped[str] = mapped_column(String(64), default="")
    link_bps: Mapped[int]  # bytes per second, as its noded says
    fetch_bps: Mapped[list[Any] | None]  # bytes per second that its newest fetches really had, oldest first
    port_first: Mapped[int]
    port_last: Mapped[int]
    cordoned: Mapped[bool] = mapped_column(default=False)  # takes no new stage
    draining: Mapped[bool] = mapped_column(default=False)  # and is being emptied
    drain_began_at_ms: Mapped[int | None]  # when the controller first saw that
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)  # the last /v1/report
    report_seq: Mapped[int] = mapped_column(default=0)
    seen_at_ms: Mapped[int] = mapped_column(default=0)
    devices: Mapped[list["Device"]] = relationship(back_populates="node", order_by="Device.idx")


class Device(Base):
    """One accelerator (or a set of CPU cores) of a node."""

    __tablename__ = "devices"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    node_name: Mapped[str] = mapped_column(ForeignKey("nodes.name"))
    idx: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))  # cpu | cuda
    name: Mapped[str] = mapped_column(String(120), default="")
    memory_bytes: Mapped[int]
    node: Mapped[Node] = relationship(back_populates="devices")
    __table_args__ = (UniqueConstraint("node_name", "idx"),)


class Group(Base):
    """One or more SGLang processes that serve one model together. `version` is compared and swapped on every write."""

    __tablename__ = "groups"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    cold_start_id: Mapped[str | None] = mapped_column(ForeignKey("cold_starts.id"))
    state: Mapped[str] = mapped_column(String(20), index=True)  # orchestrator.lifecycle
    reason: Mapped[str | None] = mapped_column(Text)  # why it ends, for a person
    why: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # and as data: orchestrator.why.Why.to_json()
    blamed: Mapped[list[Any]] = mapped_column(default=list)  # names of the nodes on which it broke
    version: Mapped[int] = mapped_column(default=1)
    parent_id: Mapped[str | None] = mapped_column(String(40))  # the pipeline that this standalone worker replaces
    plan: Mapped[dict[str, Any]]  # orchestrator.types.Plan.to_json()
    api_key: Mapped[str] = mapped_column(String(80))  # guards the worker's HTTP port; never shown
    url: Mapped[str | None] = mapped_column(String(200))
    drain_version: Mapped[int | None]  # the routes version from which no gateway may send here
    probe: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # what came of asking it for a token: ok, error
    deadline_ms: Mapped[int]  # a start that is not ready by then has failed
    created_at_ms: Mapped[int]
    ready_at_ms: Mapped[int | None]
    last_used_at_ms: Mapped[int | None]
    stopped_at_ms: Mapped[int | None]
    model: Mapped[Model] = relationship()
    stages: Mapped[list["Stage"]] = relationship(back_populates="group", order_by="Stage.rank")


class Stage(Base):
    """One rank of a group: which layers, where, and how much memory is reserved for it."""

    __tablename__ = "stages"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey("groups.id"), index=True)
    rank: Mapped[int]
    node_name: Mapped[str] = mapped_column(ForeignKey("nodes.name"), index=True)
    device_idx: Mapped[int]
    first_layer: Mapped[int]
    layer_count: Mapped[int]
    full: Mapped[bool]  # a full-memory worker can become standalone
    reserved_bytes: Mapped[int]
    port: Mapped[int]
    dist_port: Mapped[int | None]  # rendezvous, on rank 0's node
    state: Mapped[str] = mapped_column(String(20), default="planned", index=True)  # as noded reports it
    reason: Mapped[str | None] = mapped_column(Text)
    pids: Mapped[list[Any]] = mapped_column(default=list)
    bytes_total: Mapped[int] = mapped_column(default=0)
    bytes_to_fetch: Mapped[int] = mapped_column(default=0)
    bytes_fetched: Mapped[int] = mapped_column(default=0)
    verified: Mapped[bool] = mapped_column(default=False)
    fetch_deadline_ms: Mapped[int | None]
    rate_bps: Mapped[int | None]
    group: Mapped[Group] = relationship(back_populates="stages")
    __table_args__ = (UniqueConstraint("group_id", "rank"),)


class ColdStart(Base):
    """One start of a model from zero (or one more instance): what was predicted and what happened."""

    __tablename__ = "cold_starts"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    cause: Mapped[str] = mapped_column(String(40))  # demand | warm | min_replicas | consolidation | prewarm
    plan: Mapped[dict[str, Any]]  # orchestrator.types.Plan.to_json(), or NoPlan's for a start that could not be planned
    predicted_ttft_ms: Mapped[int | None]
    requested_at_ms: Mapped[int]
    ready_at_ms: Mapped[int | None]
    first_token_at_ms: Mapped[int | None]
    failed_at_ms: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(Text)
    why: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # its group's; a refusal is in `plan`
    traceparent: Mapped[str | None] = mapped_column(String(55))  # W3C: the span of a request that waited for it
    # When it was looked at for what it teaches about the next ones (tasks/learning.py); null until it is over.
    studied_at_ms: Mapped[int | None] = mapped_column(BigInteger, index=True)
    events: Mapped[list["ColdStartEvent"]] = relationship(order_by="ColdStartEvent.at_ms")
    model: Mapped[Model] = relationship()


class ColdStartEvent(Base):
    """A timed step; a waterfall can be drawn from these rows alone. A step of a stage happens once."""

    __tablename__ = "cold_start_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    cold_start_id: Mapped[str] = mapped_column(ForeignKey("cold_starts.id"))
    stage_id: Mapped[str] = mapped_column(String(40), default="")  # "" for the group as a whole
    kind: Mapped[str] = mapped_column(String(40))
    at_ms: Mapped[int]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    __table_args__ = (UniqueConstraint("cold_start_id", "stage_id", "kind"),)


class StartObservation(Base):
    """What one cold start took on one kind of device, without what hung on links and prompt."""

    __tablename__ = "start_observations"
    cold_start_id: Mapped[str] = mapped_column(ForeignKey("cold_starts.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(80), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    at_ms: Mapped[int]
    observation: Mapped[dict[str, Any]]  # orchestrator.calibration.Observation.to_json()
    predicted_ms: Mapped[int | None]  # to the first token, from the plan on
    real_ms: Mapped[int | None]
    __table_args__ = (Index("ix_start_observations_kind", "kind", "model_id", "at_ms"),)


class Calibration(Base):
    """What the observations of one kind of device agree on, for one model ("" for all models together)."""

    __tablename__ = "calibrations"
    kind: Mapped[str] = mapped_column(String(80), primary_key=True)
    model_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    profile: Mapped[dict[str, Any]]  # the fields of orchestrator.types.Profile that were learnt
    starts: Mapped[int]  # how many were observed
    error_permille: Mapped[int | None]  # median of |predicted - real| / real of the newest
    updated_at_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class Outbox(Base):
    """An effect decided together with the desired state that wants it; sent after the commit, re-sent until done."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    queue: Mapped[str] = mapped_column(String(120))
    task: Mapped[str] = mapped_column(String(80))
    args: Mapped[list[Any]]
    kind: Mapped[str] = mapped_column(String(20))  # prefetch | launch | stop
    group_id: Mapped[str | None] = mapped_column(String(40), index=True)
    version: Mapped[int] = mapped_column(default=0)
    created_at_ms: Mapped[int]
    sent_at_ms: Mapped[int | None] = mapped_column(BigInteger, index=True)
    sends: Mapped[int] = mapped_column(default=0)
    done_at_ms: Mapped[int | None] = mapped_column(BigInteger, index=True)
    error: Mapped[str | None] = mapped_column(Text)


# --- money ------------------------------------------------------------------------------------------------------------


class Usage(Base):
    """What one attempt used, as the engine counted it. One row an attempt, whatever was re-delivered."""

    __tablename__ = "usage"
    attempt_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), index=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    key_id: Mapped[str] = mapped_column(String(40))
    model_id: Mapped[str] = mapped_column(String(40))
    model_name: Mapped[str] = mapped_column(String(120))
    price_id: Mapped[str | None] = mapped_column(ForeignKey("prices.id"))
    group_id: Mapped[str | None] = mapped_column(String(40), index=True)
    cold_start_id: Mapped[str | None] = mapped_column(String(40))
    gateway_id: Mapped[str] = mapped_column(String(40))
    lane: Mapped[str] = mapped_column(String(16))
    endpoint: Mapped[str] = mapped_column(String(60))
    stream: Mapped[bool]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    cost_nusd: Mapped[int]
    outcome: Mapped[str] = mapped_column(String(20))
    started_at_ms: Mapped[int]
    # When Redis admitted the request, by its clock: the day and month of a budget in which the attempt counts.
    admitted_at_ms: Mapped[int] = mapped_column(default=lambda row: row.get_current_parameters()["started_at_ms"])
    first_token_at_ms: Mapped[int | None]
    ended_at_ms: Mapped[int]
    held_ms: Mapped[int] = mapped_column(default=0)
    # Counted by us, not told by the provider: its stream was cut short (docs/adr/0014-hosted-models.md).
    estimated: Mapped[bool] = mapped_column(default=False, server_default=false())
    __table_args__ = (
        Index("ix_usage_tenant_admitted", "tenant_id", "admitted_at_ms", "cost_nusd"),
        Index("ix_usage_key_admitted", "key_id", "admitted_at_ms", "cost_nusd"),
        Index("ix_usage_tenant_ended", "tenant_id", "ended_at_ms"),
        Index("ix_usage_ended", "ended_at_ms"),
        Index("ix_usage_model_ended", "model_id", "ended_at_ms"),
    )


class RejectedUsage(Base):
    """A usage event that could not be billed as it is, kept whole so that a person can mend the cause and settle it."""

    __tablename__ = "rejected_usage"
    digest: Mapped[str] = mapped_column(
        String(64), primary_key=True
    )  # SHA-256 of the event: a re-delivery adds nothing
    event: Mapped[str] = mapped_column(Text)  # JSON, as received
    reason: Mapped[str] = mapped_column(Text)
    at_ms: Mapped[int]
    resolved_at_ms: Mapped[int | None]


class GroupCost(Base):
    """The device time of a group, in GPU-microseconds (a whole device for a microsecond), and what its start cost.

    Written with the group itself, at the price and setting of that moment; the ledger's worker fills in the rest.
    """

    __tablename__ = "group_costs"
    group_id: Mapped[str] = mapped_column(ForeignKey("groups.id"), primary_key=True)
    cold_start_id: Mapped[str] = mapped_column(ForeignKey("cold_starts.id"), unique=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    price_id: Mapped[str | None] = mapped_column(ForeignKey("prices.id"))
    chargeable: Mapped[bool]  # whether the tenants that waited pay their shares
    began_at_ms: Mapped[int]
    startup_gpu_us: Mapped[int | None]  # until it was ready, or had failed; NULL: it is still starting
    startup_nusd: Mapped[int | None]
    waited: Mapped[int | None]  # requests over which the start was split; 0: the model's alone; NULL: not split yet
    busy_gpu_us: Mapped[int | None]  # while it served at least one request; NULL until it has stopped
    idle_gpu_us: Mapped[int | None]  # while it served none
    closed_at_ms: Mapped[int | None] = mapped_column(BigInteger, index=True)  # all of it is known
    __table_args__ = (Index("ix_group_costs_model_began", "model_id", "began_at_ms"),)


class ColdStartShare(Base):
    """What a tenant's requests have to do with one cold start: their share of its device time and of its cost."""

    __tablename__ = "cold_start_shares"
    cold_start_id: Mapped[str] = mapped_column(ForeignKey("cold_starts.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    requests: Mapped[int]  # of this tenant, that waited and were answered
    gpu_us: Mapped[int]
    cost_nusd: Mapped[int]
    charged: Mapped[bool]  # then the ledger has an entry of it
    at_ms: Mapped[int]  # when it was split
    __table_args__ = (Index("ix_cold_start_shares_tenant_at", "tenant_id", "at_ms"),)


class LedgerEntry(Base):
    """Append-only. A balance is the sum of `amount_nusd`; a charge is negative. Unique by (attempt id, kind), and a
    charge for a cold start by (cold start id, tenant)."""

    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str] = mapped_column(String(16))  # reserve | settle | release | top_up | adjust
    amount_nusd: Mapped[int]
    attempt_id: Mapped[str | None] = mapped_column(String(40))
    cold_start_id: Mapped[str | None] = mapped_column(String(40))  # a charge for having waited for this start
    reason: Mapped[str | None] = mapped_column(Text)
    author: Mapped[str | None] = mapped_column(String(200))
    at_ms: Mapped[int]
    __table_args__ = (
        UniqueConstraint("attempt_id", "kind"),
        Index("ix_ledger_tenant_amount", "tenant_id", "amount_nusd"),
        Index("ix_ledger_at", "at_ms"),
        Index(
            "uq_ledger_cold_start_tenant",
            "cold_start_id",
            "tenant_id",
            unique=True,
            sqlite_where=text("cold_start_id IS NOT NULL"),
            postgresql_where=text("cold_start_id IS NOT NULL"),
        ),
        CheckConstraint("kind IN ('reserve', 'settle', 'release', 'top_up', 'adjust')", name="kind"),
    )


class Invoice(Base):
    """A tenant's invoice of a month (UTC) that is closed, as it was then; open months are worked out when asked for."""

    __tablename__ = "invoices"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)  # 2026-11
    document: Mapped[dict[str, Any]]  # registry.ops.invoices
    closed_at_ms: Mapped[int]


class Reconciliation(Base):
    """One comparison of events, usage, ledger, balances and reservations (registry/reconciliation/)."""

    __tablename__ = "reconciliations"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    began_at_ms: Mapped[int]
    since_ms: Mapped[int | None]  # only rows from then on were compared; NULL: all
    compared: Mapped[dict[str, Any]]  # how many rows, balances, attempts and events
    differences: Mapped[list[Any]]  # registry.reconciliation.difference.Difference.to_json()
    ended_at_ms: Mapped[int | None] = mapped_column(BigInteger, index=True)  # NULL: to be looked at again


class Budget(Base):
    """What a tenant or key may spend in each window of a period (UTC). A hard one refuses, another only alerts."""

    __tablename__ = "budgets"
    scope_id: Mapped[str] = mapped_column(String(40), primary_key=True)  # a tenant's or a key's id
    period: Mapped[str] = mapped_column(String(8), primary_key=True)  # day | month | total
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)  # the tenant itself, or the key's
    amount_nusd: Mapped[int]
    alert_percent: Mapped[list[Any]]  # parts of the amount at which an alert is recorded
    hard: Mapped[bool]
    created_at_ms: Mapped[int]
    updated_at_ms: Mapped[int]
    __table_args__ = (
        CheckConstraint("period IN ('day', 'month', 'total')", name="period"),
        CheckConstraint("amount_nusd > 0", name="positive"),
    )


class BudgetAlert(Base):
    """A threshold that spending reached, once in each window of the budget. It stays when the budget goes."""

    __tablename__ = "budget_alerts"
    scope_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    period: Mapped[str] = mapped_column(String(8), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)  # registry.budget_windows numbers them
    percent: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    spent_nusd: Mapped[int]
    amount_nusd: Mapped[int]
    at_ms: Mapped[int] = mapped_column(BigInteger, index=True)


# --- who manages it ---------------------------------------------------------------------------------------------------


class AdminUser(Base):
    """A person who manages Hydrant; the password is an Argon2 hash."""

    __tablename__ = "admin_users"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    email: Mapped[str] = mapped_column(String(200), unique=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(16))  # owner | operator | viewer
    must_change: Mapped[bool] = mapped_column(default=False)
    session_epoch: Mapped[int] = mapped_column(default=1)  # raised on a password change: older sessions end
    created_at_ms: Mapped[int]
    last_login_at_ms: Mapped[int | None]
    disabled_at_ms: Mapped[int | None]
    __table_args__ = (CheckConstraint("role IN ('owner', 'operator', 'viewer')", name="role"),)


class ManagementToken(Base):
    """What lets a program manage Hydrant: a token's HMAC-SHA-256 under the server's pepper, and a person's role."""

    __tablename__ = "management_tokens"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    prefix: Mapped[str] = mapped_column(String(16), index=True)  # public
    digest: Mapped[str] = mapped_column(String(64), unique=True)  # hex
    role: Mapped[str] = mapped_column(String(16))  # owner | operator | viewer
    created_by: Mapped[str] = mapped_column(String(200))
    created_at_ms: Mapped[int]
    expires_at_ms: Mapped[int | None]
    revoked_at_ms: Mapped[int | None]
    last_used_at_ms: Mapped[int | None]  # to the minute
    __table_args__ = (CheckConstraint("role IN ('owner', 'operator', 'viewer')", name="role"),)


class IdempotentRequest(Base):
    """A change that was made with an Idempotency-Key, and its answer: sent again, it changes nothing more."""

    __tablename__ = "idempotent_requests"
    token_id: Mapped[str] = mapped_column(ForeignKey("management_tokens.id"), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256, hex
    request_digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of method, path and body, hex
    answer: Mapped[dict[str, Any]]  # without secrets
    at_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class Audit(Base):
    """Who changed what, when. Written in the transaction of the change itself."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    at_ms: Mapped[int] = mapped_column(BigInteger, index=True)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(80))  # e.g. key.create
    subject: Mapped[str] = mapped_column(String(120))  # e.g. key_...
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)  # never a secret
