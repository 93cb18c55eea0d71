"""Parameters of requests that a key may set a default or a ceiling for. Pure; gateway/body/ applies them."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.errors import InvalidError

MAX_TOKENS = "max_tokens"


@dataclass(frozen=True)
class Parameter:
    """What values a parameter takes: numbers from `low` to `high`, whole ones only where `whole`; or `choices`."""

    low: int = 0
    high: int = 0
    whole: bool = False
    choices: tuple[str, ...] = ()

    def allows(self, value: object) -> bool:
        """Whether `value` is one."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (isinstance(value, int) or not self.whole) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return f"a {'whole ' if self.whole else ''}number from {self.low} to {self.high}"


PARAMETERS: Mapping[str, Parameter] = {
    MAX_TOKENS: Parameter(1, 10_000_000, whole=True),
    "n": Parameter(1, 128, whole=True),
    "temperature": Parameter(0, 2),
    "top_p": Parameter(0, 1),
    "presence_penalty": Parameter(-2, 2),
    "frequency_penalty": Parameter(-2, 2),
    "seed": Parameter(0, 2**53, whole=True),
    "reasoning_effort": Parameter(choices=("none", "minimal", "low", "medium", "high")),
}
"""By OpenAI's names; `max_tokens` stands for whatever an endpoint calls the bound of one answer."""

WITH_CEILING = frozenset({MAX_TOKENS, "n", "temperature", "top_p"})
"""Those of which more costs or risks more."""


def checked_defaults(values: Mapping[str, object]) -> dict[str, Any]:
    """`values`, if each is one that its parameter takes. Raises InvalidError."""
    return _checked("defaults", values, PARAMETERS)


def checked_ceilings(values: Mapping[str, object]) -> dict[str, Any]:
    """`values`, if each is one that its parameter takes and the parameter can have a ceiling. Raises InvalidError."""
    return _checked("ceilings", values, {name: PARAMETERS[name] for name in PARAMETERS if name in WITH_CEILING})


def check_together(defaults: Mapping[str, Any], ceilings: Mapping[str, Any]) -> None:
    """Raises InvalidError for a default that its own ceiling forbids. Both are checked before."""
    for name in sorted(defaults.keys() & ceilings.keys()):
        default, ceiling = defaults[name], ceilings[name]
        if default > ceiling:
            raise InvalidError(
                f"defaults: {name}={default} is above the ceiling {name}={ceiling}; lower the default or raise the"
                " ceiling",
                "defaults",
            )


def parse_assignments(lines: Iterable[str], field: str) -> dict[str, Any]:
    """`name=value` lines (blank ones are skipped) as a person types them. Raises InvalidError for another form."""
    found: dict[str, Any] = {}
    for line in filter(None, map(str.strip, lines)):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name or not value:
            raise InvalidError(f"{field}: write name=value, for example temperature=0.2, not {line!r}", field)
        if name in found:
            raise InvalidError(f"{field}: {name} is set twice", field)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value  # a word, such as an effort
    return found


def _checked(field: str, values: Mapping[str, object], known: Mapping[str, Parameter]) -> dict[str, Any]:
    for name, value in values.items():
        if name not in known:
            raise InvalidError(f"{field}: there is none for {name!r}; choose from {', '.join(known)}", field)
        if not known[name].allows(value):
            raise InvalidError(f"{field}: {name} must be {known[name]}", field)
    return dict(values)
