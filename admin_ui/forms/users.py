"""People who manage Hydrant."""

from wtforms import EmailField, SelectField
from wtforms.validators import InputRequired

from admin_ui.forms.base import Form

ROLE_CHOICES = {
    "viewer": "Viewer: sees everything, changes nothing",
    "operator": "Operator: models, nodes, tenants, keys",
    "owner": "Owner: also money and users",
}


class UserForm(Form):
    """A new account."""

    email = EmailField("E-mail", [InputRequired("Enter an e-mail address.")], render_kw={"autocomplete": "off"})
    role = SelectField("Role", choices=ROLE_CHOICES)


class RoleForm(Form):
    """Another role."""

    role = SelectField("Role", choices=ROLE_CHOICES)
