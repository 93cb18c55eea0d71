"""What SGLang takes in and gives away at its HTTP border, where as published it would die of it, or tell too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def only_known_tokens(original: Callable[..., Any], manager: Any, request: Any, input_ids: Any) -> Any:
    """Refuses a token id that the model does not have.

    SGLang 0.5.23 looks it up all the same: the scheduler dies of it, and with it every tenant's requests.
    """
    size = manager.model_config.vocab_size
    if request.input_ids is not None and input_ids and not 0 <= min(input_ids) <= max(input_ids) < size:
        raise ValueError(f"A token id is not of this model's vocabulary, which has ids from 0 to {size - 1}.")
    return original(manager, request, input_ids)


def only_what_it_does(original: Callable[..., Any], manager: Any, request: Any, input_ids: Any) -> Any:
    """Refuses to generate with an embedding model, as SGLang refuses the reverse.

    SGLang 0.5.23 tries: the scheduler dies of it. The gateway sends no such request, but an engine's port is its own.
    """
    if type(request).__name__ == "GenerateReqInput" and not manager.is_generation:
        raise ValueError("This model makes embeddings only; ask it at /v1/embeddings.")
    return original(manager, request, input_ids)


def without_path(original: Callable[..., Any], manager: Any, *args: Any) -> Any:
    """A refusal of `dimensions` that names the model as clients know it, not where its files lie."""
    try:
        return original(manager, *args)
    except ValueError as error:
        name = str(manager.served_model_name)
        raise ValueError(str(error).replace(manager.model_config.model_path, name)) from None


def named_as_served(answer: Any, serving: Any, *args: Any, **kwargs: Any) -> Any:
    """An answer with embeddings that names the model as clients know it, not where its files lie."""
    answer.model = serving.tokenizer_manager.served_model_name
    return answer
