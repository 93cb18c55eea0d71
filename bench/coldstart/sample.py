"""One measured cold start, as it stands in the results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """Times in seconds after the request was sent, sizes in bytes.

    `ttft_s`    the request's first token.
    `text`      what was answered: the same in every row, or something is wrong.
    `stages`    label of each stage -> step -> when it happened; for the naive rows there is one stage.
    `link`      bytes that each node had received from the request to the first token; empty where links cannot be read.
    `engine_s`  from the start of SGLang's process (or its fork) to the first token.
    `orchestration_s`  when the first stage's process was started and its first byte had come, whichever was later;
                       `orchestration_last_s` the same of the last stage.
    `largest_stage_bytes`  weights of the largest stage.
    `stage_count`  stages of the pipeline, 1 for a whole worker.
    """

    row: str
    model: str
    round: int
    ttft_s: float
    text: str
    stages: dict[str, dict[str, float]]
    link: dict[str, int]
    cpu_s: float
    peak_bytes: int
    largest_stage_bytes: int
    stage_count: int
    engine_s: float
    orchestration_s: float | None = None
    orchestration_last_s: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)
