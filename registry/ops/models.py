"""Models: register, change, enable, delete, warm up, stop."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.errors import ConflictError, NotFoundError
from registry.ids import new_id, now_ms
from registry.manifest import ManifestDoc
from registry.models import Alias, AliasTarget, Group, Model, ModelUse
from registry.ops import audit, checks, key_models, prices
from registry.ops.model_fields import checked
from registry.settings_allowlist import validate_settings
from registry.sources import Progress, check_source, inspect_source

ENDED_STATES = ("stopped", "failed")
_KV_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


def register_model(
    session: Session,
    actor: str,
    *,
    name: str,
    source: str,
    input_nusd: int,
    output_nusd: int,
    cached_input_nusd: int | None = None,
    request_nusd: int = 0,
    gpu_second_nusd: int = 0,
    settings: Mapping[str, Any] | None = None,
    lane: str = "direct",
    default_max_tokens: int = 1024,
    capacity: int = 8,
    kv_reserve_bytes: int | None = None,
    slo_ttft_ms: int = 10_000,
    slo_tpot_ms: int | None = None,
    keep_alive_s: int = 300,
    keep_alive_mode: str = "learned",
    min_replicas: int = 0,
    charge_cold_starts: bool = False,
    rpm: int | None = None,
    tpm: int | None = None,
    parallel: int | None = None,
    manifest: ManifestDoc | None = None,
    progress: Progress | None = None,
) -> Model:
    """Add a model, enabled and priced from now, from `source`: a directory, file:///dir, http(s)://host/dir, or a
    prefix in a bucket (s3://, gs://, az://).

    Prices are nano-dollars per token; cached input costs as much as other input unless given. `kv_reserve_bytes`
    defaults to one context of full length, and at least 1024 tokens for each of `capacity` requests. `rpm`, `tpm` and
    `parallel` limit all tenants together: requests and tokens a minute, requests at once.
    Without `manifest` (of the same source, from `registry.sources.inspect_source`) the source is read here, which can
    take minutes: before the first SQL statement of `session`, if that is fresh, so that no lock is held meanwhile.
    """
    checks.model_name("name", name)
    source = check_source(source)
    found = manifest if manifest is not None else inspect_source(source, progress)
    engine_settings = validate_settings(settings or {}, max_context_length=found["context_length"])
    refuse_taken(session, name)
    created_at_ms = now_ms()
    model = Model(
        id=new_id("mod"),
        name=name,
        source=source,
        enabled=True,
        architecture=found["architecture"],
        layers=found["layers"],
        tied_embeddings=found["tied_embeddings"],
        weight_bytes=found["weight_bytes"],
        max_stages=1 if engine_settings["embedding"] else found["max_stages"],
        manifest=dict(found),
        settings=engine_settings,
        context_length=engine_settings["context_length"],
        kv_reserve_bytes=kv_reserve_bytes
        if kv_reserve_bytes is not None
        else _kv_reserve(found, engine_settings, capacity),
        profile={},
        created_at_ms=created_at_ms,
        updated_at_ms=created_at_ms,
    )
    limits = {
        "lane": lane,
        "default_max_tokens": default_max_tokens,
        "capacity": capacity,
        "kv_reserve_bytes": model.kv_reserve_bytes,
        "slo_ttft_ms": slo_ttft_ms,
        "slo_tpot_ms": slo_tpot_ms,
        "keep_alive_s": keep_alive_s,
        "keep_alive_mode": keep_alive_mode,
        "min_replicas": min_replicas,
        "charge_cold_starts": charge_cold_starts,
        "rpm": rpm,
        "tpm": tpm,
        "parallel": parallel,
    }
    for field, value in limits.items():
        setattr(model, field, checked(field, value))
    store(session, model, {})
    prices.add_price(
        session,
        model.id,
        input_nusd=input_nusd,
        cached_input_nusd=input_nusd if cached_input_nusd is None else cached_input_nusd,
        output_nusd=output_nusd,
        request_nusd=request_nusd,
        gpu_second_nusd=gpu_second_nusd,
        from_ms=created_at_ms,
        created_at_ms=created_at_ms,
    )
    audit.record(
        session, actor, "model.register", model.id, name=name, source=source, settings=engine_settings, **limits
    )
    return model


def get_model(session: Session, model_id: str) -> Model:
    """The live model with this id. Raises NotFoundError, also for a deleted one."""
    model = session.get(Model, model_id)
    if model is None or model.deleted_at_ms is not None:
        raise NotFoundError(f"there is no model {model_id}", "model_id")
    return model


def resolve_name(session: Session, name: str) -> Model:
    """The live model with this name or alias. Raises NotFoundError; ConflictError where several share the alias."""
    found = resolve_names(session, name)
    if len(found) > 1:
        names = ", ".join(model.name for model in found)
        raise ConflictError(f"{name!r} is split between {names}; name one of them", "model")
    return found[0]


def resolve_names(session: Session, name: str) -> list[Model]:
    """The live model with this name, or those behind this alias, by name. Raises NotFoundError."""
    alias = session.get(Alias, name)
    if alias is None:
        return [find_model(session, name)]
    return sorted((target.model for target in alias.targets), key=lambda model: model.name)


def find_model(session: Session, name: str) -> Model:
    """The live model of this very name. Raises NotFoundError."""
    model = session.scalar(select(Model).where(Model.name == name, Model.deleted_at_ms.is_(None)))
    if model is None:
        raise NotFoundError(f"there is no model {name!r}", "model")
    return model


def list_models(session: Session) -> Sequence[Model]:
    """All live models by name."""
    return session.scalars(select(Model).where(Model.deleted_at_ms.is_(None)).order_by(Model.name)).all()


def pauses_ms(session: Session, model_id: str) -> Sequence[int]:
    """The model's newest pauses between requests, oldest first, as the ledger has noted them."""
    use = session.get(ModelUse, model_id)
    return () if use is None else use.pauses_ms


def expected_ms(session: Session, model: Model) -> tuple[int, int] | None:
    """From when until when the model is likely to be asked for again, as the ledger has worked out; None: unknown,
    past, or its keep-alive is not learned."""
    use = session.get(ModelUse, model.id) if model.keep_alive_mode == "learned" else None
    if use is None or use.expected_from_ms is None or use.expected_until_ms is None:
        return None
    return None if use.expected_until_ms <= now_ms() else (use.expected_from_ms, use.expected_until_ms)


def update_model(session: Session, actor: str, model_id: str, **changes: Any) -> Model:
    """Change any of: name (in the keys that may use it, too), settings, lane, default_max_tokens, capacity,
    kv_reserve_bytes, slo_ttft_ms, slo_tpot_ms, keep_alive_s, keep_alive_mode, min_replicas, rpm, tpm, parallel,
    charge_cold_starts (of starts from now on). New engine settings apply to workers started from now on; they are given
    as changes to the present ones."""
    model = get_model(session, model_id)
    if not changes.keys() <= {"name", "default_max_tokens"}:
        refuse_hosted(model)
    fresh: dict[str, Any] = {"updated_at_ms": now_ms()}
    for field, value in changes.items():
        if field == "settings":
            present = {**model.settings, **value}
            settings = validate_settings(present, max_context_length=model.manifest["context_length"])
            fresh["settings"], fresh["context_length"] = settings, settings["context_length"]
            fresh["max_stages"] = 1 if settings["embedding"] else model.manifest["max_stages"]
        elif field == "name" and value != model.name:
            fresh["name"] = _new_name(session, model, value)
        elif field != "name":
            fresh[field] = checked(field, value)
    before = model.name
    store(session, model, fresh)
    if model.name != before:
        key_models.rename(session, actor, before, model.name)
    audit.record(session, actor, "model.update", model.id, **changes)
    return model


def set_enabled(session: Session, actor: str, model_id: str, enabled: bool) -> Model:
    """Offer a model or not. Disabling also stops it: what runs is drained."""
    model = get_model(session, model_id)
    model.enabled = enabled
    if not enabled:
        _request_stop(model)
    model.updated_at_ms = now_ms()
    audit.record(session, actor, "model.enable" if enabled else "model.disable", model.id)
    return model


def delete_model(session: Session, actor: str, model_id: str, *, stop: bool = False) -> Model:
    """Take a model out of service for ever; its usage and prices stay. No alias and no key names it any more.

    Raises ConflictError while workers of it run, unless `stop`: then they are drained.
    """
    model = get_model(session, model_id)
    running = _running_groups(session, model.id)
    if running and not stop:
        raise ConflictError(f"{model.name} has {running} running group(s); stop it first, or delete with stop", "stop")
    _request_stop(model)
    model.enabled, model.min_replicas = False, 0
    model.deleted_at_ms = model.updated_at_ms = now_ms()
    for alias in session.scalars(select(Alias).join(AliasTarget).where(AliasTarget.model_id == model.id)):
        alias.targets = [target for target in alias.targets if target.model_id != model.id]
        if not alias.targets:
            session.delete(alias)
    key_models.remove(session, actor, model.name)
    audit.record(session, actor, "model.delete", model.id, name=model.name, stopped_groups=running)
    return model


def warm_now(session: Session, actor: str, model_id: str, minutes: int) -> Model:
    """Keep at least one worker up for `minutes` (1 to 1440) from now, starting one if none is."""
    model = get_model(session, model_id)
    refuse_hosted(model)
    if not model.enabled:
        raise ConflictError(f"{model.name} is disabled; enable it first", "enabled")
    checks.integer("minutes", minutes, low=1, high=1440)
    model.warm_until_ms = now_ms() + minutes * 60_000
    audit.record(session, actor, "model.warm", model.id, minutes=minutes)
    return model


def stop_now(session: Session, actor: str, model_id: str) -> Model:
    """Drain every group that exists now. A later request starts the model again; disable it to prevent that.

    Nothing is started before that request, even if it is expected.
    """
    model = get_model(session, model_id)
    refuse_hosted(model)
    if model.min_replicas:
        raise ConflictError(
            f"{model.name} has a minimum of {model.min_replicas} replica(s); set it to 0 first", "min_replicas"
        )
    _request_stop(model)
    use = session.get(ModelUse, model.id)
    if use is not None:
        use.expected_from_ms = use.expected_until_ms = None
    audit.record(session, actor, "model.stop", model.id)
    return model


def set_min_replicas(session: Session, actor: str, model_id: str, count: int) -> Model:
    """Workers kept up without any demand; 0 scales to zero."""
    return update_model(session, actor, model_id, min_replicas=count)


def refuse_hosted(model: Model) -> None:
    """Raises ConflictError for a model that a provider serves."""
    if model.lane == "hosted":
        raise ConflictError(f"{model.name} is served by a provider: nothing of it runs on these servers", "lane")


def _kv_reserve(manifest: ManifestDoc, settings: Mapping[str, Any], capacity: int) -> int:
    element = _KV_BYTES.get(settings["dtype"], _KV_BYTES.get(manifest["dtype"], 2))
    per_token = manifest["kv_bytes_per_token"] * element // _KV_BYTES.get(manifest["dtype"], 2)
    return int(per_token * max(settings["context_length"], 1024 * capacity))


def _request_stop(model: Model) -> None:
    model.warm_until_ms = None
    model.stop_requested_at_ms = now_ms()


def _running_groups(session: Session, model_id: str) -> int:
    query = select(Group.id).where(Group.model_id == model_id, Group.state.not_in(ENDED_STATES))
    return len(session.scalars(query).all())


def refuse_taken(session: Session, name: str, *, field: str = "name") -> None:
    """Raises ConflictError when a model or an alias has this name, or workers of a deleted model still have."""
    if session.get(Alias, name) is not None:
        raise ConflictError(f"{name!r} is an alias already; choose another name or remove the alias", field)
    rows = session.scalars(select(Model).where(Model.name == name))
    for model in rows:
        if model.deleted_at_ms is None:
            raise ConflictError(f"there is already a model named {name!r}; choose another name", field)
        if _running_groups(session, model.id):
            raise ConflictError(f"workers of a deleted model named {name!r} still drain; try again shortly", field)


def _new_name(session: Session, model: Model, value: object) -> str:
    name = checks.model_name("name", value)
    if _running_groups(session, model.id):
        raise ConflictError("a model cannot be renamed while it runs; stop it first", "name")
    refuse_taken(session, name)
    return name


def store(session: Session, model: Model, changes: Mapping[str, Any]) -> None:
    """Write a new or changed model. Raises ConflictError when its name was taken meanwhile."""
    name = changes.get("name", model.name)
    try:
        # Changed inside the savepoint: beginning it flushes, and a flush that fails outside ends the whole transaction.
        with session.begin_nested():
            for field, value in changes.items():
                setattr(model, field, value)
            session.add(model)
    except IntegrityError:
        raise ConflictError(f"there is already a model named {name!r}; choose another name", "name") from None
