"""`hydrant demo`: the whole path on a real model, told as it happens, and proof that nothing was left behind."""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anthropic
import openai
from sqlalchemy import select

from cli import demo_report as report
from cli import seed
from cli.errors import Failure
from cli.interrupts import Interrupted
from cli.leftovers import leftovers, shared_memory_files
from cli.progress import Progress, TimedOut
from cli.services import CannotStart
from cli.up import Running, running
from engine.client import NodedClient, NodedError
from orchestrator.explain import explain
from orchestrator.nodes import Nodes
from orchestrator.plan import plan
from orchestrator.types import Plan, PlanRequest
from registry.db import read_scope
from registry.errors import RegistryError
from registry.ids import now_ms
from registry.models import Group, Usage
from tasks.demand import Demand
from tasks.state import load_state

LINK_GBPS = 0.12
"""Slow enough that fetching the whole model over one link takes longer than starting SGLang does."""
SLO_TTFT_MS = 17_000
"""One worker would need about 20 s over one link; two stages share the bytes."""
KEEP_ALIVE_S = 6
QUESTION = "What is the capital of France? Answer in one sentence."
LONG_QUESTION = "Tell a long story about a lighthouse keeper and the sea."
LONG_TOKENS = 150
FIRST_TOKEN_WITHIN_S = 90.0
PORT_VARIABLES = ("HYDRANT_GATEWAY_PORT", "HYDRANT_ADMIN_PORT", "HYDRANT_HOSTED_PORT", "HYDRANT_ENGINE_PORTS")


class DemoFailed(Exception):
    """Something that the demo promises did not happen; the message says what."""


@dataclass
class Answer:
    """What one request brought back, as the client saw it."""

    name: str
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)


def demo(*, as_json: bool = False) -> int:
    """Run it all; 0 when every promise was kept and nothing is left.

    Raises Failure with what was not, and where the log is kept, if there is one.
    """
    progress = Progress(sys.stderr if as_json else sys.stdout)
    home = Path(tempfile.mkdtemp(prefix="hydrant-demo-"))
    _own_environment(home)
    shared_before = shared_memory_files()
    try:
        with running(progress, link_gbps=LINK_GBPS, slo_ttft_ms=SLO_TTFT_MS, keep_alive_s=KEEP_ALIVE_S) as it:
            progress.say(f"ready: gateway {it.services.gateway_url}, admin UI {it.services.admin_url}")
            told = _tell(it, progress)
        left = leftovers(home, it.services.nodes, shared_before)
        if left:
            raise DemoFailed("something was left behind:\n" + "\n".join(left))
    except (CannotStart, DemoFailed, TimedOut, RegistryError) as error:
        log = home / "hydrant.log"
        if log.exists():
            raise Failure(f"{error}\nThe log is kept: {log}") from None
        shutil.rmtree(home)
        raise Failure(str(error), getattr(error, "field", None)) from None
    except Interrupted as signalled:
        shutil.rmtree(home, ignore_errors=True)
        progress.say("interrupted; everything was stopped")
        return signalled.exit_status
    shutil.rmtree(home)
    progress.say("stopped: no process, no socket, no shared-memory file is left")
    if as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    return 0


def _own_environment(home: Path) -> None:
    """A demo touches nothing but its own directory, whatever this shell is set up for; only ports may be chosen."""
    for name in [*os.environ]:
        if name in ("DATABASE_URL", "REDIS_URL") or (name.startswith("HYDRANT_") and name not in PORT_VARIABLES):
            del os.environ[name]
    os.environ["HYDRANT_HOME"] = str(home)


