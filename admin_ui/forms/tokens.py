"""Management tokens."""

from wtforms import SelectField, StringField
from wtforms.validators import InputRequired

from admin_ui.forms.base import Form
from admin_ui.forms.keys import DAY_MS, LIFETIMES
from admin_ui.forms.users import ROLE_CHOICES


class TokenForm(Form):
    """A new token."""

    name = StringField(
        "Name",
        [InputRequired("Give the token a name.")],
        description="What uses it, for example “deploy script”. The audit log names it.",
        render_kw={"maxlength": 120},
    )
    role = SelectField("Role", choices=ROLE_CHOICES)
    expires = SelectField("Expires", choices=LIFETIMES, default="90")

    def expires_at_ms(self, now_ms: int) -> int | None:
        """When it ends; None for never."""
        return now_ms + int(self.expires.data) * DAY_MS if self.expires.data else None
