"""The engine settings that a model may have. Anything else is refused: no unchecked text reaches a command line.

Parser names are those of SGLang 0.5.23 that fit the supported model families.
"""

from collections.abc import Mapping
from typing import Any

from registry.errors import InvalidError

CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("auto", "float16", "bfloat16", "float32"),
    "grammar_backend": ("none", "xgrammar"),
    "tool_parser": ("hermes", "llama3", "mistral", "pythonic", "qwen", "qwen25", "qwen3_coder"),
    "reasoning_parser": ("deepseek-r1", "mistral", "qwen3", "qwen3-thinking"),
}
OPTIONAL = frozenset({"tool_parser", "reasoning_parser"})  # may be None: no parser
DEFAULTS: Mapping[str, Any] = {
    "dtype": "auto",
    "grammar_backend": "xgrammar",
    "tool_parser": None,
    "reasoning_parser": None,
    "embedding": False,
}
NAMES = ("context_length", *DEFAULTS)


def validate_settings(settings: Mapping[str, Any], *, max_context_length: int) -> dict[str, Any]:
    """A complete set of engine settings: `settings` checked, the rest from DEFAULTS.

    `max_context_length` (tokens) is the model's own, and the default of `context_length`.
    """
    unknown = sorted(set(settings) - set(NAMES))
    if unknown:
        raise InvalidError(f"{unknown[0]} is not an engine setting; allowed: {', '.join(NAMES)}", unknown[0])
    complete = {"context_length": max_context_length, **DEFAULTS, **settings}
    length = complete["context_length"]
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= max_context_length:
        raise InvalidError(f"context_length must be a whole number from 1 to {max_context_length}", "context_length")
    if not isinstance(complete["embedding"], bool):
        raise InvalidError("embedding must be true or false", "embedding")
    for field, choices in CHOICES.items():
        value = complete[field]
        if value is None and field in OPTIONAL:
            continue
        if value not in choices:
            allowed = ", ".join(choices) + (" (or none at all)" if field in OPTIONAL else "")
            raise InvalidError(f"{field} must be one of: {allowed}", field)
    return complete
