"""Ways of deciding, by name: ours, and those that it is measured against."""

from collections.abc import Mapping

from orchestrator.policies import hydraserve, single
from orchestrator.policies.policy import HYDRANT, Policy

__all__ = ["HYDRANT", "POLICIES", "Policy"]

POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        HYDRANT,
        Policy("hydraserve", hydraserve.plan, makes_room=False),
        Policy("serverlessllm", single.storage_aware, makes_room=False),
        Policy("serverless-vllm", single.first_fit, makes_room=False),
    )
}
