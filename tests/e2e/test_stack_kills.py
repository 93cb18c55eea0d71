"""Every process of ours killed at chosen points and at random moments of a cold start, then started again.

Always the same is asked: the request was answered or told why, each attempt is billed once for what it delivered, no
engine is left without an owner (the `tiny` fixture looks at the kernel's processes), and the model serves afterwards.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.asking import Ask
from support.stack import SERVING, URGENT_MS, Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PROCESSES = {
    "control": ("controller",),
    "ledger": ("ledger",),
    "gateway": ("gateway",),
    "node": ("worker-a", "worker-b"),
    "noded": ("noded-a", "noded-b"),
    "warm": ("warm-a", "warm-b"),
}
"""By the first part of a failpoint's name. Which node a model will start on is the planner's choice: both are armed."""

ON_A_START = (
    "control.decided:1",
    "control.decided:3",
    "control.sent:1",
    "control.sent:3",
    "control.reported:2",
    "node.applied:1",
    "node.applied:2",
    "noded.recorded",
    "noded.forked",
    "noded.verified",
    "noded.probed",
    "warm.forked",
    "gateway.admitted",
    "gateway.routed",
    "gateway.delivered:1",
    "gateway.delivered:30",
    "gateway.spooled",
    "gateway.published",
    "ledger.committed",
    "ledger.settled",
)
VICTIMS = (
    "gateway",
    "controller",
    "ledger",
    "redis",
    "beat",
    *(f"{p}-{n}" for p in ("worker", "noded", "warm") for n in "ab"),
)


@pytest.fixture(autouse=True)
def well(stack: Stack) -> Iterator[None]:
    """Whatever a test has killed runs again before the next."""
    wait_for("warm runtimes", stack.nodes_warm, 120)
    yield
    for name in list(stack.processes):
        if stack.dead(name) or name in stack.armed:
            restart(stack, name)
    wait_for("the gateway", lambda: stack.get(f"{stack.services.gateway_url}/ready"), 60)


def restart(stack: Stack, name: str, *, failpoint: str | None = None) -> None:
    """SIGKILL a process and start it again, as systemd does after a second."""
    stack.kill(name)
    stack.run(name, failpoint=failpoint)
    if name == "redis":
        wait_for("Redis", stack.redis_answers, 30)


def check(ask: Ask, *, victim: str) -> None:
    """The request was answered, or, if its own gateway died, ended with a clear error; and it was billed once."""
    ask.ended()
    if victim != "gateway":
        # Nothing that a client talks to has died: it must not notice.
        ask.answered()
    elif ask.error is None:
        assert ask.finish_reason is not None, "a stream that ends without a finish reason"
    ask.billed_once(gateway_lost=ask.error is not None)


@pytest.mark.parametrize("failpoint", ON_A_START)
def test_a_process_killed_at_a_boundary_of_a_start(stack: Stack, tiny: Callable[..., str], failpoint: str) -> None:
    part = failpoint.split(".")[0]
    for name in PROCESSES[part]:
        restart(stack, name, failpoint=failpoint)
    wait_for("the gateway", lambda: stack.get(f"{stack.services.gateway_url}/ready"), 60)
    wait_for("warm runtimes", stack.nodes_warm, 120)
    model = failpoint.replace(".", "-").replace(":", "-")
    tiny(model)
    ask = Ask(stack, model, max_tokens=64)
    wait_for(f"a death at {failpoint}", lambda: any(stack.dead(name) for name in PROCESSES[part]), 60)
    for name in PROCESSES[part]:
        restart(stack, name)
    check(ask, victim=part)
    wait_for("the gateway", lambda: stack.get(f"{stack.services.gateway_url}/ready"), 60)
    Ask(stack, model).answered().billed_once()


def test_noded_killed_while_it_stops_a_stage(stack: Stack, tiny: Callable[..., str]) -> None:
    for name in PROCESSES["noded"]:
        restart(stack, name, failpoint="noded.stopping")
    wait_for("warm runtimes", stack.nodes_warm, 120)
    model_id = tiny("stopped")
    Ask(stack, "stopped").answered()
    stack.set_model(model_id, enabled=False)
    wait_for("a death in the stop", lambda: any(stack.dead(name) for name in PROCESSES["noded"]), 60)
    for name in PROCESSES["noded"]:
        restart(stack, name)
    wait_for("the end of the model's groups", lambda: stack.all_over(model_id), 90)
    assert stack.engine_processes() == []


@pytest.mark.parametrize("state", ["starting", "standalone", "draining"])
@pytest.mark.parametrize("victim", ["redis", "gateway"])
def test_what_holds_no_state_killed_in_each_state_of_a_group(
    stack: Stack, tiny: Callable[..., str], state: str, victim: str
) -> None:
    model = f"{victim}-{state}"
    model_id = tiny(model)
    ask = Ask(stack, model, max_tokens=300)
    if state == "draining":
        ask.begun()
        stack.set_model(model_id, enabled=False)
    wait_for(f"a group that is {state}", lambda: stack.group_in(model_id, state), 60)
    if state == "standalone":
        ask.begun()
    restart(stack, victim)
    check(ask, victim=victim)
    if state == "draining":
        wait_for("the end of the model's groups", lambda: stack.all_over(model_id), 90)
    else:
        wait_for("the gateway", lambda: stack.get(f"{stack.services.gateway_url}/ready"), 60)
        Ask(stack, model).answered().billed_once()


@pytest.mark.parametrize("seed", range(20))
def test_any_process_killed_at_a_random_moment(
    stack: Stack, tiny: Callable[..., str], smollm2: Path, seed: int
) -> None:
    """Even seeds: one small worker. Odd seeds: a pipeline of two, consolidated while a stream runs on it."""
    chance = random.Random(seed)
    victim, pipeline = VICTIMS[seed % len(VICTIMS)], bool(seed % 2)
    moment_s = chance.uniform(0.5, 16 if pipeline else 8)
    model = f"random-{seed}"
    if pipeline:
        stack.evict_all()
        model_id = tiny(model, smollm2, slo_ttft_ms=URGENT_MS)
    else:
        model_id = tiny(model)
    ask = Ask(stack, model, max_tokens=80 if pipeline else 200)
    time.sleep(moment_s)
    print(f"{victim} killed after {moment_s:.1f} s; the groups are {[g.state for g in stack.groups(model_id)]}")
    restart(stack, victim)
    check(ask, victim=victim)
    wait_for("the gateway", lambda: stack.get(f"{stack.services.gateway_url}/ready"), 60)
    Ask(stack, model).answered().billed_once()
    assert stack.group_in(model_id, *SERVING) is not None
