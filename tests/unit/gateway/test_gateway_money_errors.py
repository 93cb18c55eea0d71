"""What a client is told whose money does not cover a request."""

import pytest

from gateway.errors import insufficient_quota, over_budget


@pytest.mark.parametrize(
    ("nusd", "text"), [(1_000, "($0.000001)"), (20_000_000_000, "($20.00)"), (1_234_500_000_000, "($1234.50)")]
)
def test_a_budget_is_told_as_it_is(nusd: int, text: str) -> None:
    assert text in over_budget("key", "total", nusd, None, 0, left_nusd=0, cost_nusd=1, busy=False).message


def test_no_sdk_repeats_what_money_does_not_cover() -> None:
    for refusal in (
        insufficient_quota(),
        over_budget("tenant", "day", 1, 1_000, 0, left_nusd=0, cost_nusd=1, busy=False),
    ):
        assert (b"x-should-retry", b"false") in refusal.headers
