"""Models that share an alias: by weight, steadily for one affinity, and never one that the key may not use."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateway_process import KEY, PEPPER, key_entry, model_entry, tenant_entry

from gateway.errors import ApiError
from gateway.readmodel.snapshot import Key, Snapshot, hash_key, parse_snapshot
from gateway.readmodel.splits import pick


def snapshot(*, permitted: list[str], **disabled: bool) -> tuple[Snapshot, Key]:
    """`chat` is split between `old` (9) and `new` (1), for a key with these models."""
    models = {name: model_entry(enabled=not disabled.get(name, False)) for name in ("old", "new", "other")}
    document: dict[str, Any] = {
        "version": 1, "built_at_ms": 0, "keys": {hash_key(KEY, PEPPER): key_entry(models=permitted)},
        "tenants": {"ten_1": tenant_entry()}, "models": models,
        "aliases": {"chat": {"old": 9, "new": 1, "gone": 5}, "empty": {"gone": 1}},
        "hold": {"max_requests": 1, "max_bytes": 1, "deadline_s": 1},
    }  # fmt: skip
    read = parse_snapshot(json.dumps(document).encode())
    return read, read.authenticate(KEY, PEPPER, 0)[0]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.text())
def test_one_affinity_always_gets_the_same_model(weights: list[int], affinity: str) -> None:
    weighted = list(enumerate(weights))
    assert pick(weighted, affinity) == pick(weighted, affinity)


def test_affinities_are_spread_by_weight() -> None:
    seen = Counter(pick([("old", 9), ("new", 1)], f"user-{number}") for number in range(4000))
    # Deterministic: 4000 digests. Nine in ten, within four standard deviations.
    assert abs(seen["new"] - 400) < 76


def test_requests_without_an_affinity_are_drawn_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    points = iter([0, 2**64 // 10 - 1, 2**64 // 10 + 1, 2**64 - 1])
    monkeypatch.setattr("gateway.readmodel.splits.random.randrange", lambda _bound: next(points))
    assert [pick([("new", 1), ("old", 9)], None) for _ in range(4)] == ["new", "new", "old", "old"]


def test_a_growing_canary_takes_over_and_gives_nobody_back() -> None:
    """Raising the last model's weight moves requests to it only: nobody else's model changes."""
    users = [f"user-{number}" for number in range(500)]
    before = {user: pick([("old", 90), ("new", 10)], user) for user in users}
    after = {user: pick([("old", 50), ("new", 50)], user) for user in users}
    assert all(after[user] == "new" for user in users if before[user] == "new")
    assert set(after.values()) == {"old", "new"}


def test_a_model_that_the_key_may_not_use_gets_none_of_its_requests() -> None:
    read, key = snapshot(permitted=["new"])
    assert {read.resolve("chat", key, str(number)).name for number in range(50)} == {"new"}
    read, key = snapshot(permitted=["other"])
    with pytest.raises(ApiError) as caught:
        read.resolve("chat", key)
    assert caught.value.status == 403


def test_a_disabled_model_leaves_its_share_to_the_others() -> None:
    read, key = snapshot(permitted=["*"], old=True)
    assert {read.resolve("chat", key, str(number)).name for number in range(50)} == {"new"}
    read, key = snapshot(permitted=["*"], old=True, new=True)
    with pytest.raises(ApiError) as caught:
        read.resolve("chat", key)
    assert caught.value.code == "model_disabled"


def test_an_alias_of_nothing_is_not_found_and_not_listed() -> None:
    read, key = snapshot(permitted=["*"])
    with pytest.raises(ApiError) as caught:
        read.resolve("empty", key)
    assert caught.value.status == 404
    assert [name for name, _ in read.visible_models(key)] == ["chat", "new", "old", "other"]
