"""Sessions: writers queue, readers do not wait, foreign keys hold."""

from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from support.postgres import PostgresServer
from support.registry_rows import add_tenant

from registry.db import SessionFactory, make_engine, make_session_factory, read_scope, session_scope
from registry.errors import InvalidError
from registry.models import AliasTarget, Base, Tenant


def test_a_block_that_raises_changes_nothing(session_factory: SessionFactory) -> None:
    def add_and_fail() -> None:
        with session_scope(session_factory) as session:
            add_tenant(session)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        add_and_fail()
    with read_scope(session_factory) as session:
        assert session.scalars(select(Tenant)).all() == []


def test_a_transaction_that_ended_early_is_not_taken_for_done(session_factory: SessionFactory) -> None:
    def swallow_a_failed_flush() -> None:
        with session_scope(session_factory) as session:
            add_tenant(session)
            session.add(AliasTarget(alias_name="a", model_id="mod_missing", weight=1))
            with suppress(IntegrityError):
                session.flush()

    with pytest.raises(RuntimeError, match="rolled back"):
        swallow_a_failed_flush()


def test_a_read_scope_keeps_no_change(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        tenant = add_tenant(session)
    with read_scope(session_factory) as session:
        found = session.get_one(Tenant, tenant.id)
        found.name = "changed"
    with read_scope(session_factory) as session:
        assert session.get_one(Tenant, tenant.id).name == "acme"


def test_foreign_keys_hold(session_factory: SessionFactory) -> None:
    with pytest.raises(IntegrityError), session_scope(session_factory) as session:
        session.add(AliasTarget(alias_name="a", model_id="mod_missing", weight=1))


def test_a_reader_does_not_wait_for_a_writer(session_factory: SessionFactory) -> None:
    writing, done = Event(), Event()

    def write() -> None:
        with session_scope(session_factory) as session:
            add_tenant(session)
            writing.set()
            assert done.wait(30)

    writer = Thread(target=write)
    writer.start()
    try:
        assert writing.wait(30)
        with read_scope(session_factory) as session:
            assert session.scalars(select(Tenant)).all() == []
    finally:
        done.set()
        writer.join(30)
    with read_scope(session_factory) as session:
        assert len(session.scalars(select(Tenant)).all()) == 1


def test_sqlite_uses_wal_and_syncs_every_commit(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/hydrant.db")
    Base.metadata.create_all(engine)
    with make_session_factory(engine)() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
    engine.dispose()


def test_postgres_waits_for_no_lock_for_ever(postgres_server: PostgresServer) -> None:
    with postgres_server.new_schema() as url:
        engine = make_engine(url)
        with make_session_factory(engine)() as session:
            assert session.scalar(text("SHOW lock_timeout")) == "1min"
            session.rollback()
            assert session.scalar(text("SHOW lock_timeout")) == "1min"
            assert session.scalar(text("SHOW search_path")) not in ("", '"$user", public'), "the URL's options are kept"
        engine.dispose()


@pytest.mark.parametrize(("query", "seconds"), [("", "10"), ("?connect_timeout=3", "3")])
def test_a_postgres_that_does_not_answer_is_given_up(query: str, seconds: str) -> None:
    engine = make_engine(f"postgresql://u@db/x{query}")
    assert engine.url.query["connect_timeout"] == seconds
    engine.dispose()


@pytest.mark.parametrize("url", ["", "hydrant.db", "mysql://root:hunter2@db/x", "sqlite://", "sqlite:///:memory:"])
def test_other_databases_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(InvalidError, match="DATABASE_URL") as caught:
        make_engine(url)
    assert "hunter2" not in str(caught.value)
