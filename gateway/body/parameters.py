"""A key's own defaults and ceilings for the parameters of its requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.body.parsing import InferenceRequest
from gateway.errors import invalid_request
from gateway.readmodel.snapshot import Key, Model

MAX_TOKENS = "max_tokens"


def check_ceilings(body: Mapping[str, Any], ceilings: Mapping[str, Any]) -> None:
    """Raises `ApiError` 400 for a parameter above the key's ceiling: the client must not get less than it asked for.

    `max_tokens` is not among them: a long answer ends early, as it would at a model's own limit (`output_bound`).
    """
    for name, ceiling in ceilings.items():
        if name != MAX_TOKENS and body.get(name) is not None and body[name] > ceiling:
            raise invalid_request(f"This API key allows `{name}` up to {ceiling}.", name, "over_key_ceiling")


def output_bound(request: InferenceRequest, model: Model, key: Key) -> int:
    """The tokens one answer may have at most: what the client allows, else key or model by default; never more than
    the key's ceiling."""
    bound = request.output_bound(model.context_length, model.default_max_tokens)
    if bound and request.max_tokens is None and MAX_TOKENS in key.defaults:  # embeddings have none at all
        bound = min(int(key.defaults[MAX_TOKENS]), model.context_length)
    return min(bound, int(key.ceilings.get(MAX_TOKENS, bound)))
