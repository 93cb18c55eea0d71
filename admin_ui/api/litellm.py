"""The routes of LiteLLM's proxy that key-making scripts call, answered from Hydrant's own registry: a team is a tenant,
a `token` is a key's id, spend is in dollars (and exactly, in nano-dollars, beside it)."""

from datetime import UTC, datetime, timedelta

from admin_ui.api.operation import Api
from registry.ops.money import NUSD_PER_USD

api = Api("litellm", "")
TAG = "LiteLLM-compatible"


def iso(at_ms: int) -> str:
    """A moment as LiteLLM writes it."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")


def usd(nusd: int) -> float:
    """Dollars, as near as a float can be."""
    return nusd / NUSD_PER_USD
