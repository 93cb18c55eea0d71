"""Models: what they are called, how they are served, what they cost."""

from typing import Any

from wtforms import BooleanField, SelectField, StringField
from wtforms.validators import InputRequired

from admin_ui.forms.base import (
    AddressField,
    AssignmentsField,
    AtLeast,
    Checked,
    DollarsField,
    Form,
    GigabytesField,
    MillisecondsField,
    PerMillionField,
    Required,
    SecondsField,
    WholeNumberField,
)
from admin_ui.forms.tenants import EMPTY_IS_UNLIMITED, ONE
from registry.models import Model
from registry.ops import checks
from registry.settings_allowlist import CHOICES
from registry.sources import check_source

LANES = {"direct": "Direct", "litellm": "LiteLLM"}
KEEP_ALIVE_MODES = {"learned": "Learned from its pauses", "fixed": "Fixed"}
WARM_MINUTES = {"15": "15 minutes", "60": "1 hour", "240": "4 hours", "480": "8 hours", "1440": "24 hours"}


def _choices(setting: str, empty: str | None = None) -> dict[str, str]:
    return ({"": empty} if empty else {}) | {value: value for value in CHOICES[setting]}


class TokenPriceForm(Form):
    """Prices in dollars per million tokens and per request: what a provider's model can have."""

    input_nusd = PerMillionField("Input", [Required()], placeholder="0.02")
    cached_input_nusd = PerMillionField("Cached input", description="Empty: the same as other input.")
    output_nusd = PerMillionField("Output", [Required()], placeholder="0.08")
    request_nusd = DollarsField("Per request", [AtLeast(0, "At least 0.")], description="Empty: nothing.")


class PriceForm(TokenPriceForm):
    """The same and the price of a GPU-second."""

    gpu_second_nusd = DollarsField(
        "Per GPU-second", [AtLeast(0, "At least 0.")], description="For the time that its starts take. Empty: nothing."
    )


class ServingForm(Form):
    """How a model is served; everything here can be changed later."""

    lane = SelectField("Lane", choices=LANES, description="Direct passes bytes through; LiteLLM translates.")
    slo_ttft_ms = SecondsField(
        "First token within", [Required()], default=10_000, description="What a cold start is planned for."
    )
    slo_tpot_ms = MillisecondsField("Time per output token", description="Empty: not limited.")
    keep_alive_s = WholeNumberField(
        "Keep alive", [Required()], default=300, unit="s", description="Stops after so long without a request."
    )
    keep_alive_mode = SelectField(
        "Keep-alive is",
        choices=KEEP_ALIVE_MODES,
        description="Learned: longer or shorter, as its own pauses make it worth; at most ten times as set.",
    )
    min_replicas = WholeNumberField("Minimum replicas", [Required()], default=0, description="0: scales to zero.")
    rpm = WholeNumberField("Requests a minute, all tenants", [AtLeast(1, ONE)], description=EMPTY_IS_UNLIMITED)
    tpm = WholeNumberField("Tokens a minute, all tenants", [AtLeast(1, ONE)], description=EMPTY_IS_UNLIMITED)
    parallel = WholeNumberField("Requests at once, all tenants", [AtLeast(1, ONE)], description=EMPTY_IS_UNLIMITED)
    capacity = WholeNumberField("Requests at once, one worker", [Required()], default=8)
    charge_cold_starts = BooleanField("Tenants that wait for a start pay for its GPU-seconds")
    default_max_tokens = WholeNumberField(
        "Default max_tokens", [Required()], default=1024, description="For requests that state none."
    )
    kv_reserve_bytes = GigabytesField("Memory for the KV cache", description="Empty: one context of full length.")
    context_length = WholeNumberField("Context length", unit="tokens", description="Empty: the model's own.")
    dtype = SelectField("Data type", choices=_choices("dtype"))
    grammar_backend = SelectField("Grammar backend", choices=_choices("grammar_backend"), default="xgrammar")
    tool_parser = SelectField("Tool-call parser", choices=_choices("tool_parser", "None"))
    reasoning_parser = SelectField("Reasoning parser", choices=_choices("reasoning_parser", "None"))
    embedding = BooleanField("Embedding model (one stage, no text generation)")

    def serving(self) -> dict[str, Any]:
        """The fields as the registry takes them, without the engine settings; what is empty keeps its default."""
        names = (
            "lane",
            "slo_ttft_ms",
            "slo_tpot_ms",
            "keep_alive_s",
            "keep_alive_mode",
            "min_replicas",
            "charge_cold_starts",
            "rpm",
            "tpm",
            "parallel",
            "capacity",
            "default_max_tokens",
        )
        values = {name: self[name].data for name in names}
        if self.kv_reserve_bytes.data is not None:
            values["kv_reserve_bytes"] = self.kv_reserve_bytes.data
        return values

    def settings(self) -> dict[str, Any]:
        """The engine settings as the registry takes them."""
        values: dict[str, Any] = {name: self[name].data or None for name in CHOICES}
        values["embedding"] = self.embedding.data
        if self.context_length.data is not None:
            values["context_length"] = self.context_length.data
        return values


class RegisterForm(ServingForm, PriceForm):
    """A new model: its source besides."""

    name = StringField(
        "Name",
        [InputRequired("Give the model a name: what clients send as “model”."), Checked(checks.model_name)],
        description="What clients send as “model”, for example smollm2-135m-instruct.",
        render_kw={"autocomplete": "off", "maxlength": 120},
    )
    source = AddressField(
        "Source",
        [InputRequired("Say where the weights are."), Checked(lambda _field, typed: check_source(typed.strip()))],
        description="A directory with safetensors on every node (/models/x), or a URL: https://…, s3://, gs:// or az://.",
        render_kw={"autocomplete": "off"},
    )


class EditForm(ServingForm):
    """A model that exists."""

    name = StringField("Name", [InputRequired("Give the model a name.")], render_kw={"maxlength": 120})
    kv_reserve_bytes = GigabytesField("Memory for the KV cache", [Required()], description="Of a whole worker.")
    context_length = WholeNumberField("Context length", [Required()], unit="tokens")

    @classmethod
    def of(cls, model: Model) -> "EditForm":
        """The form as `model` stands."""
        return cls(formdata=None, obj=model, data={**model.settings, "context_length": model.context_length})


class AliasForm(Form):
    """Another name for a model."""

    alias = StringField("Alias", [InputRequired("Enter a name.")], render_kw={"maxlength": 120, "autocomplete": "off"})


class SplitForm(Form):
    """Who shares the requests for an alias."""

    weights = AssignmentsField(
        "Models and their weights",
        description="One a line: qwen3-8b = 95. A model gets its weight out of the sum of them all.",
    )


class WarmForm(Form):
    """For how long a model is kept up."""

    minutes = SelectField("For", choices=WARM_MINUTES, default="60")
