"""What a row forces on the planner, the planner then does: asked here, the very function that production asks."""

from dataclasses import replace
from typing import Any

import pytest
from support.clusters import GBIT, a_cluster, a_model

from bench.coldstart.plans import Forced, force, free, largest_stage_bytes
from orchestrator.plan import plan
from orchestrator.types import ModelSpec, Plan, PlanRequest, Profile

LINK_BPS = int(0.4 * GBIT)


def told(model: ModelSpec, forced: Forced) -> ModelSpec:
    """The model as the controller reads it with these columns."""
    columns: dict[str, Any] = dict(forced.columns)
    return replace(model, **columns | {"profile": Profile.from_json(columns["profile"])})


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("embed_gb", [0, 2])
def test_a_forced_row_starts_over_that_many_stages(stages: int, embed_gb: int) -> None:
    model = a_model(8, embed_bytes=embed_gb * 10**9, tied=embed_gb > 0)
    chosen = plan(PlanRequest(told(model, force(model, stages, LINK_BPS))), a_cluster(4, gbps=0.4))
    assert isinstance(chosen, Plan)
    assert (chosen.s, chosen.degraded) == (stages, False)


def test_its_own_choice_goes_by_the_service_level_and_the_measured_floor() -> None:
    model = a_model(8)
    one_link_s = largest_stage_bytes(model, 1) / LINK_BPS
    loose = free(int(2000 * one_link_s), 4, {"runtime_floor_ms": 1000})
    tight = free(int(600 * one_link_s), 4, {"runtime_floor_ms": 1000})
    sizes = [plan(PlanRequest(told(model, chosen)), a_cluster(4, gbps=0.4)).s for chosen in (loose, tight)]  # type: ignore[union-attr]
    assert sizes == [1, 2]
