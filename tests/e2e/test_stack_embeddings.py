"""An embedding model that sleeps: started as one worker, answered, billed, and its start told like any other."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from support.stack import Stack, wait_for

from registry.models import ColdStart

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_a_cold_embedding_model_answers_and_is_billed(stack: Stack, tiny: Callable[..., str]) -> None:
    stack.evict_all()
    model_id = tiny("vectors", embedding=True, slo_ttft_ms=1000)
    request_id = f"test-{uuid.uuid4().hex}"
    with stack.client(timeout=180, max_retries=0) as client:
        answer = client.embeddings.create(
            model="vectors", input=["a cat", "a dog"], extra_headers={"x-request-id": request_id}
        )
    assert [len(one.embedding) for one in answer.data] == [64, 64]
    assert len(stack.groups(model_id)[0].stages) == 1, "SGLang pools in one process: never a pipeline, however urgent"
    stack.balance_books()
    (row,) = stack.rows_of(request_id)
    assert (row.prompt_tokens, row.completion_tokens) == (answer.usage.prompt_tokens, 0)
    assert (row.outcome, row.cost_nusd) == ("ok", 20 * answer.usage.prompt_tokens)
    assert row.cold_start_id is not None
    wait_for("the first answer's time", lambda: stack.row(ColdStart, row.cold_start_id).first_token_at_ms, 30)
