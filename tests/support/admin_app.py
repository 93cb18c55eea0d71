"""The admin UI over a database of its own: in the test's process, or as `python -m admin_ui` for a browser."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from support.leaks import assert_none_in_logs, plant
from werkzeug.test import TestResponse

from admin_ui.app import create_app
from admin_ui.config import AdminConfig
from registry.db import SessionFactory, make_engine, make_session_factory, session_scope
from registry.ids import now_ms
from registry.models import Base
from registry.ops import admins
from registry.publish import DEFAULT_HOLD

PASSWORD = plant("the password of every account", "correct horse battery")
PEPPER = plant("the admin tests' pepper", "pepper-for-tests")
FLASK_SECRET = plant("the key of sessions", "secret-for-tests")
START_SECONDS = 30.0
STOP_SECONDS = 10.0

_TOKEN = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')


@dataclass(frozen=True)
class AdminApp:
    """The app, and a way into its database. Every role has an account: `<role>@example.org` with PASSWORD."""

    app: Flask
    engine: Engine
    sessions: SessionFactory

    def client(self) -> FlaskClient:
        """A browser without cookies."""
        return self.app.test_client()

    def signed_in(self, role: str) -> FlaskClient:
        """A browser in which the person of that role has signed in (without the time that Argon2 takes)."""
        client = self.client()
        with session_scope(self.sessions) as session:
            user = admins.find_admin(session, f"{role}@example.org")
        with client.session_transaction() as cookie:
            cookie["_user_id"] = f"{user.id}:{user.session_epoch}"
            cookie["_fresh"] = True
            cookie["signed_in_at_ms"] = now_ms()
        return client

    def log_in(self, email: str, password: str = PASSWORD, **options: Any) -> tuple[FlaskClient, TestResponse]:
        """A fresh browser, and what it got for this e-mail and password."""
        client = self.client()
        return client, send(client, "/login", {"email": email, "password": password}, **options)


@contextmanager
def running_app(database: Path | str, redis_url: str, **config: Any) -> Iterator[AdminApp]:
    """An app over `database`: a SQLite file or a URL, which `make_database` has filled."""
    url = database if isinstance(database, str) else f"sqlite:///{database}"
    engine = make_engine(url)
    sessions = make_session_factory(engine)
    settings = AdminConfig(
        database_url=url,
        redis_url=redis_url,
        key_pepper=PEPPER,
        flask_secret=FLASK_SECRET,
        hold=DEFAULT_HOLD,
        **config,
    )
    app = create_app(settings)
    try:
        yield AdminApp(app, engine, sessions)
    finally:
        app.extensions["hydrant_redis"].close()
        app.extensions["hydrant_celery"].close()
        app.extensions["hydrant_engine"].dispose()
        engine.dispose()


def make_database(database: Path | str) -> None:
    """A SQLite file or URL with all tables and an account of each role. Argon2 is slow by design: make one, copy it."""
    engine = make_engine(database if isinstance(database, str) else f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    with session_scope(make_session_factory(engine)) as session:
        for role in admins.ROLES:
            admins.create_admin(session, "test", email=f"{role}@example.org", role=role, password=PASSWORD)
    engine.dispose()


def csrf_token(client: FlaskClient, **options: Any) -> str:
    """The token that this browser's forms carry."""
    page = client.get("/account/password", follow_redirects=True, **options).text
    found = _TOKEN.search(page)
    assert found is not None, page
    return found.group(1)


def send(client: FlaskClient, path: str, fields: dict[str, Any] | None = None, **options: Any) -> TestResponse:
    """Sends a form as a browser does, with the session's token."""
    data = {"csrf_token": csrf_token(client, **options), **(fields or {})}
    return client.post(path, data=data, **options)


@contextmanager
def admin_process(home: Path, redis_url: str) -> Iterator[str]:
    """`python -m admin_ui` with its state in `home`, where a database is made if there is none; yields its address."""
    port = _free_port()
    database = home / "hydrant.db"
    if not database.exists():
        make_database(database)
    environment = {
        **os.environ,
        "HYDRANT_HOME": str(home),
        "DATABASE_URL": f"sqlite:///{database}",
        "REDIS_URL": redis_url,
        "HYDRANT_ADMIN_PORT": str(port),
    }
    log = home / "admin.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "admin_ui"],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_healthy(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert_none_in_logs(home)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the admin UI did not start: {log.read_text()}") from None
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
