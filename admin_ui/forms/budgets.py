"""Budgets by period."""

from wtforms import BooleanField, SelectField, StringField
from wtforms.validators import Regexp

from admin_ui.forms.base import DollarsField, Form, Required

PERIODS = {"day": "A day (UTC)", "month": "A month (UTC)", "total": "In total"}


class BudgetForm(Form):
    """What a tenant or key may spend in a period."""

    period = SelectField("Period", choices=PERIODS, default="month")
    # Of a name of its own: on a tenant's page the form that tops up has an amount too, and ids must be unique.
    budget_amount = DollarsField("Budget", [Required()], placeholder="100.00")
    alert_percent = StringField(
        "Alert at",
        [Regexp(r"\s*(\d{1,3}(\s*,\s*\d{1,3})*)?\s*$", message="Enter percents, such as 80 or 50, 80.")],
        default="80",
        description="Percents of the amount, such as 50, 80. Shown here and logged.",
    )
    hard = BooleanField("Refuse requests that do not fit in", default=True)

    def percents(self) -> list[int]:
        """The thresholds as the registry takes them."""
        return [int(part) for part in (self.alert_percent.data or "").split(",") if part.strip()]
