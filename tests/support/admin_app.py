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

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from admin_ui.app import create_app
from admin_ui.config import AdminConfig
from registry.db import SessionFactory, make_engine, make_session_factory, session_scope
from registry.models import Base
from registry.ops import admins
from registry.publish import DEFAULT_HOLD

PASSWORD = "correct horse battery"
PEPPER = "pepper-for-tests"
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
        """A browser in which the person of that role has signed in."""
        client = self.client()
        answer = send(client, "/login", {"email": f"{role}@example.org", "password": PASSWORD})
        assert answer.status_code == 302, answer.text
        return client


@contextmanager
def running_app(directory: Path, redis_url: str, **config: object) -> Iterator[AdminApp]:
    """An app over a fresh SQLite file in `directory`, with an account of each role."""
    url = f"sqlite:///{directory}/admin.db"
    engine = make_engine(url)
    sessions = make_database(engine)
    settings = AdminConfig(
        database_url=url,
        redis_url=redis_url,
        key_pepper=PEPPER,
        flask_secret="secret-for-tests",
        hold=DEFAULT_HOLD,
        **config,  # type: ignore[arg-type]
    )
    app = create_app(settings)
    try:
        yield AdminApp(app, engine, sessions)
    finally:
        app.extensions["hydrant_redis"].close()
        app.extensions["hydrant_celery"].close()
        app.extensions["hydrant_engine"].dispose()
        engine.dispose()


def make_database(engine: Engine) -> SessionFactory:
    """All tables, and an account of each role."""
    Base.metadata.create_all(engine)
    sessions = make_session_factory(engine)
    with session_scope(sessions) as session:
        for role in admins.ROLES:
            admins.create_admin(session, "test", email=f"{role}@example.org", role=role, password=PASSWORD)
    return sessions


def csrf_token(client: FlaskClient, page: str = "/login") -> str:
    """The token that the page's forms carry."""
    found = _TOKEN.search(client.get(page, follow_redirects=True).text)
    assert found is not None, f"{page} has no form"
    return found.group(1)


def send(client: FlaskClient, path: str, fields: dict[str, object] | None = None, **options: object) -> TestResponse:
    """Sends a form as a browser does, with the session's token."""
    data = {"csrf_token": csrf_token(client), **(fields or {})}
    return client.post(path, data=data, **options)  # type: ignore[arg-type]


@contextmanager
def admin_process(home: Path, redis_url: str) -> Iterator[str]:
    """`python -m admin_ui` with its state in `home` and an account of each role; yields its address."""
    port = _free_port()
    url = f"sqlite:///{home}/hydrant.db"
    engine = make_engine(url)
    make_database(engine)
    engine.dispose()
    environment = {
        **os.environ,
        "HYDRANT_HOME": str(home),
        "DATABASE_URL": url,
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
