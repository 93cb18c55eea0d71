"""The main job on the database of production: cold start, consolidation under a stream, scale to zero, the bill."""

from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.asking import Ask
from support.stack import URGENT_MS, Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAME = "smollm2-on-postgres"
LONG = 250
"""Tokens: the stream outlives the growth of the standalone worker beside it."""


def test_main_path_on_postgres(stack_on_postgres: Stack, smollm2: Path) -> None:
    stack = stack_on_postgres
    assert make_url(stack.settings.database_url.get_secret_value()).get_backend_name() == "postgresql"
    files = [path for path in stack.home.iterdir() if path.is_file()]
    assert not [path for path in files if path.read_bytes().startswith(b"SQLite")], (
        "something writes to SQLite beside it"
    )
    model = stack.register(NAME, smollm2, slo_ttft_ms=URGENT_MS, keep_alive_s=600)
    long = Ask(stack, NAME, LONG)
    long.begun()
    heir = wait_for("the standalone worker", lambda: stack.group_in(model, "standalone"), 120)
    (pipeline,) = [group for group in stack.groups(model) if group.id == heir.parent_id]
    assert [(s.first_layer, s.layer_count) for s in pipeline.stages] == [(0, 15), (15, 15)]
    long.answered()
    after = Ask(stack, NAME).answered()
    for asked in (long, after):
        asked.billed_once()
    served_by = [row.group_id for row in stack.settled(model, 2)]
    assert served_by == [pipeline.id, heir.id]
    counted = stack.counters(heir)
    assert counted is not None
    assert counted["completion_tokens"] == after.delivered
    stack.set_model(model, keep_alive_s=1)
    wait_for("scale to zero", lambda: stack.all_over(model), 60)
