"""Rows that many tests of money and models need: a tenant, a priced model, a usage event."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session
from support.safetensors_writer import llama_tensors

from registry.ids import new_id
from registry.manifest import ManifestDoc, TensorDoc, load_order
from registry.models import Model, Price, Tenant
from registry.ops import models, prices, tenants


def small_manifest(layers: int = 4) -> ManifestDoc:
    """A manifest without files behind it: for tests that never read weights."""
    offset = 0
    tensors: list[TensorDoc] = []
    for name, (dtype, shape, data) in llama_tensors(layers=layers).items():
        end = offset + len(data)
        tensors.append(
            {"name": name, "file": "m", "begin": offset, "end": end, "dtype": dtype, "shape": shape, "sha256": "0" * 64}
        )
        offset = end
    return {
        "format": 1,
        "architecture": "LlamaForCausalLM",
        "layers": layers,
        "hidden_size": 8,
        "vocab_size": 32,
        "dtype": "float16",
        "tied_embeddings": False,
        "context_length": 4096,
        "kv_bytes_per_token": 64,
        "weight_bytes": offset,
        "max_stages": 4,
        "tensors": load_order(tensors),
        "files": [],
    }


def add_model(session: Session, name: str = "smol", **options: Any) -> Model:
    """A registered model: 20 nano-dollars an input token, 5 a cached one, 80 an output token, 1000 a request."""
    amounts = {"input_nusd": 20, "cached_input_nusd": 5, "output_nusd": 80, "request_nusd": 1000}
    return models.register_model(
        session, "tester", name=name, source="/models/smol", manifest=small_manifest(), **{**amounts, **options}
    )


def add_tenant(session: Session, name: str = "acme") -> Tenant:
    """An enabled tenant without limits."""
    return tenants.create_tenant(session, "tester", name=name)


def usage_event(tenant: Tenant, model: Model, price: Price, **changes: Any) -> dict[str, Any]:
    """A finished attempt: 100 prompt tokens (40 cached) and 10 completion tokens. It costs 3200 nano-dollars."""
    return {
        "attempt_id": new_id("att"),
        "request_id": "req-1",
        "tenant_id": tenant.id,
        "key_id": "key_1",
        "model": model.name,
        "model_id": model.id,
        "price_id": price.id,
        "group_id": "grp_1",
        "cold_start_id": None,
        "gateway_id": "gw-1",
        "lane": "direct",
        "endpoint": "/v1/chat/completions",
        "stream": True,
        "prompt_tokens": 100,
        "cached_tokens": 40,
        "completion_tokens": 10,
        "reserved_nusd": 5000,
        "outcome": "ok",
        "started_at_ms": 1_000,
        "first_token_at_ms": 1_500,
        "ended_at_ms": 2_000,
        "held_ms": 300,
        **changes,
    }


USAGE_EVENT_COST_NUSD = 60 * 20 + 40 * 5 + 10 * 80 + 1000


def current_price(session: Session, model: Model) -> Price:
    """The price of a model that was set last."""
    return prices.list_prices(session, model.id)[0]
