"""Tenants, money and keys: each form with good and bad input; a key is shown once and never again."""

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.admin_app import PEPPER, AdminApp, send
from support.admin_samples import Samples

from admin_ui.read.invoices import lines_to_read
from registry.db import read_scope
from registry.ids import now_ms
from registry.models import Tenant
from registry.months import month_of
from registry.ops import keys, money, tenants
from registry.snapshot import key_digest

KEY = re.compile(r"hyd-[0-9a-z]{8}-[A-Za-z0-9_-]{43}")


def tenant_named(admin: AdminApp, name: str) -> Tenant:
    with read_scope(admin.sessions) as session:
        return tenants.find_tenant(session, name)


def create_tenant(admin: AdminApp, client: FlaskClient, **fields: Any) -> Tenant:
    answer = send(client, "/tenants/new", {"name": "Acme", **fields})
    tenant = tenant_named(admin, fields.get("name", "Acme"))
    assert (answer.status_code, answer.location) == (302, f"/tenants/{tenant.id}")
    return tenant


def test_a_key_sets_defaults_and_ceilings_of_parameters(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    fields = {"tenant_id": samples.tenant.id, "name": "bot", "all_models": "y", "expires": ""}
    answer = send(client, "/keys/new", {**fields, "ceilings": "seed = 4"})
    assert answer.status_code == 422
    assert "there is none for &#39;seed&#39;" in answer.text
    assert "seed = 4" in answer.text
    answer = send(client, "/keys/new", {**fields, "defaults": "temperature = 0.2", "ceilings": "max_tokens = 512"})
    assert answer.status_code == 200
    with read_scope(admin.sessions) as session:
        key = keys.list_keys(session, samples.tenant.id)[0]
        assert (key.name, key.defaults, key.ceilings) == ("bot", {"temperature": 0.2}, {"max_tokens": 512})
    assert "max_tokens = 512" in client.get(f"/keys/{key.id}").text


def test_a_tenant_is_created_with_its_limits(admin: AdminApp) -> None:
    client = admin.signed_in("operator")
    tenant = create_tenant(admin, client, rpm="600", tpm="", parallel="16", service_class="fast")
    assert (tenant.rpm, tenant.tpm, tenant.parallel, tenant.service_class) == (600, None, 16, "fast")
    assert "Next: top up" in client.get(f"/tenants/{tenant.id}").text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "Give the tenant a name."),
        ({"name": "x", "service_class": "platinum"}, "Not a valid choice."),
        ({"name": "x", "rpm": "0"}, "At least 1"),
        ({"name": "x", "rpm": "-5"}, "At least 1"),
        ({"name": "x", "rpm": "many"}, "Enter a number"),
        ({"name": "x", "tpm": "1.5"}, "Enter a whole number."),
        ({"name": "x", "tpm": "1,000"}, "with a point for decimals"),
        ({"name": "x", "parallel": "1e99"}, "too large"),
        ({"name": "x", "parallel": "NaN"}, "too large"),
        ({"name": "x" * 121}, "1 to 120 printable characters"),
        ({"name": "bell \x07"}, "printable characters"),
    ],
)
def test_a_bad_tenant_is_refused_beside_its_field(admin: AdminApp, fields: dict[str, str], message: str) -> None:
    answer = send(admin.signed_in("operator"), "/tenants/new", fields)
    assert answer.status_code == 422
    assert message in answer.text
    assert 'aria-invalid="true"' in answer.text
    with read_scope(admin.sessions) as session:
        assert tenants.list_tenants(session) == []


def test_a_name_that_is_taken_is_refused_and_what_was_typed_stays(admin: AdminApp) -> None:
    client = admin.signed_in("operator")
    create_tenant(admin, client)
    answer = send(client, "/tenants/new", {"name": "Acme", "rpm": "77"})
    assert answer.status_code == 422
    assert "already a tenant named" in answer.text
    assert 'value="77"' in answer.text


def test_limits_are_changed_and_removed(admin: AdminApp) -> None:
    client = admin.signed_in("operator")
    tenant = create_tenant(admin, client, rpm="600")
    path = f"/tenants/{tenant.id}/limits"
    assert send(client, path, {"name": "Acme Inc", "rpm": "", "tpm": "9000"}).status_code == 302
    changed = tenant_named(admin, "Acme Inc")
    assert (changed.rpm, changed.tpm) == (None, 9000)
    refused = send(client, path, {"name": "", "rpm": "4"})
    assert refused.status_code == 422
    assert "Give the tenant a name." in refused.text


def test_a_tenant_is_locked_out_and_let_in(admin: AdminApp) -> None:
    client = admin.signed_in("operator")
    tenant = create_tenant(admin, client)
    send(client, f"/tenants/{tenant.id}/disable")
    assert not tenant_named(admin, "Acme").enabled
    send(client, f"/tenants/{tenant.id}/enable")
    assert tenant_named(admin, "Acme").enabled


