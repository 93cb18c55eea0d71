"""A node worker's tasks: one answer for each effect and probe, none when noded is away."""

import threading

import pytest

from engine.client import BadEffect, NodedUnavailable, StaleVersion


class Noded:
    """Answers what a test says."""

    def __init__(self) -> None:
        self.raises: Exception | None = None
        self.answer = {"v": 1, "ok": True, "ms": 3}
        self.hold: threading.Event | None = None
        self.asked = threading.Semaphore(0)
        self.probes = 0

    def apply(self, effect) -> None:
        if self.raises is not None:
            raise self.raises

    def probe(self, group_id):
        self.probes += 1
        self.asked.release()
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.raises is not None:
            raise self.raises
        return self.answer


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


def test_nothing_is_answered_while_noded_is_away(node):
    node.fake.raises = NodedUnavailable("gone")
    node.apply(7, {"kind": "launch"})
    node.probe(8, "grp_1")
    assert node.sent == []


@pytest.mark.parametrize(
    ("raises", "answer", "told"),
    [
        (None, {"ok": True, "ms": 3}, (True, None)),
        (None, {"ok": False, "error": "HTTP 500"}, (False, "HTTP 500")),
        (BadEffect("no such group"), {}, (False, "no such group")),
    ],
)
def test_a_probe_is_answered_once(node, raises, answer, told):
    node.fake.raises, node.fake.answer = raises, answer
    node.probe(8, "grp_1")
    assert node.sent == [("control.probed", 8, "grp_1", *told)]


def test_a_slow_probe_that_is_asked_again_is_not_run_twice(node):
    node.fake.hold = threading.Event()
    first = threading.Thread(target=node.probe, args=(8, "grp_1"))
    first.start()
    assert node.fake.asked.acquire(timeout=10)
    node.probe(9, "grp_1")
    assert node.sent == []
    node.fake.hold.set()
    first.join(10)
    assert [sent[:3] for sent in node.sent] == [("control.probed", 8, "grp_1")]
    assert node.fake.probes == 1
    node.probe(10, "grp_1")
    assert node.fake.probes == 2
