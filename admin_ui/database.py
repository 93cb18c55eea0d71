"""One read-only SQLAlchemy session a request, closed when it ends. Changes open their own (admin_ui.changes)."""

from contextlib import ExitStack

from flask import Flask, current_app, g
from sqlalchemy.orm import Session

from registry.db import SessionFactory, read_scope


def session_factory() -> SessionFactory:
    """The app's session factory."""
    factory: SessionFactory = current_app.extensions["hydrant_sessions"]
    return factory


def db() -> Session:
    """This request's session, for reading only: it takes no lock that a writer would wait for."""
    if "db" not in g:
        g.db_stack = ExitStack()
        g.db = g.db_stack.enter_context(read_scope(session_factory()))
    session: Session = g.db
    return session


def forget_reads() -> None:
    """Ends the read transaction, so that what this request reads next includes what was just committed."""
    if "db" in g:
        g.db.rollback()


def init_database(app: Flask, sessions: SessionFactory) -> None:
    """Lets `db()` open sessions of `sessions`, and closes them when the request ends."""
    app.extensions["hydrant_sessions"] = sessions

    @app.teardown_appcontext
    def close(_error: BaseException | None) -> None:
        stack: ExitStack | None = g.pop("db_stack", None)
        g.pop("db", None)
        if stack is not None:
            stack.close()
