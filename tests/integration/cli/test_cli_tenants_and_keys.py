"""Tenants, money, keys and users: what is changed is stored, published, audited, and secrets are seen once."""

import pytest
from sqlalchemy import select
from support.registry_rows import add_model, add_tenant, current_price, usage_event

from registry.models import Audit
from registry.ops import ledger
from registry.snapshot import key_digest


def test_a_tenant_from_creation_to_lock_out(hydrant) -> None:
    made = hydrant.json("tenant", "create", "acme", "--rpm", "60", "--parallel", "4")["tenant"]
    assert (made["name"], made["rpm"], made["tpm"], made["parallel"]) == ("acme", 60, None, 4)
    assert hydrant.snapshot()["tenants"][made["tenant_id"]]["rpm"] == 60

    hydrant.run("tenant", "update", "acme", "--rpm", "none", "--tpm", "1000", "--name", "acme corp")
    shown = hydrant.json("tenant", "show", made["tenant_id"])["tenant"]
    assert (shown["name"], shown["rpm"], shown["tpm"], shown["parallel"]) == ("acme corp", None, 1000, 4)

    assert shown["class"] == "standard"

    hydrant.run("tenant", "update", "acme corp", "--class", "fast")
    assert hydrant.snapshot()["tenants"][made["tenant_id"]]["service_class"] == "fast"
    assert "fast" in hydrant.run("tenant", "list").stdout
    assert hydrant.run("tenant", "update", "acme corp", "--class", "platinum", expect=2).exit_code == 2

    hydrant.run("tenant", "disable", "acme corp")
    assert hydrant.snapshot()["tenants"] == {}
    hydrant.run("tenant", "enable", "acme corp")
    assert list(hydrant.snapshot()["tenants"]) == [made["tenant_id"]]
    with hydrant.sql() as session:
        entries = session.scalars(select(Audit).order_by(Audit.id)).all()
    assert [entry.action for entry in entries] == [
        "tenant.create",
        "tenant.update",
        "tenant.update",
        "tenant.disable",
        "tenant.enable",
    ]
    assert all(entry.actor.startswith("cli:") for entry in entries)


def test_money_is_exact_and_the_gateways_learn_the_balance(hydrant) -> None:
    tenant_id = hydrant.json("tenant", "create", "acme")["tenant"]["tenant_id"]
    assert hydrant.json("tenant", "top-up", "acme", "12.000000001")["balance_nusd"] == 12_000_000_001
    adjusted = hydrant.json("tenant", "adjust", "acme", "--amount", "-2", "--reason", "billed twice")
    assert adjusted["balance_usd"] == "10.000000001"
    with hydrant.redis.client() as client:
        assert client.hget("hyd:balance", tenant_id) == "10000000001"
    entries = hydrant.json("usage", "ledger", "--tenant", "acme")["ledger"]
    assert [(e["kind"], e["amount_nusd"], e["reason"]) for e in entries] == [
        ("adjust", -2_000_000_000, "billed twice"),
        ("top_up", 12_000_000_001, "top-up"),
    ]
    assert hydrant.json("tenant", "list")["tenants"][0]["balance_usd"] == "10.000000001"
    assert "billed twice" in hydrant.run("tenant", "show", "acme").stdout