def _tell(it: Running, progress: Progress) -> dict[str, Any]:
    """The whole story; what came of it, as a document."""
    progress.say(_plans(it))
    watch = Watch(it, progress)

    progress.say(f"asking, with the openai SDK, a model that is not running: {QUESTION!r}")
    first = _ask_openai(it, "openai, cold", QUESTION, max_tokens=24)
    watch.until(first.ended.is_set, "the first answer", within_s=FIRST_TOKEN_WITHIN_S)
    _require(first)
    progress.say(f"answer, {first.first_token_s:.1f} s to the first token: {first.text.strip()!r}")

    progress.say("a long stream begins on the pipeline; the standalone worker grows beside it")
    longs = [_ask_long(it)]
    same = _ask_anthropic(it, QUESTION, max_tokens=24)
    watch.until(same.ended.is_set, "the answer through the anthropic SDK", within_s=60)
    _require(same)
    progress.say(f"answer through the anthropic SDK (/v1/messages, litellm lane): {same.text.strip()!r}")
    if same.text.strip() != first.text.strip():
        raise DemoFailed("the litellm lane answered differently from the direct lane")

    def grown() -> Group | None:
        group = watch.group("standalone")
        # On a machine where the worker grows slowly: there is always a stream that began on the pipeline.
        if group is None and longs[-1].ended.is_set():
            longs.append(_ask_long(it))
        return group

    standalone = watch.until(grown, "the standalone worker", within_s=90)
    long = longs[-1]
    if long.ended.is_set():
        raise DemoFailed(
            "no stream was running on the pipeline when the standalone worker was ready; run the demo again"
        )
    during = _ask_openai(it, "openai, during", QUESTION, max_tokens=24)
    watch.until(during.ended.is_set, "an answer from the standalone worker", within_s=60)
    _require(during)
    progress.say(f"answer during consolidation: {during.text.strip()!r}")
    watch.until(long.ended.is_set, "the end of the long stream", within_s=120)
    for one in longs:
        _require(one)
    watch.read_counters()
    progress.say(f"the long stream ended normally ({long.finish_reason}) with {long.completion_tokens} tokens")
    _served_by(it, during, standalone, watch)

    progress.say(f"nobody asks any more: after {KEEP_ALIVE_S} s of keep-alive the model should be gone")
    watch.until(lambda: watch.all_over() or None, "scale to zero", within_s=60)
    progress.say("scaled to zero: no engine process is left; the weights stay in host memory")
    answers = [first, same, during, *longs]
    _settled(it, progress, answers)
    progress.say()
    progress.show(report.summary(it.sessions, answers, watch.counters))
    if not report.bill_is_right(it.sessions, watch.counters):
        raise DemoFailed("the ledger and the engines' own counters differ; see the table above")
    return report.document(it.sessions, answers, watch.counters)


def _plans(it: Running) -> str:
    """The plan for now, and the same planner's for links ten times as fast."""
    with read_scope(it.sessions) as session:
        state = load_state(session, Demand(), now_ms())
    model = state.models[seed.MODEL_NAME]
    request = PlanRequest(model=model.spec)
    slow = plan(request, state.cluster_for(model))
    faster = replace(state, nodes=Nodes(replace(node, link_bps=node.link_bps * 10) for node in state.nodes))
    fast = plan(request, faster.cluster_for(model))
    for outcome, size, links in ((slow, 2, "these links"), (fast, 1, "links ten times as fast")):
        if not isinstance(outcome, Plan) or outcome.s != size:
            raise DemoFailed(f"for {links} the planner should choose s={size}:\n" + "\n".join(explain(outcome)))
    return "\n".join(
        [
            f"the plan for links of {LINK_GBPS} Gbit/s and a first token within {SLO_TTFT_MS / 1000:.0f} s:",
            *explain(slow),
            f"the same planner with links of {LINK_GBPS * 10:.1f} Gbit/s:",
            *explain(fast),
        ]
    )


# --- asking -----------------------------------------------------------------------------------------------------------


def _ask_openai(it: Running, name: str, question: str, *, max_tokens: int, **extra: object) -> Answer:
    """Stream an answer in a thread, with the SDK as anybody would use it."""
    client = openai.OpenAI(base_url=f"{it.services.gateway_url}/v1", api_key=it.seeded.api_key)

    def ask(answer: Answer, began: float) -> None:
        stream = client.chat.completions.create(
            model=seed.MODEL_NAME,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra or None,
        )
        for chunk in stream:
            if chunk.usage is not None:
                answer.prompt_tokens = chunk.usage.prompt_tokens
                answer.completion_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if choice.delta.content and answer.first_token_s is None:
                    answer.first_token_s = time.monotonic() - began
                answer.text += choice.delta.content or ""
                answer.finish_reason = choice.finish_reason or answer.finish_reason

    return _in_thread(name, ask)


def _ask_long(it: Running) -> Answer:
    return _ask_openai(it, "openai, long", LONG_QUESTION, max_tokens=LONG_TOKENS, ignore_eos=True)


