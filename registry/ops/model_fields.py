"""The fields of a model that a person may set, each with its bounds."""

from typing import Any

from registry.errors import InvalidError
from registry.ops import checks

LANES = ("direct", "litellm")
KEEP_ALIVE_MODES = ("learned", "fixed")
_LARGEST_MS = 24 * 3600 * 1000


def checked(field: str, value: Any) -> Any:
    """`value`, if `field` may have it. Raises InvalidError naming the field."""
    match field:
        case "lane":
            if value not in LANES:
                raise InvalidError(f"lane must be one of: {', '.join(LANES)}", field)
            return value
        case "default_max_tokens":
            return checks.integer(field, value, low=1, high=10_000_000)
        case "capacity":
            return checks.integer(field, value, low=1, high=10_000)
        case "kv_reserve_bytes":
            return checks.integer(field, value, low=1)
        case "slo_ttft_ms":
            return checks.integer(field, value, low=1, high=_LARGEST_MS)
        case "slo_tpot_ms":
            return None if value is None else checks.integer(field, value, low=1, high=_LARGEST_MS)
        case "keep_alive_s":
            return checks.integer(field, value, high=30 * 24 * 3600)
        case "keep_alive_mode":
            if value not in KEEP_ALIVE_MODES:
                raise InvalidError(f"keep_alive_mode must be one of: {', '.join(KEEP_ALIVE_MODES)}", field)
            return value
        case "min_replicas":
            return checks.integer(field, value, high=1000)
        case "charge_cold_starts":
            if not isinstance(value, bool):
                raise InvalidError("charge_cold_starts must be true or false", field)
            return value
        case "rpm" | "tpm" | "parallel":
            return checks.limit(field, value)
    raise InvalidError(f"{field} is not a field of a model that can be changed", field)
