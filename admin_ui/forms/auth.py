"""Signing in, and choosing a password."""

from wtforms import EmailField, PasswordField
from wtforms.validators import EqualTo, InputRequired

from admin_ui.forms.base import Form


class LoginForm(Form):
    """E-mail and password."""

    email = EmailField("E-mail", [InputRequired("Enter your e-mail.")], render_kw={"autocomplete": "username"})
    password = PasswordField(
        "Password", [InputRequired("Enter your password.")], render_kw={"autocomplete": "current-password"}
    )


class PasswordForm(Form):
    """A new password, typed twice, and the present one."""

    current = PasswordField(
        "Present password",
        [InputRequired("Enter the password that you signed in with.")],
        render_kw={"autocomplete": "current-password"},
    )
    password = PasswordField(
        "New password", [InputRequired("Enter a new password.")], render_kw={"autocomplete": "new-password"}
    )
    again = PasswordField(
        "New password again",
        [InputRequired("Enter it again."), EqualTo("password", "The two new passwords differ.")],
        render_kw={"autocomplete": "new-password"},
    )
