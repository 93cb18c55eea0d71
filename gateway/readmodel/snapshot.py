"""The registry's read model (docs/interfaces.md, section 2), and how a request finds its key and model in it."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway import errors
from gateway.readmodel.cold_policy import WAIT, ColdPolicy
from gateway.readmodel.splits import pick


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens per minute, and requests at a time; None is unlimited."""

    rpm: int | None
    tpm: int | None
    parallel: int | None


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who pays. `salt` keeps its prefix cache entries apart from other tenants'.

    `budgets`: nano-dollars that may be spent in each period (day, month, total), for those that have a hard one.
    `service_class`: how soon it should be answered by a model that sleeps.
    """

    tenant_id: str
    name: str
    enabled: bool
    limits: Limits
    salt: str
    service_class: str
    budgets: dict[str, int]


@dataclass(frozen=True, slots=True)
class Key:
    """A live API key. `models` holds models' own names, or "*" for all; `budgets` are as a tenant's.

    `defaults` and `ceilings` are of requests' parameters, by OpenAI's names (gateway/body/parameters.py).
    """

    key_id: str
    tenant_id: str
    models: frozenset[str]
    expires_at_ms: int | None
    limits: Limits
    sse_ping: bool
    defaults: dict[str, Any]
    ceilings: dict[str, Any]
    budgets: dict[str, int]

    def permits(self, model: str) -> bool:
        """Whether the model of this name is on the key's list."""
        return "*" in self.models or model in self.models


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars per token, and per request."""

    price_id: str
    input_nusd: int
    cached_input_nusd: int
    output_nusd: int
    request_nusd: int


@dataclass(frozen=True, slots=True)
class Provider:
    """Who serves a model of lane `hosted`: litellm's name of it, the operator's address, its key's variable."""

    model: str
    api_base: str | None
    key_env: str


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model. `context_length` and `default_max_tokens` are tokens; `provider` of lane `hosted` only.

    `limits` are over all tenants.
    """

    name: str
    model_id: str
    enabled: bool
    lane: str
    context_length: int
    default_max_tokens: int
    embedding: bool
    created_at_ms: int
    price: Price
    limits: Limits
    provider: Provider | None = None


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """How much one gateway process holds, and how long (seconds)."""

    max_requests: int
    max_bytes: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the read model. `aliases`: the weights of the models behind each."""

    version: int
    keys: dict[str, Key]
    tenants: dict[str, Tenant]
    models: dict[str, Model]
    aliases: dict[str, dict[str, int]]
    hold: HoldLimits
    # By model name, then by tenant id, "*" for all others.
    policies: dict[str, dict[str, ColdPolicy]] = field(default_factory=dict)
    # By the API keys themselves (and the pepper), those of `keys` that have been used: a digest takes longer than all
    # else of this.
    _used: dict[tuple[str, bytes], Key] = field(default_factory=dict, repr=False, compare=False)

    def cold_policy(self, model: str, tenant_id: str) -> ColdPolicy:
        """What becomes of this tenant's requests while the model is cold."""
        policies = self.policies.get(model, {})
        return policies.get(tenant_id) or policies.get("*", WAIT)

    def authenticate(self, api_key: str, pepper: bytes, at_ms: int) -> tuple[Key, Tenant]:
        """The key's record and tenant. Raises `ApiError` 401 for a key that is not live at `at_ms`."""
        key = self._used.get((api_key, pepper))
        if key is None and (key := self.keys.get(hash_key(api_key, pepper))) is not None:
            self._used[api_key, pepper] = key
        if key is None or (key.expires_at_ms is not None and key.expires_at_ms <= at_ms):
            raise errors.management_token() if api_key.startswith("hym-") else errors.invalid_api_key()
        tenant = self.tenants.get(key.tenant_id)
        if tenant is None or not tenant.enabled:
            raise errors.invalid_api_key()
        return key, tenant

    def resolve(self, name: str, key: Key, affinity: str | None = None) -> Model:
        """The model behind a name or alias; of several that share an alias, one that the key may use, by their weights.

        Raises `ApiError` 404 (unknown, or all of them disabled) or 403 (none on the key's list).
        """
        named = self.models.get(name)  # nearly all requests: no lists, and nothing to draw
        if named is not None and named.enabled and key.permits(name):
            return named
        known = self._behind(name)
        if not known:
            raise errors.model_not_found(name)
        permitted = [(model, weight) for model, weight in known if key.permits(model.name)]
        if not permitted:
            raise errors.not_permitted(name)
        enabled = [(model, weight) for model, weight in permitted if model.enabled]
        if not enabled:
            raise errors.model_disabled(name)
        return pick(enabled, affinity)

    def visible_models(self, key: Key) -> list[tuple[str, Model]]:
        """(name, model) of each model and alias that the key may use, by name; an alias with its heaviest model."""
        named: list[tuple[str, Model]] = []
        for name in sorted({*self.models, *self.aliases}):
            usable = [pair for pair in self._behind(name) if pair[0].enabled and key.permits(pair[0].name)]
            if usable:
                named.append((name, max(usable, key=lambda pair: pair[1])[0]))
        return named

    def _behind(self, name: str) -> list[tuple[Model, int]]:
        """The models behind a name, each with its weight."""
        if name in self.models:
            return [(self.models[name], 1)]
        targets = self.aliases.get(name, {})
        return [(self.models[target], weight) for target, weight in targets.items() if target in self.models]


