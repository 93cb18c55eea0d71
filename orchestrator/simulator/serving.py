"""Requests on groups: who waits, who runs where, when the first token comes and when the last."""

from collections import deque
from dataclasses import dataclass, field

from orchestrator import predict
from orchestrator.groups import GroupView
from orchestrator.lifecycle import GroupState
from orchestrator.simulator.workload import Request
from orchestrator.types import ModelSpec


@dataclass(slots=True)
class Served:
    """What became of a request; times are None for what did not happen before the end."""

    request: Request
    first_token_ms: int | None = None
    done_ms: int | None = None
    cold: bool = False

    @property
    def ttft_ms(self) -> int | None:
        """From arrival to first token."""
        return None if self.first_token_ms is None else self.first_token_ms - self.request.at_ms


@dataclass(slots=True)
class Queue:
    """Requests of one model that wait, oldest first."""

    waiting: deque[Served] = field(default_factory=deque)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest one came."""
        return self.waiting[0].request.at_ms if self.waiting else None


def choose(groups: list[GroupView], capacity: int) -> GroupView | None:
    """The group that takes the next request: a standalone worker before a pipeline, the least busy first."""
    free = [group for group in groups if group.running < capacity * max(1, len(group.stages))]
    return min(
        free, key=lambda g: (g.state is not GroupState.STANDALONE, g.running, g.created_ms, g.group_id), default=None
    )


class Prompts:
    """Prompts on one group: an engine works on one after the other, a pipeline of s stages on s at a time."""

    def __init__(self) -> None:
        self._free_ms = 0.0

    def times_ms(
        self, now_ms: int, spec: ModelSpec, group: GroupView, request: Request, prefill_us_per_token: int
    ) -> tuple[int, int]:
        """Milliseconds from now to the first and to the last token of a request that the group takes now.

        A stage has its device's whole speed: the paper measured 1.06 times a single worker's time per token.
        """
        s = len(group.stages)
        profile = spec.profile
        prefill = prefill_us_per_token * request.prompt_tokens / 1000
        begin = max(float(now_ms), self._free_ms)
        self._free_ms = begin + prefill / s
        first = int(begin - now_ms + prefill) + profile.hop_ms * (s - 1)
        step = predict.tpot_ms(profile, s, s, group.running + 1) or 0
        return first, first + step * (request.output_tokens - 1)
