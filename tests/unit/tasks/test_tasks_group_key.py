"""A group's key is made by the controller and checked by noded: what one makes, the other must take."""

from __future__ import annotations

from typing import Any

import pytest
from support.manifest import launch_effect

from engine.noded.effects import Launch, parse
from tasks import apply


@pytest.mark.parametrize("drawn", ["-" + "x" * 42, "-" * 43, "_" * 43])
def test_every_key_that_may_be_drawn_is_taken(monkeypatch: pytest.MonkeyPatch, drawn: str) -> None:
    # One key in 64 that token_urlsafe draws starts like an option of a command line.
    monkeypatch.setattr(apply.secrets, "token_urlsafe", lambda _bytes: drawn)
    effect: dict[str, Any] = {**launch_effect("grp", "stg", 0, [2], 31000), "api_key": apply.group_key()}
    launch = parse(effect)
    assert isinstance(launch, Launch)
    assert launch.api_key.endswith(drawn)
