"""API keys of tenants. A key is in the answer that made it and never again."""

from typing import Any

from flask import current_app
from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.management import Limit, Moment, Page, Text, api
from admin_ui.api.operation import Body, Changes, change, change_once, given
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.documents.access import KeyDocument, key_document
from registry.ops import keys, tenants

TAG = "keys"
LONGEST_OVERLAP_S = 90 * 24 * 3600


class Keys(TypedDict):
    """Keys, newest first; `next_before` is null on the last page."""

    keys: list[KeyDocument]
    next_before: str | None


class OneKey(TypedDict):
    """One key."""

    key: KeyDocument


class NewKeyAnswer(TypedDict):
    """A new key. `plaintext` is the key itself, shown this once: null when an Idempotency-Key was sent again."""

    key: KeyDocument
    plaintext: str | None


class KeysQuery(Page):
    """`tenant` is an id or a name; `before` is `next_before` of the page before."""

    tenant: Text | None = None
    before: Text | None = None


Parameters = dict[Text, int | float | str]


class NewKey(Body):
    """A key to be made. `models` are names or aliases, or "*" for all, also future ones.

    `defaults` and `ceilings` are of its requests' parameters: {"temperature": 0.2}, {"max_tokens": 512}.
    """

    tenant: Text = Field(description="Id or name")
    name: Text
    models: list[Text] = Field(default=["*"], min_length=1)
    expires_at_ms: Moment | None = None
    rpm: Limit | None = None
    tpm: Limit | None = None
    parallel: Limit | None = None
    sse_ping: bool = True
    defaults: Parameters = {}  # noqa: RUF012 - pydantic copies it
    ceilings: Parameters = {}  # noqa: RUF012


class KeyChanges(Changes):
    """What is not given stays; null lifts a limit, or the end."""

    name: Text = ""
    models: list[Text] = Field(default=["*"], min_length=1)
    expires_at_ms: Moment | None = None
    rpm: Limit | None = None
    tpm: Limit | None = None
    parallel: Limit | None = None
    sse_ping: bool = True
    defaults: Parameters = {}  # noqa: RUF012 - pydantic copies it
    ceilings: Parameters = {}  # noqa: RUF012


class Rotation(Body):
    """How many seconds the old key goes on working beside the new one."""

    overlap_s: int = Field(default=0, ge=0, le=LONGEST_OVERLAP_S)


@api.operation(
    "GET", "/keys", Permission.SEE, "Keys, newest first", tag=TAG, query=KeysQuery, answer=Keys, errors=(404,)
)
def list_keys(query: KeysQuery) -> Keys:
    tenant_id = tenants.find_tenant(db(), query.tenant).id if query.tenant is not None else None
    found = keys.list_keys(db(), tenant_id, before_id=query.before, limit=query.limit + 1)
    page = found[: query.limit]
    return {
        "keys": [key_document(row) for row in page],
        "next_before": page[-1].id if len(found) > query.limit else None,
    }


@api.operation(
    "POST", "/keys", Permission.CHANGE_KEYS, "Make a key", tag=TAG,
    body=NewKey, answer=NewKeyAnswer, status=201, errors=(404, 409), once=True,
)  # fmt: skip
def create_key(body: NewKey) -> dict[str, Any]:
    def do(session: Session, actor: str) -> dict[str, Any]:
        values = body.model_dump()
        tenant_id = tenants.find_tenant(session, values.pop("tenant")).id
        row, plaintext = keys.create_key(session, actor, pepper(), tenant_id=tenant_id, **values)
        return {"key": key_document(row), "plaintext": plaintext}

    return change_once(do, secret="plaintext")  # noqa: S106 - the name of a field


@api.operation("GET", "/keys/<key>", Permission.SEE, "One key, by id or prefix", tag=TAG, answer=OneKey, errors=(409,))
def show_key(key: str) -> OneKey:
    return {"key": key_document(keys.find_key(db(), key))}


@api.operation(
    "PATCH", "/keys/<key>", Permission.CHANGE_KEYS, "Change a key", tag=TAG,
    body=KeyChanges, answer=OneKey, errors=(409,),
)  # fmt: skip
def update_key(key: str, body: KeyChanges) -> OneKey:
    row = change(
        lambda session, actor: keys.update_key(session, actor, keys.find_key(session, key).id, **given(body)),
    )
    return {"key": key_document(row)}


@api.operation(
    "POST", "/keys/<key>/rotate", Permission.CHANGE_KEYS, "Replace a key by a new one", tag=TAG,
    body=Rotation, answer=NewKeyAnswer, status=201, errors=(409,), once=True,
)  # fmt: skip
def rotate_key(key: str, body: Rotation) -> dict[str, Any]:
    def do(session: Session, actor: str) -> dict[str, Any]:
        old = keys.find_key(session, key)
        row, plaintext = keys.rotate_key(session, actor, pepper(), old.id, overlap_s=body.overlap_s)
        return {"key": key_document(row), "plaintext": plaintext}

    return change_once(do, secret="plaintext")  # noqa: S106 - the name of a field


@api.operation(
    "POST", "/keys/<key>/revoke", Permission.CHANGE_KEYS, "End a key for ever", tag=TAG, answer=OneKey, errors=(409,)
)
def revoke_key(key: str) -> OneKey:
    row = change(lambda session, actor: keys.revoke_key(session, actor, keys.find_key(session, key).id))
    return {"key": key_document(row)}


def pepper() -> str:
    """What digests of keys are made with."""
    text: str = current_app.config["KEY_PEPPER"]
    return text
