"""`hydrant invoice`: as text, JSON and CSV; and what a credit or adjustment must say."""

import csv
import io
import json

from support.registry_rows import add_model, add_tenant, current_price, usage_event

from registry.ids import now_ms
from registry.months import month_of
from registry.ops.ledger import settle


def test_an_invoice_in_each_form(hydrant) -> None:
    with hydrant.sql() as session:
        add_tenant(session, "acme")
    hydrant.run("tenant", "top-up", "acme", "5", "--reason", "=HYPERLINK(1)")
    hydrant.run("tenant", "adjust", "acme", "--amount", "-0.25", "--reason", "billed twice")
    month = month_of(now_ms())
    document = hydrant.json("invoice", "acme", month)["invoice"]
    assert (document["state"], document["closing_nusd"]) == ("so far", 4_750_000_000)
    assert json.loads(hydrant.run("invoice", "acme", month, "--format", "json").stdout)["invoice"]["month"] == month
    text = hydrant.run("invoice", "acme", month).stdout
    assert "billed twice" in text
    assert "closing balance  $4.75" in text
    rows = list(csv.DictReader(io.StringIO(hydrant.run("invoice", "acme", month, "--format", "csv").stdout)))
    assert [row["section"] for row in rows] == ["opening balance", "credits", "adjustments", "closing balance"]
    assert {row["invoice"] for row in rows} == {document["number"]}
    assert f"invoice          {document['number']}" in text
    assert rows[1]["reason"] == "'=HYPERLINK(1)"
    assert rows[2]["author"].startswith("cli:")
    assert "write it as 2026-11" in hydrant.run("invoice", "acme", "November", expect=1).stderr
    assert "has not begun" in hydrant.run("invoice", "acme", "2099-01", expect=1).stderr


def test_usage_is_told_with_its_prices(hydrant) -> None:
    with hydrant.sql() as session:
        tenant, model = add_tenant(session, "acme"), add_model(session)
        settle(session, [usage_event(tenant, model, current_price(session, model))])
    month = month_of(now_ms())
    told = [line.split() for line in hydrant.run("invoice", "acme", month).stdout.splitlines()]
    assert ["smol", "$0.02", "$0.005", "$0.08", "$0.000001", "1", "100", "40", "10", "-$0.0000032"] in told
    rows = csv.DictReader(io.StringIO(hydrant.run("invoice", "acme", month, "--format", "csv").stdout))
    (line,) = (row for row in rows if row["section"] == "usage")
    names = ("input_usd_per_million", "cached_input_usd_per_million", "output_usd_per_million", "request_usd")
    assert [line[name] for name in names] == ["0.02", "0.005", "0.08", "0.000001"]


def test_an_adjustment_needs_a_reason_and_none_may_be_blank(hydrant) -> None:
    with hydrant.sql() as session:
        add_tenant(session, "acme")
    assert "--reason" in hydrant.run("tenant", "adjust", "acme", "--amount", "-1", expect=2).stderr
    for words in (("adjust", "acme", "--amount", "-1"), ("top-up", "acme", "1")):
        assert "reason must be" in hydrant.run("tenant", *words, "--reason", "  ", expect=1).stderr
    assert hydrant.json("usage", "ledger")["ledger"] == []