def test_a_key_works_at_once_is_seen_once_and_ends_at_once(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    made = hydrant.run("key", "create", "acme", "--name", "laptop", "--rpm", "5", "--expires-in", "30d")
    plaintext = made.stdout.strip()
    assert plaintext.startswith("hyd-")
    assert plaintext not in made.stderr
    (digest,) = hydrant.snapshot()["keys"]
    assert digest == key_digest(_pepper(hydrant), plaintext)

    listed = hydrant.json("key", "list")["keys"]
    assert [(k["name"], k["rpm"], k["state"], k["models"]) for k in listed] == [("laptop", 5, "live", ["*"])]
    hydrant.run("key", "list", "--all")
    hydrant.run("tenant", "show", "acme")
    hydrant.run("status")
    hydrant.run("key", "revoke", plaintext)  # pasted whole by mistake
    assert hydrant.snapshot()["keys"] == {}
    assert hydrant.json("key", "list")["keys"] == []
    assert [k["state"] for k in hydrant.json("key", "list", "--all")["keys"]] == ["revoked"]

    secret = plaintext.split("-", 2)[2]
    assert sum(text.count(secret) for text in hydrant.printed) == 1
    assert all(secret.encode() not in path.read_bytes() for path in hydrant.home.rglob("*") if path.is_file())
    with hydrant.redis.client() as client:
        assert secret not in str(client.get("hyd:snapshot"))


def _pepper(hydrant) -> str:
    from registry.settings import load_settings

    return load_settings().key_pepper.get_secret_value()


def test_rotation_leaves_the_old_key_as_long_as_asked(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    first = hydrant.json("key", "create", "acme", "--name", "ci")
    second = hydrant.json("key", "rotate", first["key"]["prefix"], "--overlap", "1h")
    assert second["plaintext"] != first["plaintext"]
    assert len(hydrant.snapshot()["keys"]) == 2
    third = hydrant.json("key", "rotate", second["key"]["key_id"])
    assert second["plaintext"] not in hydrant.run("key", "list", "--all").stdout
    live = {k["key_id"] for k in hydrant.json("key", "list")["keys"]}
    assert live == {first["key"]["key_id"], third["key"]["key_id"]}


def test_a_management_token_is_seen_once_and_ends_at_once(hydrant) -> None:
    made = hydrant.json("token", "create", "ci", "--role", "operator", "--expires-in", "90d")
    token, plaintext = made["token"], made["plaintext"]
    assert plaintext.startswith(f"hym-{token['prefix']}-")
    assert token["created_by"].startswith("cli:")
    listed = hydrant.run("token", "list").stdout
    assert token["prefix"] in listed
    assert plaintext not in listed
    hydrant.run("token", "revoke", plaintext)  # pasted whole by mistake: taken for its prefix
    assert hydrant.json("token", "list")["tokens"] == []
    assert hydrant.json("token", "list", "--all")["tokens"][0]["state"] == "revoked"
    wrong = hydrant.run("token", "revoke", "hym-zzzzzzzz-" + "s" * 43, expect=1)
    assert "no management token" in wrong.stderr
    assert "sss" not in wrong.stderr


def test_a_users_one_time_password_is_seen_once_and_works(hydrant) -> None:
    from registry.ops.admins import authenticate

    made = hydrant.run("user", "create", "Ada@Example.org", "--role", "owner")
    password = made.stdout.strip()
    assert password not in made.stderr
    with hydrant.sql() as session:
        found = authenticate(session, "ada@example.org", password)
        assert found is not None
        assert found.must_change
    refused = hydrant.json("user", "set-role", "ada@example.org", "viewer", expect=1)
    assert "last owner" in refused["error"]["message"]
    hydrant.run("user", "create", "bob@example.org", "--role", "viewer")
    hydrant.run("user", "set-role", "bob@example.org", "owner")
    hydrant.run("user", "disable", "ada@example.org")
    assert [u["enabled"] for u in hydrant.json("user", "list")["users"]] == [False, True]
    hydrant.run("user", "enable", "ada@example.org")
    reset = hydrant.json("user", "reset-password", "ada@example.org")["one_time_password"]
    assert reset != password
    with hydrant.sql() as session:
        assert authenticate(session, "ada@example.org", password) is None
        assert authenticate(session, "ada@example.org", reset) is not None
    hydrant.run("user", "list")
    assert sum(text.count(password) + text.count(reset) for text in hydrant.printed) == 2


def test_with_redis_away_the_change_is_kept_and_a_warning_says_so(hydrant) -> None:
    hydrant.run("tenant", "create", "first")
    hydrant.redis.kill()
    result = hydrant.run("tenant", "create", "second")
    assert "created tenant second" in result.stdout
    assert "when Redis is back" in result.stderr
    document = hydrant.json("tenant", "top-up", "second", "5")
    assert document["balance_usd"] == "5.00"
    assert len(document["warnings"]) == 1
    hydrant.redis.start()
    hydrant.run("tenant", "update", "second", "--rpm", "9")
    assert len(hydrant.snapshot()["tenants"]) == 2


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["tenant", "create", "acme"], 1, "choose another name"),
        (["tenant", "create", " "], 1, "name must be"),
        (["tenant", "create", "x", "--rpm", "0"], 2, "none to lift"),
        (["tenant", "show", "nobody"], 1, "there is no tenant 'nobody'"),
        (["tenant", "update", "acme"], 2, "nothing to change"),
        (["tenant", "top-up", "acme", "0"], 1, "amount must be"),
        (["tenant", "top-up", "acme", "1e99"], 2, "amount must be at most $1000000000.00"),
        (["tenant", "top-up", "acme", "much"], 2, "such as 12.50"),
        (["tenant", "adjust", "acme", "--amount", "0", "--reason", "r"], 1, "must not be zero"),
        (["tenant", "adjust", "acme", "--amount", "1", "--reason", ""], 1, "reason must be"),
        (["tenant", "adjust", "acme", "--amount", "1"], 2, "--reason"),
        (["key", "create", "nobody", "--name", "k"], 1, "there is no tenant"),
        (["key", "create", "acme", "--name", "k", "--model", "nope"], 1, "there is no model 'nope'"),
        (["key", "create", "acme", "--name", "k", "--expires-at", "2001-01-01"], 1, "future"),
        (["key", "create", "acme", "--name", "k", "--expires-at", "2999-01-01", "--expires-in", "1h"], 2, "not both"),
        (["key", "create", "acme", "--name", "k", "--expires-in", "soon"], 2, "such as 90s"),
        (["key", "revoke", "zzzzzzzz"], 1, "hydrant key list"),
        (["key", "revoke", "key_nope"], 1, "there is no key"),
        (["key", "rotate", "key_nope"], 1, "there is no key"),
        (["user", "create", "no address", "--role", "owner"], 1, "ada@example.org"),
        (["user", "create", "a@b", "--role", "king"], 2, "owner"),
        (["user", "disable", "nobody@example.org"], 1, "there is no account"),
        (["usage", "rows", "--since", "yesterday"], 2, "such as 2026-11-24"),
        (["usage", "rows", "--since", "1h", "--until", "2h"], 1, "--since must be before"),
        (["usage", "rows", "--limit", "0"], 2, "1"),
        (["usage", "totals", "--tenant", "nobody"], 1, "there is no tenant"),
        (["usage", "csv", "--ledger", "--since", "1h"], 2, "--tenant only"),
        (["usage", "csv", "--output", "/no/such/dir/x.csv"], 1, "No such file"),
        (["db", "upgrade", "nonsense"], 1, "head or base"),
        (["db", "downgrade", "base"], 2, "--yes"),
    ],
)
def test_bad_input_is_one_line_that_helps(hydrant, words: list[str], status: int, says: str) -> None:
    hydrant.run("tenant", "create", "acme")
    text = hydrant.run(*words, expect=status)
    assert says in text.stderr
    assert "Traceback" not in text.output
    assert text.stdout == ""
    if status == 1:
        assert len(text.stderr.strip().splitlines()) == 1
    document = hydrant.json(*words, expect=status)
    assert set(document["error"]) == {"message", "field"}
    assert document["error"]["message"]


