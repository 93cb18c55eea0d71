"""Names of the Redis keys that the gateway uses (docs/interfaces.md, section 1)."""

SNAPSHOT = "hyd:snapshot"
SNAPSHOT_CHANGED = "hyd:snapshot:changed"
ROUTES = "hyd:routes"
ROUTES_VERSION = "hyd:routes:version"
ROUTES_CHANGED = "hyd:routes:changed"
COLDSTART = "hyd:coldstart"
BALANCE = "hyd:balance"
RESERVED = "hyd:reserved"
BUDGET_SPENT = "hyd:budget:spent"
BUDGET_RESERVED = "hyd:budget:reserved"
ATTEMPTS = "hyd:attempts"
USAGE = "hyd:usage"
GATEWAYS = "hyd:gateways"
ACTIVITY_MODELS = "hyd:activity:models"


def slots(scope: str, id_: str) -> str:
    """Parallel slots of a tenant, key or model."""
    return f"hyd:slots:{scope}:{id_}"


def rate(scope: str, id_: str) -> str:
    """Prefix of the per-minute counters of a tenant, key or model."""
    return f"hyd:rate:{scope}:{id_}"


def idempotency(tenant_id: str, digest: str) -> str:
    """A tenant's Idempotency-Key (its SHA-256) whose request is in flight."""
    return f"hyd:idem:{tenant_id}:{digest}"


def activity(model: str) -> str:
    """Demand for a model, a field a gateway."""
    return f"hyd:activity:{model}"
