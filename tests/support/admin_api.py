"""A program that manages Hydrant: the management API, called with a token of some role."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import func, select
from support.admin_app import PEPPER, AdminApp
from werkzeug.test import TestResponse

from registry.db import read_scope, session_scope
from registry.models import Audit
from registry.ops import tokens


def make_token(admin: AdminApp, role: str, **options: Any) -> tuple[str, str]:
    """A token of that role: its id and its plaintext."""
    with session_scope(admin.sessions) as session:
        row, plaintext = tokens.create_token(session, "test", PEPPER, name=f"{role}'s", role=role, **options)
        return row.id, plaintext


class Program:
    """Calls the API with one token."""

    def __init__(self, admin: AdminApp, role: str) -> None:
        self.admin = admin
        self.client: FlaskClient = admin.client()
        self.token_id, self.plaintext = make_token(admin, role)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        """One request; a body of bytes is sent as it is, any other as JSON."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        every = {"Authorization": f"Bearer {self.plaintext}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return self.client.open(path, method=method, headers=every, **sent)

    def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The document of an answer that must be a success."""
        answer = self.send(method, path, body, **headers)
        assert answer.status_code < 300, (method, path, answer.status_code, answer.text)
        return answer.json

    def refused(self, status: int, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """The error of an answer that must be this refusal, in OpenAI's shape."""
        answer = self.send(method, path, body, **headers)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        assert answer.content_type == "application/json"
        assert set(answer.json) == {"error"}
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        found: dict[str, Any] = answer.json["error"]
        return found


def audited(admin: AdminApp) -> int:
    """How many entries the audit log has."""
    with read_scope(admin.sessions) as session:
        return int(session.scalar(select(func.count()).select_from(Audit)) or 0)


def last_audit(admin: AdminApp) -> Audit:
    """The newest entry of the audit log."""
    with read_scope(admin.sessions) as session:
        return session.scalars(select(Audit).order_by(Audit.id.desc()).limit(1)).one()
