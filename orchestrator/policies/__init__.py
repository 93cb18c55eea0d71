"""Ways of deciding, by name: ours, and those that it is measured against."""

from collections.abc import Mapping

from orchestrator.policies import hydraserve, single
from orchestrator.policies.policy import HYDRANT, MakesRoom, Policy, published

__all__ = ["HYDRANT", "POLICIES", "MakesRoom", "Policy"]

POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        HYDRANT,
        published("hydraserve", hydraserve.plan),
        published("serverlessllm", single.storage_aware),
        published("serverless-vllm", single.first_fit),
    )
}
