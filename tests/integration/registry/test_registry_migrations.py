"""Migrations make exactly the models' schema, on both databases, and can be undone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import JSON, Connection, Engine, MetaData, inspect, select, text
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.orm import Session

from orchestrator.why import Why, WhyCode
from registry import migrate
from registry.db import make_engine
from registry.errors import ConflictError
from registry.models import Base, Group


def test_up_makes_the_models_schema_and_down_leaves_nothing(empty_engine: Engine) -> None:
    migrate.upgrade(empty_engine)
    with empty_engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert set(inspect(empty_engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    migrate.require_current(empty_engine)

    migrate.downgrade(empty_engine, "base")
    assert inspect(empty_engine).get_table_names() == ["alembic_version"]
    migrate.upgrade(empty_engine)
    migrate.require_current(empty_engine)


def test_constraints_and_partial_indexes_are_the_models_own(empty_engine: Engine) -> None:
    """What autogenerate does not compare: checks, and the conditions of indexes."""
    migrate.upgrade(empty_engine)
    migrated = _constraints(empty_engine)
    migrate.downgrade(empty_engine, "base")
    Base.metadata.create_all(empty_engine)
    assert migrated == _constraints(empty_engine)


def _constraints(engine: Engine) -> dict[str, object]:
    inspector = inspect(engine)
    return {
        table: (
            sorted((str(check["name"]), check["sqltext"]) for check in inspector.get_check_constraints(table)),
            sorted(_index(index) for index in inspector.get_indexes(table)),
            sorted(str(key["name"]) for key in inspector.get_foreign_keys(table)),
        )
        for table in Base.metadata.tables
    }


def _index(index: ReflectedIndex) -> str:
    condition = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return f"{index['name']} {index['column_names']} {index['unique']} {condition}"


def test_a_pipeline_that_drains_first_is_still_followed_by_its_worker_after_an_upgrade(empty_engine: Engine) -> None:
    migrate.upgrade(empty_engine, "0006")
    drains_first = "drains first: its standalone worker needs its memory"
    with empty_engine.begin() as connection:
        _insert(connection, "models", id="mod_1", lane="direct")
        for name, state, reason in (
            ("grp_1", "draining", drains_first),
            ("grp_2", "stopped", drains_first),
            ("grp_3", "draining", "no longer wanted"),
        ):
            _insert(connection, "groups", id=name, model_id="mod_1", state=state, reason=reason)
    migrate.upgrade(empty_engine)
    with Session(empty_engine) as session:
        found = {group.id: group.why for group in session.scalars(select(Group))}
    assert found == {"grp_1": Why(WhyCode.DRAINS_FIRST).to_json(), "grp_2": None, "grp_3": None}


def test_aliases_keep_their_models_up_and_down(empty_engine: Engine) -> None:
    migrate.upgrade(empty_engine, "0007")
    with empty_engine.begin() as connection:
        _insert(connection, "models", id="mod_1", lane="direct")
        _insert(connection, "models", id="mod_2", lane="direct", name="two")
        _insert(connection, "aliases", name="chat", model_id="mod_1")
    migrate.upgrade(empty_engine, "0008")
    with empty_engine.begin() as connection:
        assert connection.execute(text("SELECT alias_name, model_id, weight FROM alias_targets")).all() == [
            ("chat", "mod_1", 1)
        ]
        _insert(connection, "alias_targets", alias_name="chat", model_id="mod_2", weight=9)
    migrate.downgrade(empty_engine, "0007")
    with empty_engine.connect() as connection:
        assert connection.execute(text("SELECT name, model_id FROM aliases")).all() == [("chat", "mod_2")]


def _insert(connection: Connection, table: str, **values: object) -> None:
    """A row by the schema that the database has: what must be there and is not in `values` is 0, empty or false."""
    metadata = MetaData()
    metadata.reflect(connection, only=[table])
    found = metadata.tables[table]
    needed = (one for one in found.columns if not one.nullable and one.server_default is None)
    filled = {one.name: {} if isinstance(one.type, JSON) else one.type.python_type() for one in needed}
    connection.execute(found.insert().values(filled | values))


def test_processes_that_start_together_migrate_once(empty_engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate.upgrade(empty_engine), range(4)))
    migrate.require_current(empty_engine)


def test_a_database_without_the_schema_says_what_to_run(empty_engine: Engine) -> None:
    with pytest.raises(ConflictError, match="alembic upgrade head"):
        migrate.require_current(empty_engine)


def test_a_migration_that_breaks_a_reference_is_rolled_back(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/hydrant.db")
    migrate.upgrade(engine)
    with pytest.raises(ConflictError, match="break a reference"), migrate.migrating(engine) as connection:
        connection.execute(
            text("INSERT INTO alias_targets (alias_name, model_id, weight) VALUES ('a', 'mod_missing', 1)")
        )
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alias_targets")).scalar() == 0
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    engine.dispose()
