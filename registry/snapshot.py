"""The read model that gateways take from Redis (docs/interfaces.md, section 2): document types, parsing, key hashing.

The data plane imports this file, so it must not import the ORM.
"""

import hashlib
import hmac
import json
import re
import secrets
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from registry.errors import SnapshotError
from registry.providers import ProviderDoc

SNAPSHOT_KEY = "hyd:snapshot"
SNAPSHOT_VERSION_KEY = "hyd:snapshot:version"
SNAPSHOT_DRAWN_KEY = "hyd:snapshot:drawn"
SNAPSHOT_CHANGED_CHANNEL = "hyd:snapshot:changed"
BALANCE_KEY = "hyd:balance"
BALANCE_ROWS_KEY = "hyd:balance:rows"
BUDGET_SPENT_KEY = "hyd:budget:spent"

_PREFIX_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_KEY_SHAPE = re.compile(r"hyd-[0-9a-z]{8}-[A-Za-z0-9_-]{43}")


class KeyDoc(TypedDict):
    """A live API key. `models` is ["*"] or model names; null limits are unlimited. `budgets`: nano-dollars
    in each period (day, month, total) with a hard budget."""

    key_id: str
    tenant_id: str
    name: str
    models: list[str]
    expires_at_ms: int | None
    rpm: int | None
    tpm: int | None
    parallel: int | None
    sse_ping: bool
    defaults: dict[str, int | float | str]
    ceilings: dict[str, int | float]
    budgets: dict[str, int]


class TenantDoc(TypedDict):
    """A tenant, with limits and hard budgets over all its keys and the salt of its prefix cache."""

    name: str
    enabled: bool
    rpm: int | None
    tpm: int | None
    parallel: int | None
    salt: str
    service_class: str
    budgets: dict[str, int]


class PriceDoc(TypedDict):
    """The price now in force, in nano-dollars per token (and per request)."""

    price_id: str
    input_nusd: int
    cached_input_nusd: int
    output_nusd: int
    request_nusd: int


class ModelDoc(TypedDict):
    """What a gateway must know of a model to admit and route a request for it; its limits are over all tenants."""

    model_id: str
    enabled: bool
    lane: Literal["direct", "litellm", "hosted"]
    provider: ProviderDoc | None
    context_length: int
    default_max_tokens: int
    embedding: bool
    created_at_ms: int
    price: PriceDoc
    slo_ttft_ms: int
    keep_alive_s: int
    rpm: int | None
    tpm: int | None
    parallel: int | None


class ColdPolicyDoc(TypedDict):
    """What becomes of a request while its model is cold; `fallback`: the name of a model that a provider serves."""

    mode: Literal["wait", "fallback", "reject"]
    after_s: int
    fallback: str | None


class HoldDoc(TypedDict):
    """Bounds of a gateway's queue of held requests: count, bytes, seconds."""

    max_requests: int
    max_bytes: int
    deadline_s: int


class SnapshotDoc(TypedDict):
    """The whole read model. `keys` is indexed by the hex digest of the key, `models` and `tenants` by name and id;
    `aliases` are the weights of the models behind each."""

    version: int
    built_at_ms: int
    keys: dict[str, KeyDoc]
    tenants: dict[str, TenantDoc]
    models: dict[str, ModelDoc]
    aliases: dict[str, dict[str, int]]
    policies: dict[str, dict[str, ColdPolicyDoc]]
    hold: HoldDoc


_SNAPSHOT = TypeAdapter(SnapshotDoc)


def parse_snapshot(raw: bytes | str) -> SnapshotDoc:
    """The snapshot in `raw` (JSON), checked. Raises SnapshotError naming the first field that is wrong."""
    try:
        return _SNAPSHOT.validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        # Locations hold key digests, which are no secrets but of no use to a reader either.
        where = ".".join(str(part) for part in first["loc"] if len(str(part)) != 64) or "document"
        raise SnapshotError(f"{SNAPSHOT_KEY}: {where}: {first['msg']}; is the registry of another version?") from None


def encode_snapshot(snapshot: SnapshotDoc) -> bytes:
    """Compact JSON of `snapshot`."""
    return json.dumps(snapshot, separators=(",", ":"), ensure_ascii=False).encode()


def key_digest(pepper: str, key: str) -> str:
    """Hex HMAC-SHA-256 of an API key under the server's pepper: what is stored, and what a gateway looks up."""
    return hmac.new(pepper.encode(), key.encode(), hashlib.sha256).hexdigest()


def looks_like_key(text: str) -> bool:
    """Whether `text` has the shape of an API key: worth hashing at all."""
    return _KEY_SHAPE.fullmatch(text) is not None


def generate_key(kind: str = "hyd") -> tuple[str, str]:
    """A new API key `hyd-<8 characters>-<43 characters>` (256 random bits) and its public prefix. Another `kind` takes
    the place of `hyd`."""
    prefix = "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(8))
    return f"{kind}-{prefix}-{secrets.token_urlsafe(32)}", prefix
