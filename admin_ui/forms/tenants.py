"""Tenants: limits and money."""

from wtforms import SelectField, StringField
from wtforms.validators import InputRequired

from admin_ui.forms.base import AtLeast, DollarsField, Form, Required, WholeNumberField

EMPTY_IS_UNLIMITED = "Leave empty for no limit."
ONE = "At least 1, or empty for no limit."


SERVICE_CLASSES = {
    "fast": "Fast: in half of a model's service level",
    "standard": "Standard: in a model's service level",
    "cheap": "Cheap: in four times a model's service level",
}


class TenantForm(Form):
    """A tenant's name and class, and its limits over all keys."""

    name = StringField("Name", [InputRequired("Give the tenant a name.")], render_kw={"maxlength": 120})
    service_class = SelectField(
        "First tokens of sleeping models",
        choices=SERVICE_CLASSES,
        default="standard",
        description="A faster class starts models on more servers at once, and before slower ones.",
    )
    rpm = WholeNumberField("Requests a minute", [AtLeast(1, ONE)], description=EMPTY_IS_UNLIMITED)
    tpm = WholeNumberField("Tokens a minute", [AtLeast(1, ONE)], description=EMPTY_IS_UNLIMITED)
    parallel = WholeNumberField("Requests at once", [AtLeast(1, ONE)], description=EMPTY_IS_UNLIMITED)


class MoneyForm(Form):
    """A top-up, or an adjustment when the amount is negative."""

    amount = DollarsField(
        "Amount", [Required()], placeholder="25.00", description="A negative amount corrects the balance downwards."
    )
    reason = StringField(
        "Reason",
        [InputRequired("Say why: it stays in the ledger for ever.")],
        description="For the ledger, for example an invoice number.",
        render_kw={"maxlength": 500},
    )
