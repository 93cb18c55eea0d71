"""Filters of the usage and ledger pages; sent by GET, so they hold no token and can be bookmarked."""

from typing import Any, Self

from werkzeug.datastructures import MultiDict
from wtforms import DateField, SelectField
from wtforms.validators import Optional

from admin_ui.forms.base import Form

PERIODS = {
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
    "dates": "Between two days",
}
LARGEST_NUMBER = 2**53
KINDS = {
    "": "All kinds",
    "settle": "Settlements",
    "top_up": "Top-ups",
    "adjust": "Adjustments",
    "reserve": "Reservations",
    "release": "Releases",
}


class FilterForm(Form):
    """A form that changes nothing."""

    class Meta:
        csrf = False

    @classmethod
    def from_query(cls, query: MultiDict[str, str], **choices: dict[str, str]) -> Self:
        """The form as the address says; a field that the address leaves out, or fills badly, has its default."""
        form = cls(formdata=query or None)
        for name, options in choices.items():
            form[name].choices = options
        form.validate()
        for field in form:
            known = list(getattr(field, "choices", None) or [])
            if known and field.data not in known:
                field.data = field.default or known[0]
                field.errors = []
        return form


def whole_number(query: MultiDict[str, str], name: str) -> int | None:
    """The number that the address gives, brought to what a database can compare; None when it gives none."""
    number = query.get(name, type=int)
    return None if number is None else min(max(number, 0), LARGEST_NUMBER)


class UsageFilterForm(FilterForm):
    """Which attempts to show."""

    period = SelectField("Period", choices=PERIODS, default="7d")
    first = DateField("From", [Optional()])
    last = DateField("To and including", [Optional()])
    tenant = SelectField("Tenant", choices={})
    model = SelectField("Model", choices={})


class LedgerFilterForm(FilterForm):
    """Which entries to show."""

    tenant = SelectField("Tenant", choices={})
    kind = SelectField("Kind", choices=KINDS)


def chosen(form: FilterForm) -> dict[str, str]:
    """The filter as it stands, for links to the next page and the CSV file."""
    values: dict[str, Any] = {field.name: field.data for field in form}
    return {name: str(value) for name, value in values.items() if value}