def _ask_anthropic(it: Running, question: str, *, max_tokens: int) -> Answer:
    client = anthropic.Anthropic(base_url=it.services.gateway_url, api_key=it.seeded.api_key)

    def ask(answer: Answer, began: float) -> None:
        message = client.messages.create(
            model=seed.MODEL_NAME,
            max_tokens=max_tokens,
            extra_body={"temperature": 0},
            messages=[{"role": "user", "content": question}],
        )
        answer.first_token_s = time.monotonic() - began
        answer.text = "".join(block.text for block in message.content if block.type == "text")
        answer.finish_reason = message.stop_reason
        answer.prompt_tokens = message.usage.input_tokens
        answer.completion_tokens = message.usage.output_tokens

    return _in_thread("anthropic", ask)


def _in_thread(name: str, ask: Callable[[Answer, float], None]) -> Answer:
    answer = Answer(name)

    def run() -> None:
        try:
            ask(answer, time.monotonic())
        except Exception as error:  # noqa: BLE001 - whatever an SDK raises is shown as the demo's failure
            answer.error = error
        finally:
            answer.ended.set()

    threading.Thread(target=run, daemon=True).start()
    return answer


def _require(answer: Answer) -> None:
    if answer.error is not None:
        raise DemoFailed(f"the request {answer.name!r} failed: {answer.error}")
    if not answer.text or answer.finish_reason is None:
        raise DemoFailed(f"the request {answer.name!r} ended without an answer or a finish reason")


# --- watching ---------------------------------------------------------------------------------------------------------


class Watch:
    """Follows groups in SQL while a request is under way, prints changes, keeps the engines' own token counters."""

    def __init__(self, it: Running, progress: Progress) -> None:
        self._it = it
        self._progress = progress
        self._said: dict[str, str] = {}
        self._clients = {node.name: NodedClient.for_node(it.services.home, node.name) for node in it.services.nodes}
        self.counters: dict[str, dict[str, int]] = {}

    def until(self, found: Callable[[], Any], what: str, *, within_s: float) -> Any:
        """Wait for something, printing every change of state, stage progress every few seconds."""

        def step() -> Any:
            self._print_changes()
            self.read_counters()
            return found() or None

        return self._progress.wait_for(
            what, step, within_s=within_s, hint=f"hydrant status, and {self._it.services.log}, say more."
        )

    def group(self, state: str) -> Group | None:
        """The first group in this state."""
        return next((group for group in self._groups() if group.state == state), None)

    def all_over(self) -> bool:
        """Whether every group has stopped and every stage is gone. A failed group is a failed demo."""
        groups = self._groups()
        for group in groups:
            if group.state == "failed":
                raise DemoFailed(f"group {group.id} failed: {group.reason}")
        return bool(groups) and all(group.state == "stopped" for group in groups)

    def read_counters(self) -> None:
        """Keep the last figures of each group that serves; a stopped engine can no longer be asked."""
        for group in self._groups():
            if group.state in ("pipeline", "consolidating", "standalone", "draining"):
                # An engine that is just ending answers no more; what it said before stays.
                with suppress(NodedError):
                    self.counters[group.id] = self._clients[group.stages[0].node_name].counters(group.id)

    def _groups(self) -> list[Group]:
        with read_scope(self._it.sessions) as session:
            groups = list(session.scalars(select(Group).order_by(Group.created_at_ms)))
            for group in groups:
                list(group.stages)
            return groups

    def _print_changes(self) -> None:
        for group in self._groups():
            stages = ", ".join(f"{s.rank} on {s.node_name}: {s.state}" for s in group.stages)
            text = f"group {group.id[-6:]} {group.state} (stages {stages})"
            if self._said.get(group.id) != text:
                self._said[group.id] = text
                self._progress.say("  " + text)


def _served_by(it: Running, answer: Answer, group: Group, watch: Watch) -> None:
    """The request during consolidation went to the standalone worker, by the ledger's own word."""

    def rows() -> list[Usage] | None:
        with read_scope(it.sessions) as session:
            return list(session.scalars(select(Usage).where(Usage.group_id == group.id))) or None

    watch.until(rows, f"the usage row of {answer.name!r} on the standalone worker", within_s=20)


def _settled(it: Running, progress: Progress, answers: list[Answer]) -> None:
    """Wait until the ledger has as many rows as answers were given."""

    def settled() -> bool | None:
        with read_scope(it.sessions) as session:
            return len(session.scalars(select(Usage.attempt_id)).all()) >= len(answers) or None

    progress.wait_for("the ledger", settled, within_s=20, hint="The ledger worker's log says more.")
