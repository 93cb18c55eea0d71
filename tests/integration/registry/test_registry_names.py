"""Names that keys and aliases hold on to: renaming and deleting a model neither breaks nor widens a permission."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import select
from support.registry_rows import add_model, add_tenant

from registry.db import SessionFactory, session_scope
from registry.errors import ConflictError, InvalidError
from registry.ids import now_ms
from registry.models import Alias, ApiKey, Audit, LedgerEntry
from registry.ops import aliases, keys, models, money, prices

PEPPER = "pepper"
YEAR_MS = 365 * 86_400_000


@pytest.fixture
def make_key(session_factory: SessionFactory) -> Callable[..., str]:
    """Makes a key of one tenant for these models; its id."""
    with session_scope(session_factory) as session:
        tenant_id = add_tenant(session).id

    def make(*names: str, **options: Any) -> str:
        with session_scope(session_factory) as session:
            key, _ = keys.create_key(
                session, "ada", PEPPER, tenant_id=tenant_id, name="k", models=names or ("*",), **options
            )
            return key.id

    return make


def permitted(session_factory: SessionFactory, key_id: str) -> list[str]:
    with session_scope(session_factory) as session:
        return list(session.get_one(ApiKey, key_id).models)


def test_a_renamed_model_keeps_its_keys(session_factory: SessionFactory, make_key: Callable[..., str]) -> None:
    with session_scope(session_factory) as session:
        model_id = add_model(session, "old").id
        add_model(session, "other")
    named, both, everything, other = make_key("old"), make_key("old", "other"), make_key(), make_key("other")
    with session_scope(session_factory) as session:
        models.update_model(session, "ada", model_id, name="new")
        noted = session.scalars(select(Audit).where(Audit.action == "key.models")).all()
        assert {entry.subject for entry in noted} == {named, both}
        assert all(entry.actor == "ada" and entry.detail["because"] == "model.update" for entry in noted)
    assert permitted(session_factory, named) == ["new"]
    assert permitted(session_factory, both) == ["new", "other"]
    assert permitted(session_factory, everything) == ["*"]
    assert permitted(session_factory, other) == ["other"]


def test_a_deleted_model_leaves_no_permission_for_the_next_of_its_name(
    session_factory: SessionFactory, make_key: Callable[..., str]
) -> None:
    with session_scope(session_factory) as session:
        model_id = add_model(session, "gone").id
        add_model(session, "other")
    only, both = make_key("gone"), make_key("gone", "other")
    with session_scope(session_factory) as session:
        models.delete_model(session, "ada", model_id)
        add_model(session, "gone")
    assert permitted(session_factory, only) == [], "a key for nothing, not for everything"
    assert permitted(session_factory, both) == ["other"]


def test_a_refused_rename_changes_no_key(session_factory: SessionFactory, make_key: Callable[..., str]) -> None:
    with session_scope(session_factory) as session:
        model_id = add_model(session, "old").id
        add_model(session, "taken")
    key_id = make_key("old")
    with session_scope(session_factory) as session, pytest.raises(ConflictError):
        models.update_model(session, "ada", model_id, name="taken")
    assert permitted(session_factory, key_id) == ["old"]


def test_of_two_who_take_an_alias_at_once_one_gets_it_and_the_other_an_answer(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        ids = [add_model(session, name).id for name in ("one", "two")]
    together = Barrier(2)
    with session_scope(session_factory) as session:
        queueing = session.get_bind().dialect.name == "sqlite"  # writers wait before they read

    def take(model_id: str) -> str:
        with session_scope(session_factory) as session:
            if not queueing:
                together.wait(10)
            try:
                aliases.add_alias(session, "ada", model_id, "nick")
            except ConflictError:
                models.update_model(session, "ada", model_id, keep_alive_s=7)  # the transaction goes on
                return "refused"
            # The winner lingers before its commit, so that the other meets an alias that it cannot see yet.
            time.sleep(0.5)
            return "taken"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(take, ids)) == ["refused", "taken"]
    with session_scope(session_factory) as session:
        assert len(session.scalars(select(Alias)).all()) == 1


def test_times_end_before_the_calendar_does(session_factory: SessionFactory, make_key: Callable[..., str]) -> None:
    make_key(expires_at_ms=now_ms() + 100 * YEAR_MS)
    with pytest.raises(InvalidError, match="year 9999") as caught:
        make_key(expires_at_ms=now_ms() + 999_999 * 7 * 86_400_000)
    assert caught.value.field == "expires_at_ms"
    with session_scope(session_factory) as session:
        model_id = add_model(session).id
        with pytest.raises(InvalidError, match="year 9999"):
            prices.set_price(session, "ada", model_id, input_nusd=1, output_nusd=1, from_ms=10**15)


def test_a_long_address_can_author_a_ledger_entry(session_factory: SessionFactory) -> None:
    author = "a" * 180 + "@example.org"
    with session_scope(session_factory) as session:
        money.top_up(session, author, add_tenant(session).id, 1, "test")
    with session_scope(session_factory) as session:
        assert session.scalars(select(LedgerEntry)).one().author == author
