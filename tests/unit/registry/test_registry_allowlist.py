"""Engine settings: only what is on the list, only as it should be."""

from typing import Any

import pytest

from registry.errors import InvalidError
from registry.settings_allowlist import CHOICES, DEFAULTS, OPTIONAL, validate_settings


def test_nothing_given_means_the_defaults_and_the_models_own_context() -> None:
    assert validate_settings({}, max_context_length=4096) == {**DEFAULTS, "context_length": 4096}


@pytest.mark.parametrize("field", sorted(CHOICES))
def test_every_choice_is_accepted(field: str) -> None:
    for choice in CHOICES[field]:
        assert validate_settings({field: choice}, max_context_length=1)[field] == choice
    if field in OPTIONAL:
        assert validate_settings({field: None}, max_context_length=1)[field] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "float64"),
        ("dtype", None),
        ("dtype", ["float16"]),
        ("grammar_backend", "none; rm -rf /"),
        ("tool_parser", "--trust-remote-code"),
        ("reasoning_parser", 7),
        ("embedding", "yes"),
        ("embedding", 1),
        ("context_length", 0),
        ("context_length", 4097),
        ("context_length", True),
        ("context_length", "4096"),
        ("trust_remote_code", True),
        ("model_path", "/etc"),
    ],
)
def test_anything_else_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidError) as caught:
        validate_settings({field: value}, max_context_length=4096)
    assert caught.value.field == field
    assert field in caught.value.message
