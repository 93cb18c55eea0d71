"""A key's or a team's budget as LiteLLM tells it: max_budget, soft_budget (dollars) and budget_duration.

There, each has one budget, whose spend begins anew at midnight (1d, 24h) or on the first of the month (1mo, 30d), in
UTC; those are the windows of Hydrant's own. Durations that begin anew at other times have no counterpart here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.answers import ApiError, bad_request
from admin_ui.api.authentication import current_token
from admin_ui.api.litellm import iso, usd
from admin_ui.api.litellm_fields import nusd
from admin_ui.permissions import Permission, allows
from registry.errors import ConflictError
from registry.models import Budget
from registry.ops import budgets
from registry.ops.budgets import Spending
from registry.ops.money import NUSD_PER_USD

PERIODS = {"1d": "day", "24h": "day", "daily": "day", "1mo": "month", "30d": "month", "monthly": "month"}
DURATIONS = {"day": "1d", "month": "1mo", "total": None}


@dataclass(frozen=True)
class Wanted:
    """The one budget that a key or tenant shall have."""

    period: str
    amount_nusd: int
    alert_percent: Sequence[int]
    hard: bool


def wanted(sent: Mapping[str, object], current: Budget | None) -> Wanted | None:
    """What the fields that were sent make of the present budget; None: no budget. Raises ApiError 400."""
    period = _period(sent["budget_duration"]) if "budget_duration" in sent else current.period if current else "total"
    most = current.amount_nusd if current and current.hard else None
    soft = current.amount_nusd if current and not current.hard else None
    if "max_budget" in sent:
        most = _amount("max_budget", sent["max_budget"])
    if "soft_budget" in sent:
        soft = _amount("soft_budget", sent["soft_budget"])
    if most is None and soft is None:
        if sent.get("budget_duration"):
            raise bad_request("budget_duration needs a max_budget, or a soft_budget, beside it", "budget_duration")
        return None
    if most is None:
        return Wanted(period, soft or 0, (100,), hard=False)
    if soft is None:
        return Wanted(period, most, current.alert_percent if current and current.hard else (80,), hard=True)
    percent, rest = divmod(soft * 100, most)
    if rest or not 1 <= percent <= 100:
        raise bad_request(
            "soft_budget must be a whole percentage of max_budget: 80 of 100, not 33 of 50.5", "soft_budget"
        )
    return Wanted(period, most, (percent,), hard=True)


class BudgetInfo(TypedDict):
    """A budget in dollars, and when it begins anew."""

    max_budget: float | None
    soft_budget: float | None
    budget_duration: str | None
    budget_reset_at: str | None


def refuse_unless_owner(sent: Mapping[str, object]) -> None:
    """Raises ApiError 403 for fields of a budget that come with the token of someone who may not change money."""
    if sent and not allows(current_token().role, Permission.CHANGE_MONEY):
        raise ApiError(
            403,
            "A budget that a key or a team has is changed with the token of an owner.",
            "not_permitted",
            type_="permission_error",
            param=next(iter(sent)),
        )


def set_by(session: Session, actor: str, tenant_id: str, scope_id: str, sent: Mapping[str, object]) -> None:
    """Give a key, or the tenant itself, the budget that the fields ask for. Raises ApiError 400, and ConflictError
    where there are several: LiteLLM has no words for them."""
    rows = budgets_of(session, tenant_id, scope_id)
    if len(rows) > 1:
        raise ConflictError(
            "it has several budgets; change them by PUT and DELETE /admin/v1/budgets/{owner}/{period}", next(iter(sent))
        )
    current = rows[0] if rows else None
    new = wanted(sent, current)
    if current is not None and (new is None or new.period != current.period):
        budgets.remove_budget(session, actor, scope_id, current.period)
    if new is not None:
        budgets.set_budget(
            session,
            actor,
            scope_id,
            new.period,
            amount_nusd=new.amount_nusd,
            alert_percent=new.alert_percent,
            hard=new.hard,
        )


def budgets_of(session: Session, tenant_id: str, scope_id: str) -> list[Budget]:
    """The budgets of a key, or those of the tenant itself."""
    return [row for row in budgets.list_budgets(session, [tenant_id]) if row.scope_id == scope_id]


def info(spending: Spending | None) -> BudgetInfo:
    """A budget in LiteLLM's words."""
    if spending is None:
        return {"max_budget": None, "soft_budget": None, "budget_duration": None, "budget_reset_at": None}
    budget = spending.budget
    percent = min(budget.alert_percent, default=None) if budget.hard else 100
    return {
        "max_budget": usd(budget.amount_nusd) if budget.hard else None,
        "soft_budget": None if percent is None else budget.amount_nusd * percent / (100 * NUSD_PER_USD),
        "budget_duration": DURATIONS[budget.period],
        "budget_reset_at": None if spending.ends_at_ms is None else iso(spending.ends_at_ms),
    }


def told(spendings: Sequence[Spending]) -> Spending | None:
    """The one that LiteLLM's fields tell: of the hard ones that which has least left, else the first."""
    hard = [one for one in spendings if one.budget.hard]
    if hard:
        return min(hard, key=lambda one: one.budget.amount_nusd - one.spent_nusd)
    return spendings[0] if spendings else None


def _period(duration: object) -> str:
    if not duration:
        return "total"
    if duration not in PERIODS:
        raise bad_request(
            "budget_duration must be 1d or 24h (days), or 1mo or 30d (months of the calendar, as in LiteLLM), in UTC; "
            "without one the budget is of all that the key ever spends",
            "budget_duration",
        )
    return PERIODS[str(duration)]


def _amount(field: str, dollars: object) -> int | None:
    if dollars is None or dollars == "":
        return None
    amount = nusd(field, dollars)
    if amount == 0:
        raise bad_request(f"{field} must be above 0; POST /key/delete ends a key, blocked locks a team out", field)
    return amount
