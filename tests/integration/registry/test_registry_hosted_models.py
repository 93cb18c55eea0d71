"""Models of hosted providers and policies for cold models, in SQL and in the snapshot."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from support.registry_rows import add_model, add_tenant

from registry import migrate
from registry.db import make_session_factory, session_scope
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import now_ms
from registry.models import Model
from registry.ops import audit, cold_policies, models
from registry.ops.hosted_models import register_hosted, update_hosted
from registry.providers import check_provider
from registry.publish import build_snapshot
from tasks.demand import Demand
from tasks.state import load_state

GIVEN: dict[str, Any] = {"name": "gpt", "provider_model": "openai/gpt-4.1-mini", "key_env": "OPENAI_API_KEY"}
PRICES = {"input_nusd": 400, "output_nusd": 1600}


def add_hosted(session: Session, **changes: Any) -> Model:
    return register_hosted(session, "tester", **{**GIVEN, **PRICES, **changes})


def test_a_hosted_model_is_published_and_left_alone_by_the_controller(session_factory: sessionmaker[Session]) -> None:
    with session_scope(session_factory) as session:
        model = add_hosted(session)
        add_model(session, "smol")
    with session_scope(session_factory) as session:
        document = build_snapshot(session, now_ms())["models"]["gpt"]
        assert (document["lane"], document["price"]["input_nusd"]) == ("hosted", 400)
        assert document["provider"] == {"model": "openai/gpt-4.1-mini", "api_base": None, "key_env": "OPENAI_API_KEY"}
        assert set(load_state(session, Demand(), now_ms()).models) == {"smol"}
    with session_scope(session_factory) as session:
        for refused in (
            lambda: models.warm_now(session, "t", model.id, 5),
            lambda: models.stop_now(session, "t", model.id),
            lambda: models.set_min_replicas(session, "t", model.id, 1),
            lambda: models.update_model(session, "t", model.id, lane="direct"),
        ):
            with pytest.raises(ConflictError, match="served by a provider"):
                refused()
        models.update_model(session, "t", model.id, name="gpt-mini", default_max_tokens=9)
        changed = update_hosted(session, "t", model.id, provider_model="openai/gpt-4.1", context_length=9000)
        assert (changed.provider or {})["model"] == "openai/gpt-4.1"
        assert (changed.provider or {})["key_env"] == "OPENAI_API_KEY"
        assert [entry.action for entry in audit.list_entries(session, subject=model.id)] == [
            "model.update", "model.update", "model.register",
        ]  # fmt: skip


def test_a_model_that_makes_vectors_does_so_for_ever_and_is_nobodys_fallback(
    session_factory: sessionmaker[Session],
) -> None:
    with session_scope(session_factory) as session:
        small = add_model(session, "smol")
        model = add_hosted(session, provider_model="openai/text-embedding-3-small", embedding=True)
        assert build_snapshot(session, now_ms())["models"]["gpt"]["embedding"] is True
        with pytest.raises(InvalidError, match="no embeddings"):
            update_hosted(session, "t", model.id, provider_model="anthropic/claude-sonnet-4-5")
        with pytest.raises(InvalidError, match="vectors"):
            cold_policies.set_policy(session, "t", small.id, mode="fallback", fallback_model_id=model.id)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"provider_model": "gemini/gemini-embedding-001", "embedding": True}, "provider_model"),
        ({"provider_model": "gpt-4.1"}, "provider_model"),
        ({"provider_model": "bedrock/claude"}, "provider_model"),
        ({"provider_model": "openai/x y"}, "provider_model"),
        ({"key_env": "HYDRANT_HOSTED_SECRET"}, "key_env"),
        ({"key_env": "HYDRANT_X_API_KEY"}, "key_env"),
        ({"key_env": "PATH"}, "key_env"),
        ({"key_env": "sk-a-real-key"}, "key_env"),
        ({"api_base": "http://127.0.0.1:9/v1"}, "api_base"),
        ({"api_base": "ftp://x/"}, "api_base"),
        ({"api_base": "https://user:pw@x/"}, "api_base"),
        ({"api_base": "https://x/?q"}, "api_base"),
        ({"api_base": "https://[x/"}, "api_base"),
        ({"input_nusd": -1}, "input_nusd"),
        ({"context_length": 0}, "context_length"),
    ],
)
def test_what_cannot_be_registered(session_factory: sessionmaker[Session], changes: dict[str, Any], field: str) -> None:
    with session_scope(session_factory) as session, pytest.raises(InvalidError) as refused:
        add_hosted(session, **changes)
    assert refused.value.field == field


def test_plain_http_is_for_this_machine_and_by_setting_only() -> None:
    assert check_provider("openai/x", "A_API_KEY", "http://127.0.0.1:9/v1/", allow_http=True)["api_base"] == (
        "http://127.0.0.1:9/v1"
    )
    with pytest.raises(InvalidError, match="HYDRANT_PROVIDER_HTTP"):
        check_provider("openai/x", "A_API_KEY", "http://10.0.0.1/v1", allow_http=True)


def test_the_older_schema_can_be_had_back_with_hosted_models_in_it(empty_engine: Engine) -> None:
    migrate.upgrade(empty_engine)
    with session_scope(make_session_factory(empty_engine)) as session:
        small, gpt = add_model(session, "smol"), add_hosted(session)
        cold_policies.set_policy(session, "t", small.id, mode="fallback", fallback_model_id=gpt.id)
    migrate.downgrade(empty_engine, "0006")
    with empty_engine.connect() as connection:
        rows = connection.execute(text("SELECT name, lane, deleted_at_ms IS NULL FROM models ORDER BY name")).all()
    assert [tuple(row) for row in rows] == [("gpt", "litellm", False), ("smol", "direct", True)]
    migrate.upgrade(empty_engine)


def test_policies(session_factory: sessionmaker[Session]) -> None:
    with session_scope(session_factory) as session:
        small, gpt, tenant = add_model(session, "smol"), add_hosted(session), add_tenant(session)
        fallback = {"mode": "fallback", "after_s": 5, "fallback_model_id": gpt.id}
        cold_policies.set_policy(session, "t", small.id, mode="reject")
        cold_policies.set_policy(session, "t", small.id, **fallback)  # type: ignore[arg-type]
        cold_policies.set_policy(session, "t", small.id, mode="reject", tenant_id=tenant.id)
        ids = small.id, gpt.id, tenant.id
    with session_scope(session_factory) as session:
        assert build_snapshot(session, now_ms())["policies"] == {
            "smol": {
                "*": {"mode": "fallback", "after_s": 5, "fallback": "gpt"},
                ids[2]: {"mode": "reject", "after_s": 0, "fallback": None},
            }
        }
        cold_policies.remove_policy(session, "t", ids[0], tenant_id=ids[2])
        with pytest.raises(NotFoundError):
            cold_policies.remove_policy(session, "t", ids[0], tenant_id=ids[2])
        models.delete_model(session, "t", ids[1])
        # Without its fallback nobody can be asked: the gateway then lets requests wait.
        assert build_snapshot(session, now_ms())["policies"]["smol"]["*"]["fallback"] is None
        actions = [entry.action for entry in audit.list_entries(session, subject=ids[0])]
        assert actions == ["policy.remove", "policy.set", "policy.set", "policy.set", "model.register"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"mode": "sometimes"}, "mode"),
        ({"mode": "fallback"}, "fallback_model_id"),
        ({"mode": "fallback", "fallback_model_id": "small"}, "fallback_model_id"),
        ({"mode": "wait", "after_s": 5}, "after_s"),
        ({"mode": "wait", "after_s": -1}, "after_s"),
    ],
)
def test_policies_that_mean_nothing(session_factory: sessionmaker[Session], values: dict[str, Any], field: str) -> None:
    with session_scope(session_factory) as session:
        small = add_model(session, "smol")
        if values.get("fallback_model_id") == "small":
            values = values | {"fallback_model_id": small.id}
        with pytest.raises(InvalidError) as refused:
            cold_policies.set_policy(session, "t", small.id, **values)
        assert refused.value.field == field
