"""LiteLLM's routes for users: a user is a name on keys (`user_id`), by which its keys and what they spent are found."""

from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api import litellm_budgets
from admin_ui.api.answers import bad_request
from admin_ui.api.litellm import TAG, api, usd
from admin_ui.api.litellm_fields import MEMBER_ROLES, OF_PEOPLE, DeleteUsers, NewUser, UpdateUser
from admin_ui.api.litellm_keys import GeneratedKey, KeyInfo, change_key, key_info, make_key
from admin_ui.api.management import LARGEST, PageSize, Text
from admin_ui.api.operation import Query, change
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.errors import ConflictError, NotFoundError
from registry.ids import new_id
from registry.models import ApiKey
from registry.ops import key_users, keys, tenants
from registry.ops.key_users import UserFilter
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


class UpdatedUser(TypedDict):
    """A user, and its key where that was changed."""

    user_id: str
    data: UserInfo
    keys: list[KeyInfo]


class ListedUser(UserInfo):
    """Besides, how many keys it has that have not ended, and the ids of the tenants that pay for them."""

    key_count: int
    teams: list[str]


class UserList(TypedDict):
    """A page of users, by name."""

    users: list[ListedUser]
    total: int
    page: int
    page_size: int
    total_pages: int


class UserQuery(Query):
    """`user_id`: as keys were given it."""

    user_id: Text
    key_limit: PageSize = 100


class UserListQuery(Query):
    """`user_ids`: whole names, with commas between them. `team`: a tenant's id or name."""

    user_ids: Text | None = None
    team: Text | None = None
    page: int = Field(default=1, ge=1, le=LARGEST)
    page_size: int = Field(default=25, ge=1, le=100)


@api.operation(
    "POST", "/user/new", Permission.CHANGE_KEYS, "Make a key for a user", tag=TAG,
    body=NewUser, answer=GeneratedKey | OnlyUser, errors=(404, 409),
)  # fmt: skip
def litellm_new_user(body: NewUser) -> GeneratedKey | OnlyUser:
    _refuse_what_users_lack(body)
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
    _refuse_unknown_user(db(), query.user_id, "user_id")
    rows = keys.list_keys(db(), user_id=query.user_id, limit=query.key_limit)
    return {
        "user_id": query.user_id,
        "user_info": _user_info(query.user_id),
        "keys": [key_info(row) for row in rows],
        "teams": sorted({row.tenant_id for row in rows}),
    }


@api.operation("GET", "/user/list", Permission.SEE, "Users whose keys have not all ended, by name", tag=TAG,
    query=UserListQuery, answer=UserList, errors=(404,),
)  # fmt: skip
def litellm_user_list(query: UserListQuery) -> UserList:
    names = None if query.user_ids is None else {name.strip() for name in query.user_ids.split(",")}
    tenant_id = None if query.team is None else tenants.find_tenant(db(), query.team).id
    wanted = UserFilter(tenant_id=tenant_id, user_ids=names)
    total = key_users.count_users(db(), wanted)
    page = key_users.list_users(db(), wanted, limit=query.page_size, offset=(query.page - 1) * query.page_size)
    return {
        "users": [
            {
                "user_id": user.user_id,
                "spend": usd(user.spent_nusd),
                "spend_nusd": user.spent_nusd,
                "key_count": user.keys,
                "teams": list(user.tenant_ids),
            }
            for user in page
        ],
        "total": total,
        "page": query.page,
        "page_size": query.page_size,
        "total_pages": -(-total // query.page_size),
    }


@api.operation(
    "POST", "/user/update", Permission.CHANGE_KEYS, "Change a user's key", tag=TAG,
    body=UpdateUser, answer=UpdatedUser, errors=(404, 409),
)  # fmt: skip
def litellm_update_user(body: UpdateUser) -> UpdatedUser:
    _refuse_what_users_lack(body)
    litellm_budgets.refuse_unless_owner(body.budget())
    _refuse_unknown_user(db(), body.user_id, "user_id")
    asked = body.asked()

    def do(session: Session, actor: str) -> ApiKey:
        live = keys.list_keys(session, user_id=body.user_id, live=True)
        if len(live) != 1:
            raise ConflictError(
                f"{asked[0]} is a key's, and this user has {len(live)} that have not ended: "
                + ("change each by POST /key/update" if live else "make one by POST /key/generate"),
                asked[0],
            )
        return change_key(session, actor, live[0], body)

    changed = [change(do, balance_of=lambda key: key.tenant_id)] if asked else []
    return {
        "user_id": body.user_id,
        "data": _user_info(body.user_id),
        "keys": [key_info(row) for row in changed],
    }


@api.operation(
    "POST", "/user/delete", Permission.CHANGE_KEYS,
    "End the keys of users for ever: of all that are named, or of none; the number of users", tag=TAG,
    body=DeleteUsers, answer=int, errors=(404,),
)  # fmt: skip
def litellm_delete_users(body: DeleteUsers) -> int:
    body.refuse_unknown()
    names = set(body.user_ids)

    def do(session: Session, actor: str) -> None:
        for name in sorted(names):
            _refuse_unknown_user(session, name, "user_ids")
            for key in keys.list_keys(session, user_id=name, live=True):
                keys.revoke_key(session, actor, key.id)

    change(do)
    return len(names)


def _refuse_what_users_lack(body: NewUser | UpdateUser) -> None:
    body.refuse_unknown(OF_PEOPLE)
    if body.user_role not in MEMBER_ROLES:
        raise bad_request("user_role: people who manage are made by hydrant user create", "user_role")


def _refuse_unknown_user(session: Session, user_id: str, field: str) -> None:
    if not keys.list_keys(session, user_id=user_id, limit=1):
        raise NotFoundError(f"no key has the user_id {user_id!r}", field)


def _user_info(user_id: str) -> UserInfo:
    spent = usage_totals(db(), UsageFilter(user_id=user_id)).cost_nusd
    return {"user_id": user_id, "spend": usd(spent), "spend_nusd": spent}
