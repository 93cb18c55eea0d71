"""The most that a request can use and cost on a model: what admission reserves. Pure."""

from __future__ import annotations

from gateway.body.parsing import PROVIDER_TEMPLATE_TOKENS, InferenceRequest
from gateway.readmodel.snapshot import Model


def cost_bound(request: InferenceRequest, model: Model, max_tokens: int) -> tuple[int, int]:
    """(tokens, nano-dollars), prompt and all answers together, each of `max_tokens` at most."""
    price, context = model.price, model.context_length
    prompt = request.prompt_bound(context)
    if model.provider is not None:
        prompt = min(prompt + PROVIDER_TEMPLATE_TOKENS, request.prompts * context)
    output = request.choices * max_tokens
    dearest = max(price.input_nusd, price.cached_input_nusd)
    return prompt + output, prompt * dearest + output * price.output_nusd + price.request_nusd
