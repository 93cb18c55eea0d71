"""LiteLLM's routes for keys."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api import litellm_budgets
from admin_ui.api.answers import bad_request
from admin_ui.api.keys import pepper
from admin_ui.api.litellm import TAG, api, iso, usd
from admin_ui.api.litellm_budgets import BudgetInfo
from admin_ui.api.litellm_fields import DeleteKeys, GenerateKey, UpdateKey, UpdateUser, needs_tenant
from admin_ui.api.management import Text
from admin_ui.api.operation import Query, change
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.errors import ConflictError, NotFoundError
from registry.ids import now_ms
from registry.models import ApiKey
from registry.ops import budgets, keys, tenants
from registry.ops.usage import UsageFilter, usage_totals


class KeyInfo(BudgetInfo):
    """A key, in LiteLLM's words. `spend` is, as there, what was spent since its budget last began anew; in total where
    it has none. Of several budgets the hard one with least left is told."""

    token: str
    key_name: str
    key_alias: str
    team_id: str
    user_id: str | None
    models: list[str]
    expires: str | None
    rpm_limit: int | None
    tpm_limit: int | None
    max_parallel_requests: int | None
    metadata: dict[str, Any]
    blocked: bool
    spend: float
    spend_nusd: int
    created_at: str


class GeneratedKey(KeyInfo):
    """A new key: `key` is the key itself, shown this once."""

    key: str
    token_id: str


class KeyInfoAnswer(TypedDict):
    """`key` as it was asked for."""

    key: str
    info: KeyInfo


class DeletedKeys(TypedDict):
    """What was ended, as it was named."""

    deleted_keys: list[str]


class KeyQuery(Query):
    """The key itself, or better (addresses are logged) its `token`."""

    key: Text


@api.operation(
    "POST", "/key/generate", Permission.CHANGE_KEYS, "Make a key", tag=TAG,
    body=GenerateKey, answer=GeneratedKey, errors=(404, 409),
)  # fmt: skip
def litellm_generate_key(body: GenerateKey) -> GeneratedKey:
    body.refuse_unknown()
    return make_key(body, body.team_id)


def make_key(body: GenerateKey, team_id: str | None, **more: str) -> GeneratedKey:
    """Make the key that the fields ask for, of a tenant by id or name, with what else the registry shall know of it."""
    if body.key_type not in (None, "default", "llm_api"):
        raise bad_request(
            "key_type: keys here call models only; hydrant token create makes management tokens", "key_type"
        )

    def do(session: Session, actor: str) -> tuple[ApiKey, str]:
        values = {"name": "unnamed", **body.changes(), **more}
        tenant_id = _tenant_id(session, team_id, body.tenant_field)
        made = keys.create_key(session, actor, pepper(), tenant_id=tenant_id, **values)
        if body.budget():
            litellm_budgets.set_by(session, actor, tenant_id, made[0].id, body.budget())
        return made

    row, plaintext = change(do, balance_of=lambda made: made[0].tenant_id)
    return {**key_info(row), "key": plaintext, "token_id": row.id}


@api.operation(
    "GET", "/key/info", Permission.SEE, "What a key may do and has spent", tag=TAG,
    query=KeyQuery, answer=KeyInfoAnswer, errors=(404, 409),
)  # fmt: skip
def litellm_key_info(query: KeyQuery) -> KeyInfoAnswer:
    return {"key": query.key, "info": key_info(keys.find_key(db(), query.key, pepper()))}


@api.operation(
    "POST", "/key/update", Permission.CHANGE_KEYS, "Change a key", tag=TAG,
    body=UpdateKey, answer=KeyInfo, errors=(404, 409),
)  # fmt: skip
def litellm_update_key(body: UpdateKey) -> KeyInfo:
    body.refuse_unknown()
    litellm_budgets.refuse_unless_owner(body.budget())

    def do(session: Session, actor: str) -> ApiKey:
        return change_key(session, actor, keys.find_key(session, body.key, pepper()), body)

    return key_info(change(do, balance_of=lambda key: key.tenant_id))


def change_key(session: Session, actor: str, key: ApiKey, body: UpdateKey | UpdateUser) -> ApiKey:
    """Give a key what the fields ask for."""
    changes, budget = body.changes(), body.budget()
    if changes or not budget:
        keys.update_key(session, actor, key.id, **changes)
    if budget:
        litellm_budgets.set_by(session, actor, key.tenant_id, key.id, budget)
    return key


@api.operation(
    "POST", "/key/delete", Permission.CHANGE_KEYS, "End keys for ever: all that are named, or none", tag=TAG,
    body=DeleteKeys, answer=DeletedKeys, errors=(404, 409),
)  # fmt: skip
def litellm_delete_keys(body: DeleteKeys) -> DeletedKeys:
    body.refuse_unknown()
    if not body.keys and not body.key_aliases:
        raise bad_request("name at least one key in keys or key_aliases", "keys")

    def do(session: Session, actor: str) -> None:
        for text in body.keys:
            keys.revoke_key(session, actor, keys.find_key(session, text, pepper()).id)
        for alias in body.key_aliases:
            keys.revoke_key(session, actor, _key_named(session, alias).id)

    change(do)
    return {"deleted_keys": [*body.keys, *body.key_aliases]}


def _tenant_id(session: Session, team_id: str | None, field: str) -> str:
    if team_id is not None:
        return tenants.find_tenant(session, team_id).id
    found = tenants.list_tenants(session, limit=2)
    if len(found) != 1:
        raise needs_tenant(field)
    return found[0].id


def _key_named(session: Session, alias: str) -> ApiKey:
    live = session.scalars(select(ApiKey).where(ApiKey.name == alias, ApiKey.revoked_at_ms.is_(None)).limit(2)).all()
    if not live:
        raise NotFoundError(f"there is no key named {alias!r}", "key_aliases")
    if len(live) > 1:
        raise ConflictError(f"several keys are named {alias!r}; name them by token in keys", "key_aliases")
    return live[0]


def key_info(row: ApiKey) -> KeyInfo:
    """A key in LiteLLM's words."""
    rows = litellm_budgets.budgets_of(db(), row.tenant_id, row.id)
    spending = litellm_budgets.told(budgets.spending(db(), rows, now_ms()))
    spent = usage_totals(db(), UsageFilter(key_id=row.id)).cost_nusd if spending is None else spending.spent_nusd
    return {
        "token": row.id,
        "key_name": f"hyd-{row.prefix}-...",
        "key_alias": row.name,
        "team_id": row.tenant_id,
        "user_id": row.user_id,
        "models": [] if row.models == ["*"] else list(row.models),
        "expires": None if row.expires_at_ms is None else iso(row.expires_at_ms),
        "rpm_limit": row.rpm,
        "tpm_limit": row.tpm,
        "max_parallel_requests": row.parallel,
        **litellm_budgets.info(spending),
        "metadata": {},
        "blocked": row.revoked_at_ms is not None,
        "spend": usd(spent),
        "spend_nusd": spent,
        "created_at": iso(row.created_at_ms),
    }
