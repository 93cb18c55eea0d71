"""Models of hosted providers, and what becomes of requests while a model is cold."""

from collections.abc import Iterable
from typing import Any

from wtforms import BooleanField, SelectField, StringField
from wtforms.validators import InputRequired

from admin_ui.forms.base import AddressField, Form, Required, VariableField, WholeNumberField
from admin_ui.forms.models import TokenPriceForm
from registry.models import Model

WHEN_COLD = {"wait": "Wait for it", "fallback": "Be answered by a provider's model", "reject": "Be sent away"}


class HostedFields(Form):
    """A model that a provider serves."""

    name = StringField(
        "Name",
        [InputRequired("Give the model a name: what clients send as “model”.")],
        render_kw={"autocomplete": "off", "maxlength": 120},
    )
    provider_model = StringField(
        "Provider's model",
        [InputRequired("Name the provider and its model.")],
        description="Provider, slash, its name of the model, for example openai/gpt-4.1-mini.",
        render_kw={"autocomplete": "off", "maxlength": 200},
    )
    key_env = VariableField(
        "Key variable",
        [InputRequired("Name the variable that holds the key.")],
        description="The variable of the hosted process that holds the key: OPENAI_API_KEY. Not the key itself.",
        render_kw={"autocomplete": "off", "maxlength": 120},
    )
    api_base = AddressField(
        "Address", description="Empty: the provider's own. Otherwise https://…", render_kw={"maxlength": 300}
    )
    context_length = WholeNumberField(
        "Context length", [Required()], default=128_000, unit="tokens", description="Bounds what a prompt may cost."
    )
    default_max_tokens = WholeNumberField("Default max_tokens", [Required()], default=4096)

    def provider(self) -> dict[str, Any]:
        """Who serves it, as the registry takes it."""
        return {
            "provider_model": self.provider_model.data.strip(),
            "key_env": self.key_env.data.strip(),
            "api_base": (self.api_base.data or "").strip() or None,
        }


class HostedForm(TokenPriceForm, HostedFields):
    """A new one, with its price."""

    embedding = BooleanField("Embedding model (no text generation)")


class EditHostedForm(HostedFields):
    """What it is from now on. Its price has a page of its own."""

    @classmethod
    def of(cls, model: Model) -> "EditHostedForm":
        """The form as the model is."""
        provider = model.provider or {}
        return cls(formdata=None, obj=model, data={**provider, "provider_model": provider.get("model")})


class PolicyForm(Form):
    """What becomes of requests while a model is cold. Empty choices are the registry's None."""

    tenant_id = SelectField("Tenant")
    mode = SelectField("Its requests", choices=WHEN_COLD)
    fallback_model_id = SelectField("Answered by", description="Of a provider, at its own price.")
    after_s = WholeNumberField(
        "After", unit="s", description="How long a request waits before a provider's model is asked. Empty: not at all."
    )

    def offer(
        self, everyone: str, tenants: Iterable[tuple[str, str]], fallbacks: Iterable[tuple[str, str]]
    ) -> "PolicyForm":
        """The form with these (id, name) to choose from. `everyone`: what to call tenants without one of their own."""
        self.tenant_id.choices = [("", everyone), *tenants]
        self.fallback_model_id.choices = [("", "Nobody"), *fallbacks]
        return self
