"""`hydrant coldstart show` tells what a start has cost, and who waited for it."""

from support.priced_starts import add_start, waiter
from support.registry_rows import add_model, add_tenant, current_price

from registry.ids import now_ms
from registry.ops import group_costs, ledger


def test_the_cost_of_a_start_is_shown_before_and_after_it_is_split(hydrant) -> None:
    with hydrant.sql() as session:
        tenant, model = add_tenant(session), add_model(session, gpu_second_nusd=250_000, charge_cold_starts=True)
        price = current_price(session, model)
        price.from_ms = 0
        session.flush()
        group = add_start(session, model)
        ledger.settle(session, [waiter(group, tenant, model, price)])
    assert hydrant.json("coldstart", "show", model.name)["cost"]["startup_gpu_us"] is None
    assert "start cost" not in hydrant.run("coldstart", "show", model.name).stdout
    with hydrant.sql() as session:
        group_costs.complete(session, now_ms(), split_before_ms=0, awaited={})
    assert "not known yet" in hydrant.run("coldstart", "show", model.name).stdout
    with hydrant.sql() as session:
        group_costs.complete(session, now_ms(), split_before_ms=now_ms(), awaited={})
    text = hydrant.run("coldstart", "show", model.name).stdout
    assert "4.000 GPU s, $0.001" in text
    assert "1 request\n" in text
    cost = hydrant.json("coldstart", "show", model.name)["cost"]
    assert [(one["tenant"], one["cost_nusd"], one["charged"]) for one in cost["shares"]] == [("acme", 1_000_000, True)]
    (entry, _usage) = hydrant.json("usage", "ledger")["ledger"]
    assert (entry["cold_start_id"], entry["kind"], entry["amount_nusd"]) == (group.cold_start_id, "settle", -1_000_000)
