"""Nodes: cordon, uncordon, drain. Users: create, role, one-time password, disable."""

import re

from support.admin_app import PASSWORD, AdminApp, send
from support.admin_samples import Samples

from admin_ui.read.cluster import OFFLINE_AFTER_MS
from registry.db import read_scope, session_scope
from registry.models import AdminUser, Node
from registry.ops import admins, nodes

ONE_TIME = re.compile(r'id="one-time" readonly value="([^"]+)"')


def stored(admin: AdminApp, name: str) -> Node:
    with read_scope(admin.sessions) as session:
        return nodes.get_node(session, name)


def test_a_node_is_cordoned_drained_and_taken_back(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    send(client, "/nodes/node-a/cordon")
    assert (stored(admin, "node-a").cordoned, stored(admin, "node-a").draining) == (True, False)
    assert ">cordoned<" in client.get("/nodes").text
    send(client, "/nodes/node-a/drain")
    assert stored(admin, "node-a").draining
    assert ">draining<" in client.get("/").text
    send(client, "/nodes/node-a/uncordon")
    assert (stored(admin, "node-a").cordoned, stored(admin, "node-a").draining) == (False, False)
    assert send(client, "/nodes/nowhere/drain").status_code == 404


def test_a_node_page_shows_memory_store_and_stages(admin: AdminApp, samples: Samples) -> None:
    page = admin.signed_in("viewer").get("/nodes/node-a").text
    for text in ("400 Mbit/s", "sglang 0.5.23", "180 MB of 2 GB", "137 tensors", "smollm2-135m-instruct", "0–14"):
        assert text in page


def test_a_link_that_is_slower_than_it_is_said_to_be_is_shown(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        session.get_one(Node, "node-a").fetch_bps = [20_000_000, 25_000_000, 10_000_000]
    assert "fetches have had 200 Mbit/s at best" in admin.signed_in("viewer").get("/nodes/node-a").text


def test_a_silent_node_is_shown_as_offline(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        session.get_one(Node, "node-b").seen_at_ms -= OFFLINE_AFTER_MS + 5_000
    client = admin.signed_in("viewer")
    assert ">offline<" in client.get("/nodes").text
    assert "Check that its noded and node worker run" in client.get("/nodes/node-b").text


def user(admin: AdminApp, email: str) -> AdminUser:
    with read_scope(admin.sessions) as session:
        return admins.find_admin(session, email)


def test_a_new_user_gets_a_password_that_is_shown_once(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    answer = send(client, "/users/new", {"email": "Ada@Example.org", "role": "operator"})
    found = ONE_TIME.search(answer.text)
    assert found is not None
    ada = user(admin, "ada@example.org")
    assert (ada.role, ada.must_change) == ("operator", True)
    later = client.get("/users").text + client.get(f"/users/{ada.id}").text + client.get("/audit").text
    assert found.group(1) not in later
    assert admin.log_in("ada@example.org", found.group(1))[1].location == "/account/password"


def test_bad_users_are_refused(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    for fields, message in (
        ({"email": "", "role": "viewer"}, "Enter an e-mail address."),
        ({"email": "no-at-sign", "role": "viewer"}, "E-mail must be an address"),
        ({"email": "owner@example.org", "role": "viewer"}, "already an account"),
        ({"email": "x@example.org", "role": "emperor"}, "Not a valid choice"),
    ):
        answer = send(client, "/users/new", fields)
        assert answer.status_code == 422
        assert message in answer.text


def test_the_last_owner_stays_one(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    owner = user(admin, "owner@example.org")
    answer = send(client, f"/users/{owner.id}/role", {"role": "viewer"})
    assert answer.status_code == 422
    assert "last owner" in answer.text
    send(client, f"/users/{owner.id}/disable")
    assert user(admin, "owner@example.org").disabled_at_ms is None


def test_a_one_time_password_replaces_a_forgotten_one(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    viewer = user(admin, "viewer@example.org")
    viewers_browser = admin.signed_in("viewer")
    found = ONE_TIME.search(send(client, f"/users/{viewer.id}/one-time-password").text)
    assert found is not None
    assert viewers_browser.get("/").status_code == 302
    assert admin.log_in("viewer@example.org", PASSWORD)[1].status_code == 401
    assert admin.log_in("viewer@example.org", found.group(1))[1].location == "/account/password"


def test_a_user_is_disabled_and_enabled(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    viewer = user(admin, "viewer@example.org")
    send(client, f"/users/{viewer.id}/disable")
    assert user(admin, "viewer@example.org").disabled_at_ms is not None
    send(client, f"/users/{viewer.id}/enable")
    assert user(admin, "viewer@example.org").disabled_at_ms is None