def test_money_is_entered_to_the_last_nano_dollar(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    tenant = create_tenant(admin, client)
    path = f"/tenants/{tenant.id}/money"
    assert send(client, path, {"amount": "$25.000000001", "reason": "Invoice 7"}).status_code == 302
    assert send(client, path, {"amount": "-5", "reason": "Entered twice"}).status_code == 302
    with read_scope(admin.sessions) as session:
        assert money.balance_nusd(session, tenant.id) == 20_000_000_001
    page = client.get(f"/tenants/{tenant.id}").text
    assert "$20.000000001" in page
    assert "-$5.00" in page
    assert "Entered twice" in page
    assert "owner@example.org" in page


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"amount": "", "reason": "x"}, "Fill this in."),
        ({"amount": "0", "reason": "x"}, "must be more than $0.00"),
        ({"amount": "lots", "reason": "x"}, "must be an amount in dollars"),
        ({"amount": "1,50", "reason": "x"}, "must be an amount in dollars"),
        ({"amount": "0.0000000001", "reason": "x"}, "finer than a nano-dollar"),
        ({"amount": "inf", "reason": "x"}, "not a possible amount"),
        ({"amount": "1e30", "reason": "x"}, "must be at most $1000000000.00"),
        ({"amount": "5", "reason": ""}, "Say why"),
        ({"amount": "5", "reason": "x" * 501}, "1 to 500 printable"),
    ],
)
def test_bad_money_is_refused(admin: AdminApp, fields: dict[str, str], message: str) -> None:
    client = admin.signed_in("owner")
    tenant = create_tenant(admin, client)
    answer = send(client, f"/tenants/{tenant.id}/money", fields)
    assert answer.status_code == 422
    assert message in answer.text
    with read_scope(admin.sessions) as session:
        assert money.balance_nusd(session, tenant.id) == 0


def every_page(client: FlaskClient, *extra: str) -> str:
    paths = ("/", "/overview/live", "/models", "/nodes", "/tenants", "/keys", "/usage", "/ledger", "/audit", *extra)
    return "".join(client.get(path).text for path in paths)


def test_a_key_is_shown_once_and_only_its_digest_is_kept(admin: AdminApp) -> None:
    client = admin.signed_in("operator")
    tenant = create_tenant(admin, client)
    answer = send(
        client, "/keys/new", {"tenant_id": tenant.id, "name": "chat", "all_models": "y", "expires": "", "sse_ping": "y"}
    )
    assert answer.status_code == 200
    (plaintext,) = set(KEY.findall(answer.text))
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers or plaintext not in answer.headers["Set-Cookie"]
    with read_scope(admin.sessions) as session:
        (key,) = keys.list_keys(session)
    assert key.digest == key_digest(PEPPER, plaintext)
    assert (key.tenant_id, key.models, key.expires_at_ms, key.sse_ping) == (tenant.id, ["*"], None, True)
    everything = every_page(client, f"/tenants/{tenant.id}", f"/keys/{key.id}", f"/audit?subject={key.id}")
    assert f"hyd-{key.prefix}-" in everything
    assert plaintext not in everything
    assert plaintext.split("-", 2)[2] not in everything
    assert key.digest not in everything


def test_a_key_for_some_models_with_limits_and_an_end(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    fields = {
        "tenant_id": samples.tenant.id, "name": "batch", "models": ["qwen3-8b", "smollm2-135m-instruct"],
        "expires": "30", "rpm": "5", "parallel": "2",
    }  # fmt: skip
    assert KEY.search(send(client, "/keys/new", fields).text)
    with read_scope(admin.sessions) as session:
        key = next(key for key in keys.list_keys(session) if key.name == "batch")
    assert key.models == ["qwen3-8b", "smollm2-135m-instruct"]
    assert (key.rpm, key.tpm, key.parallel, key.sse_ping) == (5, None, 2, False)
    assert key.expires_at_ms is not None
    assert key.expires_at_ms - key.created_at_ms in range(30 * 86_400_000 - 10_000, 30 * 86_400_000 + 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "", "all_models": "y"}, "Give the key a name."),
        ({"name": "x"}, "Tick at least one model"),
        ({"name": "x", "models": "no-such-model"}, "not"),
        ({"name": "x", "all_models": "y", "expires": "999"}, "Not a valid choice"),
        ({"name": "x", "all_models": "y", "rpm": "0"}, "At least 1"),
        ({"name": "x", "all_models": "y", "tenant_id": "ten_nobody"}, "Not a valid choice"),
    ],
)
def test_a_bad_key_is_refused(admin: AdminApp, fields: dict[str, str], message: str) -> None:
    client = admin.signed_in("operator")
    tenant = create_tenant(admin, client)
    answer = send(client, "/keys/new", {"tenant_id": tenant.id, "expires": "", **fields})
    assert answer.status_code == 422
    assert message in answer.text
    with read_scope(admin.sessions) as session:
        assert keys.list_keys(session) == []


