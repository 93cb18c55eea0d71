"""The demo's closing document: one that a program can read, with the ledger's figures beside the engines' own."""

import json
from pathlib import Path

from support.admin_samples import add_samples

from cli.demo import Answer
from cli.demo_report import document
from registry.db import make_engine, make_session_factory, session_scope
from registry.ids import now_ms
from registry.models import Base, Usage


def test_the_report_is_one_json_document_with_what_was_billed(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/hydrant.db")
    try:
        Base.metadata.create_all(engine)
        sessions = make_session_factory(engine)
        with session_scope(sessions) as session:
            start = add_samples(session, now_ms()).cold_start.id
            cost = sum(row.cost_nusd for row in session.query(Usage))
        counters = {"grp_1": {"prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 2}}
        told = json.loads(json.dumps(document(sessions, [Answer("openai, cold", text="Paris.")], counters)))
    finally:
        engine.dispose()
    assert told["ok"] is True
    assert told["answers"][0]["text"] == "Paris."
    assert start in {one["cold_start_id"] for one in told["cold_starts"]}
    assert told["cost_nusd"] == cost
    assert told["engine_counters"] == counters
    assert sum(billed["completion_tokens"] for billed in told["billed"].values()) > 0