def hash_key(api_key: str, pepper: bytes) -> str:
    """Hex HMAC-SHA-256 of an API key, as the registry stores it."""
    return hmac.digest(pepper, api_key.encode(), "sha256").hex()


def parse_snapshot(document: bytes) -> Snapshot:
    """Reads the JSON document. Raises ValueError, KeyError or TypeError when it is not one of section 2."""
    raw: dict[str, Any] = orjson.loads(document)
    return Snapshot(
        version=raw["version"],
        keys={digest: _key(entry) for digest, entry in raw["keys"].items()},
        tenants={tenant_id: _tenant(tenant_id, entry) for tenant_id, entry in raw["tenants"].items()},
        models={name: _model(name, entry) for name, entry in raw["models"].items()},
        aliases={name: dict(weights) for name, weights in raw["aliases"].items()},
        hold=HoldLimits(raw["hold"]["max_requests"], raw["hold"]["max_bytes"], raw["hold"]["deadline_s"]),
        policies={
            model: {tenant_id: ColdPolicy(**policy) for tenant_id, policy in by_tenant.items()}
            for model, by_tenant in raw.get("policies", {}).items()
        },
    )


def _limits(entry: dict[str, Any]) -> Limits:
    # Of a model, a snapshot of a registry before there were such limits has none.
    return Limits(entry.get("rpm"), entry.get("tpm"), entry.get("parallel"))


def _budgets(entry: dict[str, Any]) -> dict[str, int]:
    # A snapshot of a registry before there were budgets has none.
    return dict(entry.get("budgets", ()))


def _key(entry: dict[str, Any]) -> Key:
    return Key(
        key_id=entry["key_id"],
        tenant_id=entry["tenant_id"],
        models=frozenset(entry["models"]),
        expires_at_ms=entry["expires_at_ms"],
        limits=_limits(entry),
        sse_ping=entry["sse_ping"],
        defaults=dict(entry["defaults"]),
        ceilings=dict(entry["ceilings"]),
        budgets=_budgets(entry),
    )


def _tenant(tenant_id: str, entry: dict[str, Any]) -> Tenant:
    # Without one: the snapshot is of a registry before there were classes.
    service_class = entry.get("service_class", "standard")
    return Tenant(
        tenant_id, entry["name"], entry["enabled"], _limits(entry), entry["salt"], service_class, _budgets(entry)
    )


def _model(name: str, entry: dict[str, Any]) -> Model:
    price, provider = entry["price"], entry.get("provider")
    return Model(
        name=name,
        model_id=entry["model_id"],
        enabled=entry["enabled"],
        lane=entry["lane"],
        context_length=entry["context_length"],
        default_max_tokens=entry["default_max_tokens"],
        embedding=entry["embedding"],
        created_at_ms=entry["created_at_ms"],
        price=Price(
            price["price_id"],
            price["input_nusd"],
            price["cached_input_nusd"],
            price["output_nusd"],
            price["request_nusd"],
        ),
        limits=_limits(entry),
        provider=None if provider is None else Provider(provider["model"], provider["api_base"], provider["key_env"]),
    )
