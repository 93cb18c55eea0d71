"""What LiteLLM's clients send, in its own field names, and which of it Hydrant can keep its word on.

Fields that are not listed here are taken when they say nothing (null, false, 0, "", [] or {}), and refused when they
ask for something: a budget that nobody holds, or a guardrail that nobody runs, would be worse than an error.
"""

import re
from decimal import Decimal
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from admin_ui.api.answers import ApiError, bad_request
from admin_ui.api.management import Limit, Text
from registry.ids import now_ms

IGNORED = frozenset({"metadata", "tags", "send_invite_email", "rpm_limit_type", "tpm_limit_type"})
"""Taken and not kept: they change neither what a key may do nor what it costs."""
OF_PEOPLE = IGNORED | {
    *("admins", "members", "members_with_roles", "team_member_permissions", "user_alias", "user_email", "sso_user_id"),
}
"""Besides those, who people are and what they may do in LiteLLM's own pages."""
MEMBER_ROLES = (None, "internal_user", "internal_user_viewer")
HELP = {
    "budget_id": "budgets have no ids here; use max_budget and budget_duration",
    "budget_limits": "use PUT /admin/v1/budgets/{key}/{period} for several budgets of one key",
    "key": "a key's text is made here and cannot be chosen; leave the field out and use the one in the answer",
    "blocked": "use POST /key/delete to end a key, or blocked of POST /team/update",
    "organization_id": "a tenant belongs to no organization",
    "team_member_budget": "use max_budget of a key",
    "model_rpm_limit": "limits are of a key or a tenant; use rpm_limit",
    "model_tpm_limit": "limits are of a key or a tenant; use tpm_limit",
    "aliases": "aliases are of models: POST /admin/v1/models/{model}/aliases",
    "auto_rotate": "rotate keys by POST /admin/v1/keys/{key}/rotate",
    "spend": "what was spent is in the ledger and stays; use another max_budget",
}
ALL_MODELS = ("all-team-models", "all-proxy-models", "*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 30 * 86_400}
_DURATION = re.compile(r"([0-9]{1,9})(mo|[smhdw])")


class LiteLLMBody(BaseModel):
    """A body of LiteLLM's: fields that nobody knows are looked at before they are passed over."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True, protected_namespaces=())
    zero_asks: ClassVar[frozenset[str]] = frozenset()
    """Fields in which everything but null asks for something."""

    def refuse_unknown(self, kept: frozenset[str] = IGNORED) -> None:
        """Raises ApiError 400 for the first field that asks for what Hydrant does not do."""
        for name, value in (self.model_extra or {}).items():
            silent = value is None or (value in (False, 0, "", [], {}) and name not in self.zero_asks)
            if name not in kept and not silent:
                raise bad_request(f"{name} is not supported: {HELP.get(name, 'leave it out')}", name)


class LimitFields(LiteLLMBody):
    """Limits and a budget, of a key or of a team."""

    rpm_limit: Limit | None = None
    tpm_limit: Limit | None = None
    max_parallel_requests: Limit | None = None
    max_budget: float | int | Literal[""] | None = Field(default=None, description="Dollars in each budget_duration")
    soft_budget: float | int | None = Field(
        default=None, description="Dollars at which an alert is recorded: a whole percentage of max_budget"
    )
    budget_duration: str | None = Field(
        default=None, description="1d or 24h: a day; 1mo or 30d: a month; else in total"
    )

    def limits(self) -> dict[str, Any]:
        """The limits that were sent, as the registry calls them."""
        return {ours: getattr(self, theirs) for theirs, ours in _LIMITS.items() if theirs in self.model_fields_set}

    def budget(self) -> dict[str, Any]:
        """The fields of its budget that were sent."""
        return {name: getattr(self, name) for name in BUDGET_FIELDS if name in self.model_fields_set}


class KeyFields(LimitFields):
    """What a key may do. `models`: none named means all."""

    key_alias: Text | None = None
    duration: str | None = Field(default=None, description="30s, 30m, 30h, 30d, 2w, 1mo (30 days); -1: never ends")
    models: list[Text] | None = None
    user_id: str | None = Field(default=None, max_length=200, description="Whose it is, by any name of yours")

    def changes(self) -> dict[str, Any]:
        """The fields that were sent, as the registry calls them."""
        found = self.limits()
        if self.key_alias is not None:
            found["name"] = self.key_alias
        if "models" in self.model_fields_set:
            found["models"] = _permitted(self.models)
        if "user_id" in self.model_fields_set:
            found["user_id"] = self.user_id or None
        if self.duration:
            found["expires_at_ms"] = end_of(self.duration)
        return found


class GenerateKey(KeyFields):
    """A key to be made. `team_id` is the tenant's id or name; it may be left out where there is only one tenant."""

    tenant_field: ClassVar[str] = "team_id"
    """Where clients of the route say which tenant pays."""
    team_id: Text | None = None
    key_type: str | None = None


class NewUser(GenerateKey):
    """A user: a name on keys. With it comes a key, unless `auto_create_key` is false: limits and budget are that key's.
    `teams`: at most one, the tenant that pays."""

    tenant_field = "teams"
    auto_create_key: bool = True
    teams: list[Any] | None = None
    user_role: str | None = None

    def team(self) -> str | None:
        """The tenant's id or name. Raises ApiError 400 for several."""
        named: list[Any] = [] if self.team_id is None else [self.team_id]
        named += [team.get("team_id") if isinstance(team, dict) else team for team in self.teams or []]
        if len(set(map(repr, named))) > 1:
            raise bad_request("a key has one team, which pays: name one", "teams")
        if named and not (isinstance(named[0], str) and 0 < len(named[0]) <= 500 and "\0" not in named[0]):
            raise bad_request("teams must hold the id or name of a tenant", "teams")
        return str(named[0]) if named else None


class TeamFields(LimitFields):
    """What a tenant may do. `team_alias` is its name."""

    team_alias: Text | None = None
    models: list[Text] | None = None

    def refuse_what_teams_lack(self) -> None:
        """Raises ApiError 400 for the first field that asks for what no tenant has."""
        self.refuse_unknown(OF_PEOPLE)
        if set(self.models or ()) - set(ALL_MODELS):
            raise bad_request("models: keys have a list of models here, tenants have none; leave it out", "models")


class NewTeam(TeamFields):
    """A tenant. Its name is `team_alias`, or `team_id`: by either it is found afterwards, and an id is made for it."""

    team_id: Text | None = None

    def name(self) -> str:
        """The tenant's name. Raises ApiError 400 where two are given."""
        named = {name for name in (self.team_alias, self.team_id) if name is not None}
        if len(named) != 1:
            raise bad_request(
                "send a team_alias, or a team_id, or both alike: it becomes the tenant's name", "team_alias"
            )
        return named.pop()


class UpdateTeam(TeamFields):
    """What is not given stays; null lifts a limit. `team_id` is the tenant's id or name, `team_alias` its new name;
    `blocked` locks it out, or lets it in again."""

    team_id: Text
    blocked: bool | None = None

    def changes(self) -> dict[str, Any]:
        """The fields of the tenant's own that were sent, as the registry calls them."""
        return self.limits() | ({} if self.team_alias is None else {"name": self.team_alias})


class DeleteTeams(LiteLLMBody):
    """Tenants to be locked out and their keys ended; by id or name."""

    team_ids: list[Text] = Field(min_length=1, max_length=1000)


class UpdateKey(KeyFields):
    """What is not given stays; null lifts a limit. `key` is the key itself, or the `token` of its answer."""

    zero_asks = frozenset({"spend"})
    key: Text


class UpdateUser(LimitFields):
    """What is not given stays, and so does `models` when it is empty; null lifts a limit. It is the user's key that is
    changed, and a user with several has them changed by POST /key/update."""

    zero_asks = frozenset({"spend"})
    user_id: Text
    user_role: str | None = None
    models: list[Text] | None = None

    def changes(self) -> dict[str, Any]:
        """The fields of the key that were sent, as the registry calls them."""
        return self.limits() | ({"models": _permitted(self.models)} if self.models else {})

    def asked(self) -> list[str]:
        """The fields that ask for a change, by name."""
        sent = self.model_fields_set & {*_LIMITS, *BUDGET_FIELDS}
        return sorted(sent | {"models"} if self.models else sent)


class DeleteUsers(LiteLLMBody):
    """Users whose keys shall be ended."""

    user_ids: list[Text] = Field(min_length=1, max_length=1000)


class DeleteKeys(LiteLLMBody):
    """Keys to be ended, by themselves or by `token`, or by alias."""

    keys: list[Text] = Field(default=[], max_length=1000)
    key_aliases: list[Text] = Field(default=[], max_length=1000)


class ModelParams(LiteLLMBody):
    """`model` says where the weights are: a directory on every node, or a URL; or it is a provider's, such as
    openai/gpt-4.1-mini, and `api_key` names the variable that holds the provider's key: os.environ/OPENAI_API_KEY."""

    model: Text
    api_key: str | None = None
    api_base: Text | None = None
    cache_read_input_token_cost: float | int | None = None
    input_cost_per_token: float | int | None = None
    output_cost_per_token: float | int | None = None


class NewLiteLLMModel(LiteLLMBody):
    """A model to be registered. Costs are in dollars a token, in `litellm_params` or `model_info`."""

    model_name: Text
    litellm_params: ModelParams
    model_info: dict[str, Any] | None = None

    def cost(self, field: str) -> object:
        """A cost from where it was given; None when it was not."""
        found: object = getattr(self.litellm_params, field)
        return found if found is not None else (self.model_info or {}).get(field)


class DeleteModel(LiteLLMBody):
    """`id` is `model_info.id`."""

    id: Text


BUDGET_FIELDS = ("max_budget", "soft_budget", "budget_duration")
_LIMITS = {"rpm_limit": "rpm", "tpm_limit": "tpm", "max_parallel_requests": "parallel"}


def _permitted(models: list[str] | None) -> list[str]:
    return ["*"] if not models or set(models) & set(ALL_MODELS) else models


def end_of(duration: str) -> int | None:
    """When a key ends that lasts so long from now; None for "-1"."""
    if duration == "-1":
        return None
    found = _DURATION.fullmatch(duration)
    if found is None or int(found[1]) == 0:
        raise bad_request('duration must be a number and s, m, h, d, w or mo, such as "30d"', "duration")
    return now_ms() + int(found[1]) * _SECONDS[found[2]] * 1000


def nusd_per_token(field: str, dollars: object) -> int:
    """Nano-dollars in dollars a token. Raises ApiError 400, and never rounds."""
    if isinstance(dollars, bool) or not isinstance(dollars, int | float):
        raise bad_request(f"{field} is needed, in dollars a token: 2e-08 is $0.02 per million tokens", field)
    return nusd(field, dollars)


def nusd(field: str, dollars: object) -> int:
    """Nano-dollars in dollars. Raises ApiError 400, and never rounds."""
    number = dollars if isinstance(dollars, int | float) and not isinstance(dollars, bool) else float("nan")
    scaled = Decimal(repr(number)).scaleb(9) if abs(number) < 1e6 else Decimal("NaN")
    if not scaled.is_finite() or scaled < 0 or scaled != scaled.to_integral_value():
        raise bad_request(f"{field} must be a multiple of 1e-09 dollars (a nano-dollar), below a million", field)
    return int(scaled)


def needs_tenant(field: str) -> ApiError:
    """400: there are several tenants, or none. `field`: where the route is told which."""
    return bad_request(f"{field} is needed: the id or name of the tenant that pays (GET /admin/v1/tenants)", field)
