"""What starts of models have cost, and who waited for them."""

from typing_extensions import TypedDict

from registry.ops.cost_queries import StartCost, TenantWaits
from registry.ops.money import format_dollars


class ShareDocument(TypedDict):
    """A tenant's share of one start, by its requests that waited; `charged`: it is in the ledger."""

    tenant_id: str
    tenant: str
    requests: int
    gpu_us: int
    cost_nusd: int
    cost_usd: str
    charged: bool


class StartCostDocument(TypedDict):
    """What one start has cost in device time (microseconds of a whole device) and money, and the service after it.

    `startup_*` are null until the start is over, `waited` (requests) until it is split, `busy_gpu_us` and `idle_gpu_us`
    until its workers have stopped. What nobody waited for is the model's alone.
    """

    startup_gpu_us: int | None
    startup_nusd: int | None
    waited: int | None
    busy_gpu_us: int | None
    idle_gpu_us: int | None
    shares: list[ShareDocument]


class TenantWaitsDocument(TypedDict):
    """The starts of one model that a tenant has waited for, and its shares of them; `charged_nusd` of `cost_nusd`."""

    tenant_id: str
    model: str
    starts: int
    requests: int
    gpu_us: int
    cost_nusd: int
    cost_usd: str
    charged_nusd: int


def start_cost_document(cost: StartCost) -> StartCostDocument:
    """The cost of a start."""
    return {
        "startup_gpu_us": cost.startup_gpu_us,
        "startup_nusd": cost.startup_nusd,
        "waited": cost.waited,
        "busy_gpu_us": cost.busy_gpu_us,
        "idle_gpu_us": cost.idle_gpu_us,
        "shares": [
            {
                "tenant_id": share.tenant_id,
                "tenant": share.tenant,
                "requests": share.requests,
                "gpu_us": share.gpu_us,
                "cost_nusd": share.cost_nusd,
                "cost_usd": format_dollars(share.cost_nusd),
                "charged": share.charged,
            }
            for share in cost.shares
        ],
    }


def tenant_waits_document(waits: TenantWaits) -> TenantWaitsDocument:
    """A tenant's shares of a model's starts."""
    return {
        "tenant_id": waits.tenant_id,
        "model": waits.model,
        "starts": waits.starts,
        "requests": waits.requests,
        "gpu_us": waits.gpu_us,
        "cost_nusd": waits.cost_nusd,
        "cost_usd": format_dollars(waits.cost_nusd),
        "charged_nusd": waits.charged_nusd,
    }
