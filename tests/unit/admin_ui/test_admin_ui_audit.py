"""The audit log: names for ids, words and units for what changed."""

import re

from support.admin_app import AdminApp
from support.admin_samples import Samples

from admin_ui.read.audit import audit_lines
from registry.db import read_scope, session_scope
from registry.ops import audit, budgets, keys, models, prices


def told(admin: AdminApp, subject: str) -> dict[str, dict[str, str]]:
    """Action -> the details of its latest entry, as the page shows them."""
    with read_scope(admin.sessions) as session:
        lines = audit_lines(session, audit.list_entries(session, subject=subject)[::-1])
    return {line.entry.action: dict(line.detail) for line in lines}


def test_subjects_and_what_details_mention_are_named_also_when_deleted(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    page = client.get("/audit").text
    for name in ("qwen3-8b", "Acme Robotics", "website chat", "owner@example.org"):
        assert re.search(rf'title="(mod|ten|key|adm)_\w+">{name}</a>', page), name
    assert told(admin, samples.key_id)["key.create"]["tenant"] == "Acme Robotics"
    with session_scope(admin.sessions) as session:
        models.delete_model(session, "t", models.find_model(session, "qwen3-8b").id, stop=True)
    assert ">qwen3-8b</a>" in client.get("/audit").text
    assert "<strong>website chat</strong>" in client.get(f"/audit?subject={samples.key_id}").text


def test_details_are_words_and_units_and_nothing_new_is_told_to_be_unset(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        model_id = samples.model.id
        prices.set_price(session, "t", model_id, input_nusd=20, output_nusd=80, gpu_second_nusd=800_000)
        models.update_model(session, "t", model_id, rpm=None, keep_alive_s=900, settings={"tool_parser": "hermes"})
        budgets.set_budget(session, "t", samples.key_id, "day", amount_nusd=2 * 10**9, hard=False)
        keys.update_key(session, "t", samples.key_id, models=["*"], defaults={}, ceilings={"max_tokens": 512})
    of_model, of_key = told(admin, samples.model.id), told(admin, samples.key_id)
    price = of_model["price.set"]
    assert (price["input"], price["output"], price["gpu second"]) == ("$0.02 / M tokens", "$0.08 / M tokens", "$0.0008")
    assert of_model["model.update"] == {"rpm": "none", "keep alive": "15 min", "settings": "tool parser hermes"}
    assert of_model["model.register"]["kv reserve"] == "524 kB"
    assert of_key["budget.set"] == {"period": "day", "amount": "$2.00", "alert percent": "80", "hard": "no"}
    assert of_key["key.update"] == {"models": "all", "defaults": "none", "ceilings": "max tokens 512"}
    assert of_key["key.create"].keys() == {"tenant", "name", "prefix", "models"}
