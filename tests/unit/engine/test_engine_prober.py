"""When noded asks an engine for its one token, and what it makes of silence."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from engine.noded import worker
from engine.noded.background import Background
from engine.noded.prober import Prober


class AStage:
    """As much of a stage as is probed."""

    def __init__(self, *, rank: int = 0, state: str = "ready") -> None:
        self.stage_id = "stg"
        self.state = state
        self.launch = SimpleNamespace(rank=rank, port=1)
        self.record = SimpleNamespace(probe=None)

    def keep_probe(self, answer: dict[str, Any], used: dict[str, int]) -> None:
        self.record.probe = answer


async def ask(stage: AStage, monkeypatch: pytest.MonkeyPatch, *answers: Any, looks: int = 1) -> list[str]:
    """Look at the stage until it is answered; what was asked, in order."""
    left, asked = list(answers), []

    async def probe(session: Any, url: str, launch: Any) -> tuple[int, dict[str, int]]:
        asked.append(url)
        answer = left.pop(0)
        if callable(answer):
            answer()
            raise worker.WorkerSilent("no answer")
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(worker, "probe", probe)
    background = Background()
    prober = Prober(SimpleNamespace(address="10.0.0.1"), background, lambda: None)
    for _ in range(looks):
        prober.look(stage)
    async with asyncio.timeout(10):
        while background._tasks:
            await asyncio.wait(background._tasks)
    return asked


async def test_silence_is_asked_again_until_a_token_comes(monkeypatch):
    stage = AStage()
    silent = worker.WorkerSilent("the engine does not answer")
    assert await ask(stage, monkeypatch, silent, silent, (7, {}), looks=3) == ["http://10.0.0.1:1"] * 3
    assert stage.record.probe == {"ok": True, "ms": 7}


async def test_a_refusal_is_the_answer(monkeypatch):
    stage = AStage()
    await ask(stage, monkeypatch, worker.WorkerError("the engine answered 500"))
    assert stage.record.probe == {"ok": False, "error": "the engine answered 500"}


async def test_a_stage_that_ends_meanwhile_is_asked_no_more(monkeypatch):
    stage = AStage()
    assert len(await ask(stage, monkeypatch, lambda: setattr(stage, "state", "stopping"))) == 1
    assert stage.record.probe is None


@pytest.mark.parametrize("stage", [AStage(rank=1), AStage(state="loading"), AStage(state="stopping")])
async def test_others_are_not_asked(monkeypatch, stage):
    assert await ask(stage, monkeypatch) == []
