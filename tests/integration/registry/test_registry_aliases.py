"""Aliases that several models share."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from support.registry_rows import add_model, add_tenant

from registry.db import SessionFactory, session_scope
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import now_ms
from registry.models import AliasTarget
from registry.ops import aliases, audit, keys, models
from registry.publish import build_snapshot


def published(session_factory: SessionFactory) -> dict[str, dict[str, int]]:
    with session_scope(session_factory) as session:
        return build_snapshot(session, now_ms())["aliases"]


def test_a_split_is_made_changed_and_given_back(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        old, new = add_model(session, "old"), add_model(session, "new")
        aliases.set_split(session, "ada", "chat", {"old": 95, "new": 5})
        assert audit.list_entries(session, subject=new.id)[0].action == "alias.add"
    assert published(session_factory) == {"chat": {"old": 95, "new": 5}}
    with session_scope(session_factory) as session:
        aliases.set_split(session, "ada", "chat", {"new": 1})
        assert audit.list_entries(session, subject=new.id)[0].detail == {"alias": "chat", "weight": 1}
        assert aliases.list_aliases(session, old.id) == []
    assert published(session_factory) == {"chat": {"new": 1}}
    with session_scope(session_factory) as session:
        aliases.remove_alias(session, "ada", "chat")
        assert session.scalars(select(AliasTarget)).all() == []


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ({}, InvalidError, "1 to 16"),
        ({"old": 0}, InvalidError, "weight of old"),
        ({"old": 1001}, InvalidError, "weight of old"),
        ({"old": 1.5}, InvalidError, "weight of old"),
        ({"nobody": 1}, NotFoundError, "nobody"),
        ({"nick": 1}, NotFoundError, "nick"),
    ],
)
def test_what_cannot_be_shared_is_named(
    session_factory: SessionFactory, weights: dict[str, int], error: type[Exception], words: str
) -> None:
    with session_scope(session_factory) as session:
        aliases.add_alias(session, "ada", add_model(session, "old").id, "nick")
    with pytest.raises(error, match=words), session_scope(session_factory) as session:
        aliases.set_split(session, "ada", "chat", weights)
    assert published(session_factory) == {"nick": {"old": 1}}


def test_a_models_name_cannot_be_split(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        add_model(session, "old")
        with pytest.raises(ConflictError, match="already a model"):
            aliases.set_split(session, "ada", "old", {"old": 1})


def test_a_deleted_model_leaves_the_alias_to_the_others(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        old = add_model(session, "old")
        add_model(session, "new")
        aliases.set_split(session, "ada", "chat", {"old": 95, "new": 5})
        aliases.add_alias(session, "ada", old.id, "only")
        models.delete_model(session, "ada", old.id)
    assert published(session_factory) == {"chat": {"new": 5}}
    with session_scope(session_factory) as session:
        assert models.resolve_name(session, "chat").name == "new"
        with pytest.raises(NotFoundError):
            aliases.get_alias(session, "only")


def test_a_shared_name_means_no_single_model_but_a_key_may_have_them_all(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        add_model(session, "old")
        add_model(session, "new")
        aliases.set_split(session, "ada", "chat", {"old": 1, "new": 1})
        with pytest.raises(ConflictError, match="split between new, old"):
            models.resolve_name(session, "chat")
        key, _ = keys.create_key(session, "ada", "pepper", tenant_id=add_tenant(session).id, name="k", models=["chat"])
        assert key.models == ["new", "old"]
