"""A node worker's task: one answer for each effect, none when noded stays away."""

import pytest

from engine.client import BadEffect, NodedUnavailable, StaleVersion


class Noded:
    """Answers what a test says."""

    def __init__(self) -> None:
        self.raises: Exception | None = None
        self.away = 0

    def apply(self, effect) -> None:
        if self.away:
            self.away -= 1
            raise NodedUnavailable("restarts")
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The module, with a noded and a broker that are the test's."""
    monkeypatch.setenv("HYDRANT_HOME", str(tmp_path))
    monkeypatch.delenv("HYDRANT_NODE", raising=False)
    from tasks import node as module

    module.sent = []
    module.fake = Noded()
    monkeypatch.setattr(module, "noded", lambda: module.fake)
    monkeypatch.setattr(module.app, "send_task", lambda name, args, queue: module.sent.append((name, *args)))
    yield module
    del module.sent, module.fake


@pytest.mark.parametrize(
    ("raises", "error", "refused"),
    [(None, None, False), (StaleVersion("older"), "older", False), (BadEffect("rank: 9"), "rank: 9", True)],
)
def test_an_effect_is_answered_once(node, raises, error, refused):
    node.fake.raises = raises
    node.apply(7, {"kind": "launch"})
    assert node.sent == [("control.applied", 7, error, refused)]


def test_a_noded_that_is_back_soon_is_given_the_effect(node, monkeypatch):
    monkeypatch.setattr(node, "AGAIN_S", 0)
    node.fake.away = 3
    node.apply(7, {"kind": "launch"})
    assert node.sent == [("control.applied", 7, None, False)]


def test_nothing_is_answered_while_noded_is_away(node, monkeypatch):
    monkeypatch.setattr(node, "AWAY_S", 0)
    node.fake.raises = NodedUnavailable("gone")
    node.apply(7, {"kind": "launch"})
    assert node.sent == []
