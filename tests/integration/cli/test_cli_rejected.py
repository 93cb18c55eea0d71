"""`hydrant usage rejected`: what could not be billed is seen, and settled once its cause is mended."""

from support.registry_rows import USAGE_EVENT_COST_NUSD, add_model, add_tenant, current_price, usage_event

from registry.models import Price
from registry.ops import ledger


def test_a_rejected_event_is_listed_and_settled_after_its_cause_was_mended(hydrant) -> None:
    assert hydrant.json("usage", "rejected") == {"rejected": []}
    assert "could not be billed" not in hydrant.run("status").stdout
    with hydrant.sql() as session:
        tenant, model = add_tenant(session), add_model(session)
        price = current_price(session, model)
        event = usage_event(tenant, model, price, price_id="pri_lost")
        ledger.settle(session, [event])
        amounts = {
            name: getattr(price, name) for name in ("input_nusd", "cached_input_nusd", "output_nusd", "request_nusd")
        }
        model_id = model.id
    (found,) = hydrant.json("usage", "rejected")["rejected"]
    assert found["attempt_id"] == event["attempt_id"]
    assert found["event"] == event
    listed = hydrant.run("usage", "rejected").stdout
    assert "price_id pri_lost does not exist" in listed
    assert found["digest"][:16] in listed
    assert "1 usage event could not be billed: hydrant usage rejected" in hydrant.run("status").stdout
    assert hydrant.json("status")["rejected_usage"] == 1

    refused = hydrant.run("usage", "rejected", "--retry", found["digest"][:16], expect=1)
    assert "price_id pri_lost does not exist" in refused.stderr
    with hydrant.sql() as session:
        session.add(Price(id="pri_lost", model_id=model_id, from_ms=0, created_at_ms=0, **amounts))
    assert hydrant.json("usage", "rejected", "--retry", found["digest"][:16]) == {"settled": [event["attempt_id"]]}
    assert hydrant.json("usage", "rejected") == {"rejected": []}
    assert hydrant.json("usage", "totals")["totals"]["cost_nusd"] == USAGE_EVENT_COST_NUSD
    with hydrant.redis.client() as client:
        assert client.hget("hyd:balance", event["tenant_id"]) == str(-USAGE_EVENT_COST_NUSD)


def test_a_digest_that_names_nothing(hydrant) -> None:
    assert "see: hydrant usage rejected" in hydrant.run("usage", "rejected", "--retry", "%", expect=1).stderr
