"""Attempts, spool, snapshot, ids, settings and messages."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.gateway_process import KEY, PEPPER, PRICE, key_entry, model_entry, tenant_entry

from gateway.accounting.attempts import Account, Attempt, FinalEvent, Usage
from gateway.accounting.spool import WORTH_EMPTYING_BYTES, Spool
from gateway.celery_message import task_message
from gateway.errors import ApiError
from gateway.ids import new_id, request_id
from gateway.readmodel.snapshot import Price, Snapshot, hash_key, parse_snapshot
from gateway.settings import SettingsError, load_settings

ACCOUNT = Account("req_1", "ten_1", "key_1", "m", "mod_1", Price(**PRICE), "direct", "/v1/completions", False, "gw_1")


def attempt(**changes: Any) -> Attempt:
    return Attempt(ACCOUNT, reserved_nusd=10_000, counted_tokens=500, started_at_ms=1, **changes)


def test_a_cost_counts_cached_tokens_at_their_own_price() -> None:
    assert Usage(100, 40, 7).cost_nusd(Price("p", 10, 5, 40, 3)) == 60 * 10 + 40 * 5 + 7 * 40 + 3


def test_what_was_delivered_is_what_is_owed() -> None:
    one = attempt(group_id="g")
    one.deliver(Usage(7, 0, 3))
    event = one.final("client_closed")
    assert event.reserved_nusd == 7 * 10 + 3 * 40 + 100
    assert event.surplus_tokens == 490
    assert orjson.loads(event.body)["first_token_at_ms"] is not None


@pytest.mark.parametrize("outcome", ["client_closed", "upstream_error"])
def test_nothing_delivered_is_nothing_owed(outcome: str) -> None:
    one = attempt(group_id="g")
    one.deliver(Usage(7, 0, 0))
    event = one.final(outcome)
    assert event.reserved_nusd == orjson.loads(event.body)["prompt_tokens"] == 0
    assert event.surplus_tokens == 500


def test_an_event_has_exactly_the_documented_fields() -> None:
    text = (Path(__file__).parents[3] / "docs/interfaces.md").read_text()
    documented = text.split("The event:")[1].split("{")[1].split("}")[0]
    names = {part.split('"')[1] for part in documented.split(",") if part.strip().startswith('"')}
    names -= {"upstream_error", "gateway_lost"}
    assert set(orjson.loads(attempt().final("ok").body)) == names


def test_the_open_record_has_no_outcome() -> None:
    assert "outcome" not in json.loads(attempt().record())


def event_of(name: str) -> FinalEvent:
    body = {"attempt_id": name, "tenant_id": "ten_1", "key_id": "key_1", "reserved_nusd": 5}
    return FinalEvent(name, "ten_1", ("hyd:slots:key:key_1",), ("hyd:rate:key:key_1",), 9, 5, orjson.dumps(body))


def test_a_spool_keeps_what_is_not_published(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "gw_1")
    spool.append(event_of("a"))
    spool.append(event_of("b"))
    spool.published("a")
    assert [FinalEvent.from_line(line) for line in (tmp_path / "gw_1.jsonl").read_bytes().splitlines()] == [
        event_of("a"), event_of("b"),
    ]  # fmt: skip
    spool.tidy()
    assert len((tmp_path / "gw_1.jsonl").read_bytes().splitlines()) == 2
    spool.published("b")
    spool.tidy()
    assert (tmp_path / "gw_1.jsonl").read_bytes() == b""
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_has_grown_is_emptied_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "gw_1")
    for number in range(WORTH_EMPTYING_BYTES // len(event_of("0000").to_line()) + 1):
        spool.append(event_of(f"{number:04}"))
        spool.append(event_of("last"))
        spool.published(f"{number:04}")
    assert (tmp_path / "gw_1.jsonl").stat().st_size > WORTH_EMPTYING_BYTES
    spool.published("last")
    assert (tmp_path / "gw_1.jsonl").read_bytes() == b""
    spool.close()


def test_a_spool_of_a_living_process_is_left_alone_and_of_a_dead_one_adopted(tmp_path: Path) -> None:
    living, other = Spool(tmp_path, "gw_living"), Spool(tmp_path, "gw_new")
    living.append(event_of("mine"))
    dead = event_of("dead").to_line()
    (tmp_path / "gw_dead.jsonl").write_bytes(dead + b'{"event": {"attempt_')
    assert other.adopt() == [event_of("dead")]
    assert not (tmp_path / "gw_dead.jsonl").exists()
    assert (tmp_path / "gw_new.jsonl").read_bytes() == dead
    assert other.adopt() == []
    living.close()
    other.published("dead")
    other.close()


def test_two_that_start_at_once_adopt_a_dead_ones_events_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gw_dead.jsonl").write_bytes(event_of("dead").to_line())
    first, second = Spool(tmp_path, "gw_1"), Spool(tmp_path, "gw_2")
    really_open, adopted = os.open, []

    def open_late(path: Any, *arguments: Any) -> int:
        file = really_open(path, *arguments)
        if Path(path).name == "gw_dead.jsonl" and not adopted:
            adopted.append("begun")
            adopted.extend(first.adopt())
        return file

    monkeypatch.setattr(os, "open", open_late)
    assert second.adopt() == []
    assert adopted == ["begun", event_of("dead")]


def test_a_spool_that_was_just_made_is_not_lost_to_another_that_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Spool(tmp_path, "gw_1")
    really_lock, calls = fcntl.flock, []

    def lock_late(file: int, operation: int) -> None:
        calls.append(file)
        if len(calls) == 1:
            other.adopt()
        really_lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    spool = Spool(tmp_path, "gw_new")
    spool.append(event_of("mine"))
    assert (tmp_path / "gw_new.jsonl").read_bytes() == event_of("mine").to_line()
    assert len(calls) == 3


def test_an_event_survives_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from gateway.accounting.spool import Spool\n"
        "from gateway.accounting.attempts import FinalEvent\n"
        "s = Spool(Path(sys.argv[1]), 'gw_killed')\n"
        'body = b\'{"attempt_id":"a","tenant_id":"t","reserved_nusd":0}\'\n'
        "s.append(FinalEvent('a', 't', (), (), 2, 0, body))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    spool = Spool(tmp_path, "gw_next")
    assert [event.attempt_id for event in spool.adopt()] == ["a"]
    spool.published("a")
    spool.close()


def test_a_forked_process_makes_ids_of_its_own() -> None:
    new_id("")
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, ",".join(new_id("") for _ in range(100)).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        theirs = {one[10:] for one in answer.read().decode().split(",")}
    os.waitpid(child, 0)
    assert len(theirs) == 100
    assert theirs.isdisjoint(new_id("")[10:] for _ in range(100))


def snapshot(**changes: Any) -> Snapshot:
    document = {
        "version": 1, "built_at_ms": 0, "keys": {hash_key(KEY, PEPPER): key_entry()},
        "tenants": {"ten_1": tenant_entry()}, "models": {"m": model_entry()}, "aliases": {"short": {"m": 1}},
        "hold": {"max_requests": 1, "max_bytes": 1, "deadline_s": 1},
    } | changes  # fmt: skip
    return parse_snapshot(json.dumps(document).encode())


def test_a_key_lives_until_its_moment_of_expiry() -> None:
    read = snapshot(keys={hash_key(KEY, PEPPER): key_entry(expires_at_ms=100)})
    assert read.authenticate(KEY, PEPPER, 99)[0].key_id == "key_1"
    with pytest.raises(ApiError):
        read.authenticate(KEY, PEPPER, 100)


def test_a_key_that_has_been_used_is_known_in_its_snapshot_only_and_ends_all_the_same() -> None:
    read = snapshot(keys={hash_key(KEY, PEPPER): key_entry(expires_at_ms=100)})
    for _ in range(2):
        assert read.authenticate(KEY, PEPPER, 99)[0].key_id == "key_1"
        with pytest.raises(ApiError):
            read.authenticate(KEY + "x", PEPPER, 99)
    with pytest.raises(ApiError):
        read.authenticate(KEY, PEPPER, 100)
    assert KEY not in repr(read)
    with pytest.raises(ApiError):
        snapshot(keys={}).authenticate(KEY, PEPPER, 99)


def test_a_key_of_a_disabled_tenant_is_invalid() -> None:
    with pytest.raises(ApiError):
        snapshot(tenants={"ten_1": tenant_entry(enabled=False)}).authenticate(KEY, PEPPER, 0)


@pytest.mark.parametrize(("allowed", "asked", "fine"), [
    (["*"], "short", True), (["m"], "short", True), (["m"], "m", True), (["short"], "short", False), ([], "m", False),
])  # fmt: skip
def test_permission_is_by_the_model_whatever_it_is_called(allowed: list[str], asked: str, fine: bool) -> None:
    read = snapshot(keys={hash_key(KEY, PEPPER): key_entry(models=allowed)})
    key, _ = read.authenticate(KEY, PEPPER, 0)
    if fine:
        assert read.resolve(asked, key).name == "m"
    else:
        with pytest.raises(ApiError) as caught:
            read.resolve(asked, key)
        assert caught.value.status == 403


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for time_ms in (0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1):
        monkeypatch.setattr("gateway.ids.now_ms", lambda time_ms=time_ms: time_ms)
        ids.append(new_id("att_"))
    assert ids == sorted(ids)
    assert {len(one) for one in ids} == {30}


def test_ids_of_one_moment_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ids.now_ms", lambda: 5)
    assert len({new_id("att_") for _ in range(100)}) == 100


def test_request_ids_are_checked() -> None:
    assert request_id(b"abc-1:2") == "abc-1:2"
    for insane in (None, b"", b"a b", b"x" * 129, b"a\r\nset-cookie: x", "é".encode()):
        assert request_id(insane).startswith("req_")


def test_missing_secrets_and_wrong_numbers_are_named() -> None:
    good = {"HYDRANT_KEY_PEPPER": "p", "HYDRANT_HOSTED_SECRET": "s", "HYDRANT_HOME": "/h"}
    settings = load_settings(good)
    assert (settings.port, settings.redis_url, settings.hosted_url) == (
        8400,
        "unix:///h/redis.sock",
        "http://127.0.0.1:8402",
    )
    for name in ("HYDRANT_KEY_PEPPER", "HYDRANT_HOSTED_SECRET"):
        with pytest.raises(SettingsError, match=name):
            load_settings({key: value for key, value in good.items() if key != name})
    with pytest.raises(SettingsError, match="HYDRANT_GATEWAY_PORT"):
        load_settings(good | {"HYDRANT_GATEWAY_PORT": "high"})


def test_a_task_message_carries_the_arguments() -> None:
    message = json.loads(task_message("control", "control.scale", ["m"]))
    assert json.loads(base64.b64decode(message["body"]))[0] == ["m"]
    assert message["headers"]["task"] == "control.scale"


def test_the_gateway_imports_neither_litellm_nor_celery_nor_an_orm() -> None:
    code = (
        "import sys, gateway.app; "
        "bad = {'litellm', 'celery', 'kombu', 'sqlalchemy', 'httpx', 'openai', 'starlette'} & set(sys.modules); "
        "print(bad); sys.exit(bool(bad))"
    )
    environ = {"PATH": os.environ["PATH"]}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
