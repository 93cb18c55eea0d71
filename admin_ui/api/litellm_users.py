"""LiteLLM's routes for users: a user is a name on keys (`user_id`), by which its keys and what they spent are found."""

from typing_extensions import TypedDict

from admin_ui.api.answers import bad_request
from admin_ui.api.litellm import TAG, api, usd
from admin_ui.api.litellm_fields import MEMBER_ROLES, OF_PEOPLE, NewUser
from admin_ui.api.litellm_keys import GeneratedKey, KeyInfo, key_info, make_key
from admin_ui.api.management import PageSize, Text
from admin_ui.api.operation import Query
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.errors import NotFoundError
from registry.ids import new_id
from registry.ops import keys
from registry.ops.usage import UsageFilter, usage_totals

_OF_THE_USER = {"user_id", "user_role", "auto_create_key", "team_id", "teams"}


class OnlyUser(TypedDict):
    """A user without a key: nothing is kept of it until a key names it."""

    user_id: str
    key: None


class UserInfo(TypedDict):
    """What is known of a user: what all its keys have spent."""

    user_id: str
    spend: float
    spend_nusd: int


class UserAnswer(TypedDict):
    """A user with its keys, the newest first, and the ids of the tenants that pay for them."""

    user_id: str
    user_info: UserInfo
    keys: list[KeyInfo]
    teams: list[str]


class UserQuery(Query):
    """`user_id`: as keys were given it."""

    user_id: Text
    key_limit: PageSize = 100


@api.operation(
    "POST", "/user/new", Permission.CHANGE_KEYS, "Make a key for a user", tag=TAG,
    body=NewUser, answer=GeneratedKey | OnlyUser, errors=(404, 409),
)  # fmt: skip
def litellm_new_user(body: NewUser) -> GeneratedKey | OnlyUser:
    body.refuse_unknown(OF_PEOPLE)
    if body.user_role not in MEMBER_ROLES:
        raise bad_request("user_role: people who manage are made by hydrant user create", "user_role")
    team = body.team()
    user_id = body.user_id or new_id("usr")
    if body.auto_create_key:
        return make_key(body, team, user_id=user_id)
    for name in sorted(body.model_fields_set & set(NewUser.model_fields) - _OF_THE_USER):
        if getattr(body, name) not in (None, "", []):
            raise bad_request(f"{name} would be held by nobody without a key: give it to /key/generate", name)
    return {"user_id": user_id, "key": None}


@api.operation(
    "GET", "/user/info", Permission.SEE, "A user's keys and spend", tag=TAG,
    query=UserQuery, answer=UserAnswer, errors=(404,),
)  # fmt: skip
def litellm_user_info(query: UserQuery) -> UserAnswer:
    rows = keys.list_keys(db(), user_id=query.user_id, limit=query.key_limit)
    if not rows:
        raise NotFoundError("no key has this user_id", "user_id")
    spent = usage_totals(db(), UsageFilter(user_id=query.user_id)).cost_nusd
    return {
        "user_id": query.user_id,
        "user_info": {"user_id": query.user_id, "spend": usd(spent), "spend_nusd": spent},
        "keys": [key_info(row) for row in rows],
        "teams": sorted({row.tenant_id for row in rows}),
    }
