"""What the gateway holds back for an attempt is what the ledger will charge for it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.attempts import Account, Attempt, Usage
from gateway.readmodel.snapshot import Price
from registry import models
from registry.ops.ledger import UsageEvent, cost_nusd

AMOUNT = st.integers(0, 10**9)
# Of an engine's usage: the cached tokens are part of the prompt.
USAGES = st.builds(
    lambda uncached, cached, completion: Usage(uncached + cached, cached, completion),
    st.integers(0, 10**6), st.integers(0, 10**6), st.one_of(st.just(0), st.integers(0, 10**6)),
)  # fmt: skip
PRICES = st.builds(Price, st.just("prc_1"), AMOUNT, AMOUNT, AMOUNT, AMOUNT)


@pytest.mark.parametrize("outcome", ["ok", "client_closed", "upstream_error", "gateway_stopped"])
@given(usage=USAGES, price=PRICES)
def test_gateway_and_ledger_agree_on_every_cost(outcome: str, usage: Usage, price: Price) -> None:
    account = Account("req_1", "ten_1", "key_1", "m", "mod_1", price, "direct", "/v1/completions", False, "gw_1")
    attempt = Attempt(account, reserved_nusd=10**18, counted_tokens=0, started_at_ms=1, group_id="grp_1")
    attempt.deliver(usage)
    final = attempt.final(outcome)
    event = UsageEvent.model_validate_json(final.body)
    charged = cost_nusd(
        event,
        models.Price(
            id=price.price_id,
            input_nusd=price.input_nusd,
            cached_input_nusd=price.cached_input_nusd,
            output_nusd=price.output_nusd,
            request_nusd=price.request_nusd,
        ),
    )
    assert final.reserved_nusd == orjson.loads(final.body)["reserved_nusd"] == charged
    if outcome == "ok":
        assert charged == usage.cost_nusd(price)