def test_rotating_makes_a_key_once_and_ends_the_old_one(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    answer = send(client, f"/keys/{samples.key_id}/rotate", {"overlap_s": "0"})
    (plaintext,) = set(KEY.findall(answer.text))
    with read_scope(admin.sessions) as session:
        assert keys.get_key(session, samples.key_id).revoked_at_ms is not None
    assert plaintext not in every_page(client)
    again = send(client, f"/keys/{samples.key_id}/rotate", {"overlap_s": "0"})
    assert again.status_code == 422
    assert "has ended already" in again.text
    assert send(client, f"/keys/{samples.key_id}/rotate", {"overlap_s": "-1"}).status_code == 422


def test_revoking_ends_a_key_for_ever(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    answer = send(client, f"/keys/{samples.key_id}/revoke")
    assert answer.status_code == 302
    page = client.get(answer.location).text
    assert ">revoked<" in page
    assert "Rotate" not in page


def test_what_is_not_there_is_a_page_that_says_so(admin: AdminApp) -> None:
    client = admin.signed_in("viewer")
    for path in ("/tenants/ten_x", "/keys/key_x", "/models/mod_x", "/nodes/x", "/models/cold-starts/x", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "There is no such page" in answer.text


def test_an_invoice_is_a_page_a_csv_and_json(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("viewer")
    address = f"/tenants/{samples.tenant.id}/invoices"
    month = month_of(now_ms())
    assert f"{address}/{month}" in client.get(address).text
    page = client.get(f"{address}/{month}").text.split('<main id="content">')[1]
    assert "Closing balance" in page
    assert "Invoice 2026-117" in page
    assert "so far" in page
    # A customer is not told who of the operators has entered something; operators find it in the JSON.
    assert "owner@example.org" not in page
    assert f"<dd>{samples.tenant.id}-{month}</dd>" in page
    document = client.get(f"{address}/{month}.json").get_json()
    with read_scope(admin.sessions) as session:
        assert document["closing_nusd"] == money.balance_nusd(session, samples.tenant.id)
    assert document["number"] == f"{samples.tenant.id}-{month}"
    assert document["credits"][0]["author"] == "owner@example.org"
    answer = client.get(f"{address}/{month}.csv")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="hydrant-invoice-{month}.csv"'
    for wrong in ("2099-01", "november", "2026-13.csv"):
        assert client.get(f"{address}/{wrong}").status_code == 404
    assert client.get(f"/tenants/ten_none/invoices/{month}").status_code == 404


def test_prices_that_differ_in_a_gpu_second_alone_are_one_line_to_read() -> None:
    price = {"input_nusd": 20, "cached_input_nusd": 5, "output_nusd": 60, "request_nusd": 0}
    counts = {"requests": 2, "prompt_tokens": 30, "cached_tokens": 4, "completion_tokens": 5, "amount_nusd": -700}
    lines = [
        {"model": "a", "price_id": "pri_1", "price": price, **counts},
        {"model": "a", "price_id": "pri_2", "price": price, **counts},
        {"model": "a", "price_id": "pri_3", "price": {**price, "output_nusd": 61}, **counts},
        {"model": "b", "price_id": None, "price": None, **counts},
    ]
    shown = lines_to_read(lines)
    assert [(line["model"], line["requests"], line["amount_nusd"]) for line in shown] == [
        ("a", 4, -1400), ("a", 2, -700), ("b", 2, -700),
    ]  # fmt: skip
    assert lines[0]["requests"] == 2


def test_a_key_is_changed(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    page = f"/keys/{samples.key_id}/edit"
    assert "website chat" in client.get(page).text
    fields = {"name": "shop", "models": "qwen3-8b", "expires": "keep", "rpm": "7", "ceilings": "max_tokens = 64"}
    assert send(client, page, {**fields, "ceilings": "seed = 4"}).status_code == 422
    assert send(client, page, {**fields, "expires": "30"}).status_code == 302
    with read_scope(admin.sessions) as session:
        key = keys.get_key(session, samples.key_id)
        end = key.expires_at_ms
        assert (key.name, key.models, key.rpm, key.ceilings) == ("shop", ["qwen3-8b"], 7, {"max_tokens": 64})
    assert "max_tokens = 64" in client.get(page).text
    send(client, page, {**fields, "rpm": ""})
    with read_scope(admin.sessions) as session:
        key = keys.get_key(session, samples.key_id)
        assert (key.expires_at_ms, key.rpm) == (end, None)
    send(client, f"/keys/{samples.key_id}/revoke")
    assert "has ended" in send(client, page, fields).text
