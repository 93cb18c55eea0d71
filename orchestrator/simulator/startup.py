"""How long a simulated engine takes to start: four constants a kind of device, and three ways of starting.

    in sequence    plain + fetch + load * M                                    (Serverless vLLM)
    load beside    plain + max(fetch, copy * M)                                (ServerlessLLM)
    overlapped     max(floor, fetch) + tail                                    (HydraServe, Hydrant)

M: gigabytes of the stage. Two numbers are not fitted but published by the paper: its planner counts 2 s for what
follows the fetch, and of the 6.87 s that a plain load takes about 2 s are the copy itself (Fig. 1).
"""

from dataclasses import dataclass
from enum import StrEnum

from orchestrator import predict
from orchestrator.types import Profile

TAIL_MS = 2_000
"""The paper's planner counts this for what follows the fetch."""
COPY_SHARE = 2 / 6.87
"""Of a plain load into device memory, the part that is copying (Fig. 1)."""
GB = 1e9


class Style(StrEnum):
    """In which order an engine starts."""

    IN_SEQUENCE = "in_sequence"
    LOAD_BESIDE = "load_beside"
    OVERLAPPED = "overlapped"


@dataclass(frozen=True, slots=True)
class StartTimes:
    """The constants of one kind of device.

    plain_ms        container, libraries, device context, first inference, one after the other.
    floor_ms        what remains of that when it is overlapped, up to where the last bytes are copied.
    load_ms_per_gb  loading into device memory the plain way.
    """

    plain_ms: int
    floor_ms: int
    load_ms_per_gb: int

    def copy_ms(self, nbytes: int) -> int:
        """Copying so many bytes from host to device memory."""
        return int(COPY_SHARE * self.load_ms_per_gb * nbytes / GB)

    def load_ms(self, nbytes: int) -> int:
        """Loading so many bytes the plain way."""
        return int(self.load_ms_per_gb * nbytes / GB)


def fetch_at_ms(style: Style, times: StartTimes) -> int:
    """When the fetch may begin, from the decision on."""
    return 0 if style is Style.OVERLAPPED else times.plain_ms


def ready_ms(style: Style, times: StartTimes, fetched_ms: int, nbytes: int) -> int:
    """When a stage of `nbytes` serves, from the decision on, if its last byte is in host memory at `fetched_ms`."""
    if style is Style.OVERLAPPED:
        return max(times.floor_ms, fetched_ms) + TAIL_MS
    if style is Style.LOAD_BESIDE:
        return max(fetched_ms, times.plain_ms + times.copy_ms(nbytes))
    return fetched_ms + times.load_ms(nbytes)


def profiled_ready_ms(known: Profile, stages: int, fetched_ms: int) -> int:
    """As `ready_ms` of an overlapped start, for a pipeline of `stages` of a model that was measured by itself."""
    return max(predict.floor_ms(known, stages, warm=True), fetched_ms) + known.tail_ms


def profile(style: Style, times: StartTimes, nbytes: int, tpot_ms: int, prefill_ms: int) -> Profile:
    """What a planner should be told of a model of `nbytes` on that kind of device."""
    if style is Style.OVERLAPPED:
        return Profile(tpot_ms, prefill_ms, runtime_floor_ms=times.floor_ms, tail_ms=TAIL_MS)
    tail = times.load_ms(nbytes) if style is Style.IN_SEQUENCE else times.copy_ms(nbytes)
    return Profile(tpot_ms, prefill_ms, runtime_floor_ms=times.plain_ms, tail_ms=tail)
