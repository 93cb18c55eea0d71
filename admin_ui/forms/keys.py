"""API keys."""

from typing import Any

from wtforms import BooleanField, SelectField, SelectMultipleField, StringField
from wtforms.validators import InputRequired, ValidationError
from wtforms.widgets import CheckboxInput, ListWidget

from admin_ui.forms.base import AssignmentsField, AtLeast, Form, WholeNumberField
from registry.models import ApiKey

DAY_MS = 86_400_000
LIFETIMES = {"": "Never", "7": "In 7 days", "30": "In 30 days", "90": "In 90 days", "365": "In a year"}
OVERLAPS = {"0": "At once", "3600": "In an hour", "86400": "In a day", "604800": "In a week"}
TENANT_LIMIT = "Leave empty for the tenant's own limit only."
ONE = "At least 1, or empty."
KEEP = "keep"


class CheckboxListField(SelectMultipleField):  # type: ignore[misc]
    """Several of a few choices."""

    widget = ListWidget(html_tag="ul", prefix_label=False)
    option_widget = CheckboxInput()


class KeyFields(Form):
    """What a key may do."""

    name = StringField(
        "Name",
        [InputRequired("Give the key a name.")],
        description="What uses it, for example “website chat”.",
        render_kw={"maxlength": 120},
    )
    all_models = BooleanField("All models, also future ones", default=True)
    models = CheckboxListField("Or only these models", render_kw={"class": "checks"})
    rpm = WholeNumberField("Requests a minute", [AtLeast(1, ONE)], description=TENANT_LIMIT)
    tpm = WholeNumberField("Tokens a minute", [AtLeast(1, ONE)], description=TENANT_LIMIT)
    parallel = WholeNumberField("Requests at once", [AtLeast(1, ONE)], description=TENANT_LIMIT)
    sse_ping = BooleanField(
        "Send SSE comments while a stream waits for a cold start",
        default=True,
        description="Keeps clients and proxies from giving up. Switch off for a client that cannot skip comments.",
    )

    defaults = AssignmentsField(
        "Defaults of parameters",
        description="One a line: temperature = 0.2. A request that does not set them gets these.",
    )
    ceilings = AssignmentsField(
        "Ceilings of parameters",
        description="max_tokens = 512 cuts longer answers short; n, temperature and top_p above it are refused.",
    )

    def validate_models(self, field: Any) -> None:
        """Neither all nor any model would be a key for nothing."""
        if not self.all_models.data and not field.data:
            raise ValidationError("Tick at least one model, or “All models”.")

    def permitted(self) -> list[str]:
        """The models as the registry takes them."""
        return ["*"] if self.all_models.data else list(self.models.data)


class KeyForm(KeyFields):
    """A new key: whose, and until when."""

    tenant_id = SelectField("Tenant")
    expires = SelectField("Expires", choices=LIFETIMES)

    def expires_at_ms(self, now_ms: int) -> int | None:
        """When the key ends; None for never."""
        return _end(self.expires.data, now_ms)


class EditKeyForm(KeyFields):
    """What a key may do from now on."""

    expires = SelectField("Expires", choices={KEEP: "As it does now", **LIFETIMES}, default=KEEP)

    @classmethod
    def of(cls, key: ApiKey) -> "EditKeyForm":
        """The form as the key is."""
        form = cls(formdata=None, obj=key)
        form.all_models.data = key.models == ["*"]
        return form

    def changes(self, now_ms: int) -> dict[str, Any]:
        """What the registry shall change."""
        fields = ("name", "rpm", "tpm", "parallel", "sse_ping", "defaults", "ceilings")
        end = {} if self.expires.data == KEEP else {"expires_at_ms": _end(self.expires.data, now_ms)}
        return {"models": self.permitted(), **end, **{field: self[field].data for field in fields}}


class RotateForm(Form):
    """How long the old key goes on working beside the new one."""

    overlap_s = SelectField("The old key ends", choices=OVERLAPS)


def _end(days: str, now_ms: int) -> int | None:
    return now_ms + int(days) * DAY_MS if days else None
