"""Seeded random weather over the controller: messages lost, doubled and reordered, crashes at failpoints, Redis wiped.

A crash is an exception at a failpoint that nothing catches: like a SIGKILL there, it leaves what was committed to SQL
and written to Redis, and no more (the tests of the workers use real signals).
"""

from __future__ import annotations

import random

import pytest
from support.control_bench import Bench
from support.watching import watched

STEPS = 60
RECOVERY_ROUNDS = 25


class Killed(BaseException):
    """The controller died here."""


class Weather:
    """A bench with faults. `crash_at` counts down at every failpoint; at zero the controller dies."""

    def __init__(self, bench: Bench, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        from tasks import control

        self.bench = bench
        self.random = random.Random(seed)
        self.crash_at = -1
        self.crashes = 0
        self.old_reports: list[tuple[str, dict]] = []
        self.demand: dict[str, int] = {"waiting": 1}
        monkeypatch.setattr(control, "reach", self.reach)

    def reach(self, _name: str) -> None:
        if self.crash_at == 0:
            self.crashes += 1
            self.crash_at = -1
            raise Killed
        self.crash_at -= 1

    def storm(self) -> None:
        """Random steps, some of which end in a crash; the next step is taken by a new controller."""
        for _ in range(STEPS):
            self.crash_at = self.random.choice([-1, -1, -1, 0, 1, 2, 3])
            step = self.random.choice(
                [self.run, self.run, self.report, self.report, self.deliver, self.deliver, self.deliver, self.lose,
                 self.double, self.old_report, self.gateway_speaks, self.resend, self.wipe]
            )  # fmt: skip
            try:
                step()
            except Killed:
                continue

    def run(self) -> None:
        self.bench.run()

    def report(self) -> None:
        name = self.random.choice(list(self.bench.nodes))
        report = self.bench.nodes[name].report()
        self.old_reports.append((name, report))
        from tasks import control

        control.node_report(name, report)

    def old_report(self) -> None:
        from tasks import control

        if self.old_reports:
            control.node_report(*self.random.choice(self.old_reports))

    def pick(self) -> list[tuple[str, dict]]:
        taken = [(name, message) for name in self.bench.nodes for message in self.bench.messages(f"node.{name}")]
        self.random.shuffle(taken)
        return taken

    def deliver(self) -> None:
        for name, message in self.pick():
            self.bench.carry_out(self.bench.nodes[name], message)

    def lose(self) -> None:
        for name, message in self.pick():
            if self.random.random() < 0.5:
                self.bench.carry_out(self.bench.nodes[name], message)

    def double(self) -> None:
        taken = self.pick()
        for name, message in [*taken, *taken]:
            self.bench.carry_out(self.bench.nodes[name], message)

    def gateway_speaks(self) -> None:
        self.bench.gateway.beat()
        self.bench.gateway.activity("m", **self.demand)

    def resend(self) -> None:
        self.bench.age_outbox(11_000)

    def wipe(self) -> None:
        if self.random.random() < 0.2:
            self.bench.redis.flushall()

    def recover(self, *states: str) -> None:
        """Fair weather, in which whatever was lost is due to be sent again."""
        self.crash_at = -1
        for _ in range(RECOVERY_ROUNDS):
            watched(self.bench.redis)
            self.gateway_speaks()
            self.resend()
            self.run()
            self.deliver()
            for name in self.bench.nodes:
                self.bench.report(name)
            alive = [g.state for g in self.bench.groups() if g.state not in ("stopped", "failed")]
            if alive == list(states) and not self.bench.outbox(undone=True):
                return
        raise AssertionError(f"{self.bench.states()}, {[(r.kind, r.error) for r in self.bench.outbox(undone=True)]}")

    def living_stages(self) -> int:
        return sum(
            len(node.stages("fetching", "starting", "loading", "ready", "stopping"))
            for node in self.bench.nodes.values()
        )


@pytest.mark.parametrize("empty_engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("seed", range(5))
def test_after_any_weather_one_worker_serves_and_then_none_is_left(bench, seed, monkeypatch):
    bench.add_model(split=True)
    weather = Weather(bench, seed, monkeypatch)
    weather.gateway_speaks()
    weather.storm()
    weather.recover("standalone")
    (route,) = bench.gateway.routes("m")
    assert weather.living_stages() == 1
    assert "failed" not in bench.states(), "nothing broke, so nothing may have failed"

    # A request runs while the weather turns bad again: its worker must not be touched.
    weather.demand = {"groups": {route["group_id"]: 1}}
    weather.gateway_speaks()
    bench.change_model(keep_alive_s=0)
    weather.storm()
    weather.recover("standalone")
    assert bench.gateway.routes("m") == [route]

    weather.demand = {}
    bench.change_model(enabled=False)
    weather.storm()
    weather.recover()
    assert weather.crashes > 0
    assert weather.living_stages() == 0
    assert bench.gateway.routes("m") == []
