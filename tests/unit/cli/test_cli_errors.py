"""What went wrong in the database, as a person is told."""

import sqlite3
from pathlib import Path

from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from cli.errors import expected


def said(orig: BaseException) -> str:
    failure = expected(OperationalError("UPDATE", {}, orig))
    assert failure is not None
    return failure.message


def test_a_lock_that_another_holds_is_no_wrong_address(tmp_path: Path) -> None:
    first, second = (sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None) for _ in range(2))
    first.execute("BEGIN IMMEDIATE")
    try:
        second.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        busy = error
    first.close()
    second.close()
    for error in (busy, LockNotAvailable("canceling statement due to lock timeout")):
        assert "try again" in said(error)
        assert "DATABASE_URL" not in said(error)


def test_a_database_that_does_not_answer_is() -> None:
    assert "DATABASE_URL" in said(sqlite3.OperationalError("unable to open database file"))
