"""The options that say how a model is served, shared by `register` and `update`."""

from typing import Any

import click

from cli.params import GIGABYTES, LIMIT, NONE, or_none
from registry.ops.model_fields import KEEP_ALIVE_MODES
from registry.settings_allowlist import CHOICES, OPTIONAL

_LIFTABLE = frozenset(("slo_tpot_ms", "rpm", "tpm", "parallel"))
_SETTINGS = ("context_length", *CHOICES, "embedding")


def _choice(setting: str) -> click.Choice[str]:
    return click.Choice([*CHOICES[setting], *([NONE] if setting in OPTIONAL else [])])


_SERVING = (
    click.option("--lane", type=click.Choice(["direct", "litellm"]), help="How requests reach the engine."),
    click.option("--slo-ttft-ms", type=int, help="The first token must come within this, cold start included."),
    click.option("--slo-tpot-ms", type=LIMIT, help="Milliseconds for each further token, or none."),
    click.option("--keep-alive-s", type=int, help="Seconds of idleness after which a worker is stopped."),
    click.option(
        "--keep-alive-mode",
        type=click.Choice(KEEP_ALIVE_MODES),
        help="fixed: just so long; learned: longer or shorter, as the model's own pauses make it worth.",
    ),
    click.option("--min-replicas", type=int, help="Workers kept up without any demand; 0 scales to zero."),
    click.option(
        "--charge-cold-starts/--no-charge-cold-starts",
        default=None,
        help="Whether tenants that wait for a start pay for its GPU-seconds; of starts from now on.",
    ),
    click.option("--capacity", type=int, help="Requests that one worker runs at once."),
    click.option("--rpm", type=LIMIT, help="Requests a minute over all tenants, or none."),
    click.option("--tpm", type=LIMIT, help="Tokens a minute over all tenants, or none."),
    click.option("--parallel", type=LIMIT, help="Requests at once over all tenants, or none."),
    click.option("--default-max-tokens", type=int, help="For requests that name no max_tokens; bounds a reservation."),
    click.option("--kv-reserve", "kv_reserve_bytes", type=GIGABYTES, help="GB kept for the KV cache of a worker."),
    click.option("--context-length", type=int, help="Tokens of prompt and answer; at most the model's own."),
    click.option("--dtype", type=_choice("dtype"), help="Arithmetic of the engine."),
    click.option("--grammar-backend", type=_choice("grammar_backend"), help="For structured output."),
    click.option("--tool-parser", type=_choice("tool_parser"), help="How tool calls are recognized, or none."),
    click.option("--reasoning-parser", type=_choice("reasoning_parser"), help="How reasoning is set apart, or none."),
    click.option("--embedding/--no-embedding", default=None, help="Serve embeddings instead of text."),
)


def serving_options(function: Any) -> Any:
    """Adds the options that say how a model is served."""
    for option in reversed(_SERVING):
        function = option(function)
    return function


def split_serving(serving: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that were given, as engine settings and as fields of the model."""
    given = {field: value for field, value in serving.items() if value is not None}
    for field in _LIFTABLE & given.keys():
        given[field] = or_none(given[field])
    for setting in OPTIONAL & given.keys():
        given[setting] = None if given[setting] == NONE else given[setting]
    settings = {name: given.pop(name) for name in _SETTINGS if name in given}
    return settings, given
