"""Models of hosted providers and policies for cold models, in the admin UI."""

import pytest
from support.admin_app import AdminApp, send
from support.registry_rows import add_model, add_tenant

from registry.db import read_scope, session_scope
from registry.ops import cold_policies, models

HOSTED = {
    "name": "gpt", "provider_model": "openai/gpt-4.1-mini", "key_env": "OPENAI_API_KEY", "api_base": "",
    "context_length": "64000", "default_max_tokens": "512", "input_nusd": "0.4", "cached_input_nusd": "",
    "output_nusd": "1.6", "request_nusd": "",
}  # fmt: skip


def test_a_providers_model_is_added_and_never_looks_cold(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    assert "GPU-second" not in client.get("/models/hosted/new").text
    answer = send(client, "/models/hosted/new", HOSTED)
    assert answer.status_code == 302
    page = client.get(answer.location).text
    assert "openai/gpt-4.1-mini" in page
    assert "at its provider" in page
    assert "GPU-second" not in client.get(f"{answer.location}/price").text
    fields = {"input_nusd": "0.5", "cached_input_nusd": "", "output_nusd": "2", "request_nusd": ""}
    assert send(client, f"{answer.location}/price", fields).location == answer.location
    page = client.get(answer.location).text
    assert "$0.50" in page
    for absent in (
        "scaled to zero",
        "Warm now",
        "Never started yet",
        "Largest pipeline",
        "While it is cold",
        "GPU-second",
        "Device time",
    ):
        assert absent not in page
    assert "embeddings, no text" not in page
    vectors = {**HOSTED, "name": "vectors", "embedding": "y"}
    assert "embeddings, no text" in client.get(send(client, "/models/hosted/new", vectors).location).text
    listed = client.get("/models").text
    assert "at its provider" in listed
    assert "scaled to zero" not in listed


def test_a_new_keys_example_asks_a_model_of_ours_and_a_providers_only_where_there_is_no_other(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    send(client, "/models/hosted/new", HOSTED)
    with session_scope(admin.sessions) as session:
        tenant = add_tenant(session)
        add_model(session, "a-retriever", settings={"embedding": True})
        add_model(session, "zephyr")
    for allowed, asked in (
        ({"all_models": "y"}, "zephyr"),
        ({"models": ["gpt"]}, "gpt"),
        ({"models": ["a-retriever"]}, "MODEL"),
    ):
        answer = send(client, "/keys/new", {"tenant_id": tenant.id, "name": "ci", "expires": "", **allowed})
        assert f'model="{asked}"' in answer.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key_env": "HYDRANT_HOSTED_SECRET"}, "ends in _API_KEY"),
        ({"provider_model": "nobody/x"}, "not a known provider"),
        ({"api_base": "http://127.0.0.1:9"}, "must be https"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(admin: AdminApp, fields: dict[str, str], message: str) -> None:
    answer = send(admin.signed_in("owner"), "/models/hosted/new", {**HOSTED, **fields})
    assert answer.status_code == 422
    assert message in answer.text


def test_policies_are_set_shown_and_removed(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    send(client, "/models/hosted/new", HOSTED)
    with session_scope(admin.sessions) as session:
        small, tenant = add_model(session, "smol").id, add_tenant(session).id
    with read_scope(admin.sessions) as session:
        gpt = models.resolve_name(session, "gpt").id
    page = f"/models/{small}/policies"
    assert "requests wait" in client.get(page).text
    assert (
        send(client, page, {"tenant_id": "", "mode": "reject", "fallback_model_id": "", "after_s": ""}).status_code
        == 302
    )
    assert '<td data-label="Tenant">All tenants</td>' in client.get(page).text
    assert send(client, f"{page}/remove", {}).status_code == 302
    fallback = {"tenant_id": tenant, "mode": "fallback", "fallback_model_id": gpt, "after_s": "5"}
    assert send(client, page, fallback).status_code == 302
    refused = send(client, page, {**fallback, "fallback_model_id": ""})
    assert refused.status_code == 422
    assert "names the provider" in refused.text
    shown = client.get(page).text
    assert "5 s" in shown
    assert "All others" in shown  # to choose from
    with read_scope(admin.sessions) as session:
        [row] = cold_policies.list_policies(session, small)
        assert (row.tenant_id, row.fallback_model_id, row.after_s) == (tenant, gpt, 5)
    assert send(client, f"{page}/remove?tenant_id={tenant}", {}).status_code == 302
    with read_scope(admin.sessions) as session:
        assert cold_policies.list_policies(session, small) == []


def test_a_providers_model_is_changed_on_a_page_of_its_own(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    page = send(client, "/models/hosted/new", HOSTED).location
    assert client.get(f"{page}/edit").location == f"{page}/hosted"
    assert "openai/gpt-4.1-mini" in client.get(f"{page}/hosted").text
    fields = {**HOSTED, "name": "large", "provider_model": "openai/gpt-4.1", "default_max_tokens": "64"}
    refused = send(client, f"{page}/hosted", {**fields, "key_env": "HYDRANT_HOSTED_SECRET"})
    assert (refused.status_code, "ends in _API_KEY" in refused.text) == (422, True)
    assert send(client, f"{page}/hosted", fields).status_code == 302
    with read_scope(admin.sessions) as session:
        model = models.resolve_name(session, "large")
        assert (model.provider["model"], model.default_max_tokens) == ("openai/gpt-4.1", 64)
    with session_scope(admin.sessions) as session:
        small = add_model(session, "smol").id
    assert client.get(f"/models/{small}/hosted").status_code == 404


def test_a_tenants_page_lists_its_policies(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    with session_scope(admin.sessions) as session:
        small, tenant = add_model(session, "smol").id, add_tenant(session).id
        cold_policies.set_policy(session, "test", small, mode="reject", tenant_id=tenant)
    page = client.get(f"/tenants/{tenant}").text
    assert f"/models/{small}/policies" in page
    assert "be sent away" in page
    assert f"/models/{small}/policies" not in admin.signed_in("viewer").get(f"/tenants/{tenant}").text