def test_usage_as_csv_goes_to_standard_output_or_whole_into_a_file(hydrant, tmp_path) -> None:
    assert hydrant.run("usage", "csv").stdout.startswith("attempt_id,request_id,")
    hydrant.run("tenant", "create", "acme")
    hydrant.run("tenant", "top-up", "acme", "3", "--reason", "=HYPERLINK(1)")
    target = tmp_path / "ledger.csv"
    written = hydrant.json("usage", "csv", "--ledger", "--output", str(target))["csv"]
    assert written["bytes"] == target.stat().st_size
    assert "'=HYPERLINK(1)" in target.read_text()
    assert list(tmp_path.glob("*.partial")) == []
    assert "error" in hydrant.json("usage", "csv", expect=2)


@pytest.mark.parametrize("estimated", [False, True])
def test_estimated_counts_are_marked(hydrant, estimated: bool) -> None:
    with hydrant.sql() as session:
        tenant, model = add_tenant(session), add_model(session)
        event = usage_event(tenant, model, current_price(session, model), estimated=estimated)
        ledger.settle(session, [event])
    assert ("ok, estimated" in hydrant.run("usage", "rows").stdout) is estimated
    assert hydrant.json("usage", "rows")["usage"][0]["estimated"] is estimated


def test_a_default_above_its_ceiling_is_refused(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    above = ("--default", "max_tokens=50", "--ceiling", "max_tokens=10")
    said = (
        "hydrant: --default: max_tokens=50 is above the ceiling max_tokens=10; lower the default or raise the ceiling\n"
    )
    assert hydrant.run("key", "create", "acme", "--name", "k", *above, expect=1).stderr == said
    assert hydrant.json("key", "list", "--all")["keys"] == []
    key_id = hydrant.json("key", "create", "acme", "--name", "k", *above[:2])["key"]["key_id"]
    assert hydrant.run("key", "update", key_id, *above[2:], expect=1).stderr == said
    hydrant.run("key", "update", key_id, "--ceiling", "max_tokens=50")
    hydrant.run("key", "update", key_id, "--rpm", "5", "--default", "max_tokens=20", "--ceiling", "max_tokens=20")


def test_the_schema_must_be_this_versions(bare) -> None:
    missing = bare.json("tenant", "list", expect=1)["error"]
    assert missing["message"].endswith(
        "; run: hydrant up (makes it and starts everything here), or only: hydrant db upgrade"
    )
    assert not (bare.home / "hydrant.db").exists(), "a mistyped path makes no empty database"
    assert bare.json("db", "upgrade")["revision"]
    assert bare.json("db", "upgrade")["revision"]
    assert bare.json("tenant", "list") == {"tenants": []}
    assert bare.json("db", "downgrade", "base", "--yes")["revision"] is None
    assert "hydrant db upgrade" in bare.run("tenant", "list", expect=1).stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:geheim@h/db", "sqlite:///"),
        ("nonsense", "sqlite:///"),
        ("postgresql://u:geheim@127.0.0.1:1/db", "DATABASE_URL"),
        ("sqlite:////proc/no/db", "hydrant db upgrade"),
    ],
)
def test_a_wrong_database_url_is_said_without_its_password(hydrant, monkeypatch, url: str, says: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    result = hydrant.run("tenant", "list", expect=1)
    assert says in result.stderr
    assert "geheim" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_key_is_changed(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    words = ("--rpm", "5", "--default", "temperature=0.2", "--expires-in", "30d")
    key = hydrant.json("key", "create", "acme", "--name", "ci", *words)["key"]
    update = ("key", "update", key["prefix"])
    changed = hydrant.json(*update, "--name", "bot", "--rpm", "none", "--tpm", "900", "--ceiling", "max_tokens=64")[
        "key"
    ]
    assert (changed["name"], changed["rpm"], changed["tpm"], changed["models"]) == ("bot", None, 900, ["*"])
    assert (changed["defaults"], changed["ceilings"]) == ({"temperature": 0.2}, {"max_tokens": 64})
    assert changed["expires_at_ms"] == key["expires_at_ms"]
    changed = hydrant.json(*update, "--default", "none", "--no-end", "--no-sse-ping")["key"]
    assert (changed["defaults"], changed["ceilings"]) == ({}, {"max_tokens": 64})
    assert (changed["expires_at_ms"], changed["sse_ping"]) == (None, False)
    assert "nothing to change" in hydrant.run(*update, expect=2).output
    assert "not both" in hydrant.run(*update, "--model", "x", "--models-all", expect=2).output
    hydrant.run("key", "revoke", key["prefix"])
    assert "has ended" in hydrant.run(*update, "--name", "late", expect=1).output


def test_a_tenant_is_shown_with_what_it_spends_and_may_spend(hydrant) -> None:
    hydrant.run("tenant", "create", "acme")
    hydrant.run("budget", "set", "acme", "month", "5")
    hydrant.run("model", "add-hosted", "gpt", "--provider-model", "openai/gpt-4.1-mini", "--key-env", "OPENAI_API_KEY",
                "--input-price", "0.4", "--output-price", "1.6")  # fmt: skip
    shown = hydrant.json("tenant", "show", "acme")["tenant"]
    assert (shown["spent_nusd"], shown["budgets"][0]["amount_usd"], shown["policies"]) == (0, "5.00", [])
    assert "$0.00 of $5.00 are spent" in hydrant.run("tenant", "show", "acme").stdout
