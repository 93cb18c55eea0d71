"""Ways of deciding, by name: ours, and those that it is measured against."""

from collections.abc import Mapping

from orchestrator.policies import hydraserve, single
from orchestrator.policies.policy import HYDRANT, MakesRoom, Policy

__all__ = ["HYDRANT", "POLICIES", "MakesRoom", "Policy"]

POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        HYDRANT,
        Policy("hydraserve", hydraserve.plan, MakesRoom.NEVER, learns=False, together=False),
        Policy("serverlessllm", single.storage_aware, MakesRoom.NEVER, learns=False, together=False),
        Policy("serverless-vllm", single.first_fit, MakesRoom.NEVER, learns=False, together=False),
    )
}
