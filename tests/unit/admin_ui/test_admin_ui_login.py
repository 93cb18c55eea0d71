"""Signing in, staying signed in, and everything that must end or refuse a session."""

from pathlib import Path
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from support.admin_app import PASSWORD, AdminApp, running_app, send
from support.redis_server import RedisServer

from admin_ui.api.authentication import TOKEN_BLUEPRINTS
from admin_ui.sessions import SESSION_HOURS
from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.ops import admins

OWNER = "owner@example.org"
HOUR_MS = 3_600_000


def is_signed_in(client: FlaskClient) -> bool:
    return client.get("/account/password").status_code == 200


def test_the_right_password_opens_the_overview(admin: AdminApp) -> None:
    client, answer = admin.log_in(OWNER)
    assert (answer.status_code, answer.location) == (302, "/")
    assert is_signed_in(client)
    with read_scope(admin.sessions) as session:
        assert admins.find_admin(session, OWNER).last_login_at_ms is not None


def test_wrong_password_unknown_and_disabled_accounts_look_the_same(admin: AdminApp) -> None:
    with session_scope(admin.sessions) as session:
        viewer = admins.find_admin(session, "viewer@example.org")
        admins.set_disabled(session, "test", viewer.id, True)
    attempts = [(OWNER, "wrong password 1"), ("nobody@example.org", PASSWORD), ("viewer@example.org", PASSWORD)]
    for email, password in attempts:
        client, answer = admin.log_in(email, password)
        assert answer.status_code == 401
        assert "do not belong together" in answer.text
        assert password not in answer.text
        assert not is_signed_in(client)


def test_empty_fields_say_what_to_enter(admin: AdminApp) -> None:
    _client, answer = admin.log_in("", "")
    assert answer.status_code == 401
    assert "Enter your e-mail." in answer.text
    assert "Enter your password." in answer.text


def test_every_form_is_refused_without_its_token(admin: AdminApp) -> None:
    client = admin.signed_in("owner")
    for rule in admin.app.url_map.iter_rules():
        takes_cookies = rule.endpoint.partition(".")[0] not in TOKEN_BLUEPRINTS
        if "POST" in (rule.methods or ()) and takes_cookies:
            path = rule.rule.replace("<path:alias>", "x")
            for argument in rule.arguments:
                path = path.replace(f"<{argument}>", "x")
            answer = client.post(path, data={"email": OWNER, "password": PASSWORD})
            assert answer.status_code == 400, path
            assert "reload the page" in answer.text


def test_failed_attempts_are_limited_and_successes_are_not(database: Path, redis_server: RedisServer) -> None:
    with running_app(database, redis_server.url, login_limits=("2 per hour",)) as first:
        for _ in range(3):
            assert first.log_in(OWNER)[1].status_code == 302
        for _ in range(2):
            assert first.log_in(OWNER, "wrong password 1")[1].status_code == 401
    # Another worker, or the same one after a restart, counts on.
    with running_app(database, redis_server.url, login_limits=("2 per hour",)) as second:
        client, answer = second.log_in(OWNER)
        assert answer.status_code == 429
        assert "Too many failed attempts" in answer.text
        assert not is_signed_in(client)


def test_attempts_are_limited_while_redis_is_away(database: Path, no_redis: str) -> None:
    with running_app(database, no_redis, login_limits=("2 per hour",)) as app:
        answers = [app.log_in(OWNER, "wrong password 1")[1].status_code for _ in range(3)]
    assert answers == [401, 401, 429]


def test_what_was_in_the_cookie_before_is_dropped(admin: AdminApp) -> None:
    client = admin.client()
    with client.session_transaction() as planted:
        planted["planted"] = "by someone else"
    before = client.get_cookie("hydrant_admin")
    send(client, "/login", {"email": OWNER, "password": PASSWORD})
    with client.session_transaction() as session:
        assert "planted" not in session
        assert "_user_id" in session
    assert before is not None
    thief = admin.client()
    thief.set_cookie("hydrant_admin", before.value)
    assert not is_signed_in(thief)


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
     "/\n/evil.example", "javascript:alert(1)", "evil.example", " //evil.example", "///evil.example", ""],
)  # fmt: skip
def test_next_never_leads_to_another_site(admin: AdminApp, target: str) -> None:
    client = admin.client()
    answer = send(client, f"/login?next={quote(target)}", {"email": OWNER, "password": PASSWORD})
    assert (answer.status_code, answer.location) == (302, "/")


def test_next_leads_back_to_where_one_was(admin: AdminApp) -> None:
    client = admin.client()
    answer = client.get("/usage?period=30d")
    assert answer.location == "/login?next=/usage?period%3D30d"
    answer = send(client, answer.location, {"email": OWNER, "password": PASSWORD})
    assert answer.location == "/usage?period=30d"


def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(admin: AdminApp) -> None:
    here, elsewhere = admin.signed_in("owner"), admin.signed_in("owner")
    new = "another fine password"
    fields = {"current": PASSWORD, "password": new, "again": new}
    answer = send(here, "/account/password", fields)
    assert (answer.status_code, answer.location) == (302, "/")
    assert is_signed_in(here)
    assert not is_signed_in(elsewhere)
    assert admin.log_in(OWNER, new)[1].status_code == 302


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"current": "not mine at all", "password": "x" * 12, "again": "x" * 12}, "not your present password"),
        ({"current": PASSWORD, "password": "x" * 12, "again": "y" * 12}, "The two new passwords differ."),
        ({"current": PASSWORD, "password": "short", "again": "short"}, "New password must have 12 to 1024 characters."),
        ({}, "Enter a new password."),
    ],
)
def test_a_bad_new_password_changes_nothing(admin: AdminApp, fields: dict[str, str], message: str) -> None:
    client = admin.signed_in("owner")
    answer = send(client, "/account/password", fields)
    assert answer.status_code == 422
    assert message in answer.text
    assert all(value not in answer.text for value in fields.values())
    assert admin.log_in(OWNER)[1].status_code == 302


def test_a_one_time_password_must_be_changed_before_anything_else(admin: AdminApp) -> None:
    with session_scope(admin.sessions) as session:
        _user, one_time = admins.create_admin(session, "test", email="new@example.org", role="owner")
    assert one_time is not None
    client, answer = admin.log_in("new@example.org", one_time)
    assert answer.location == "/account/password"
    for path in ("/", "/users", "/overview/live"):
        assert client.get(path).location == "/account/password"
    assert send(client, "/tenants/new", {"name": "too early"}).location == "/account/password"
    fields = {"current": one_time, "password": PASSWORD, "again": PASSWORD}
    assert send(client, "/account/password", fields).location == "/"
    assert client.get("/users").status_code == 200


def test_disabling_an_account_ends_its_sessions(admin: AdminApp) -> None:
    client = admin.signed_in("viewer")
    assert is_signed_in(client)
    with session_scope(admin.sessions) as session:
        admins.set_disabled(session, "test", admins.find_admin(session, "viewer@example.org").id, True)
    assert not is_signed_in(client)


def test_a_session_ends_after_its_hours_however_busy(admin: AdminApp) -> None:
    client = admin.signed_in("viewer")
    with client.session_transaction() as session:
        session["signed_in_at_ms"] = now_ms() - SESSION_HOURS * HOUR_MS - 1
    assert not is_signed_in(client)


def test_signing_out_ends_the_session(admin: AdminApp) -> None:
    client = admin.signed_in("viewer")
    assert send(client, "/logout").location == "/login"
    assert not is_signed_in(client)


def test_a_refreshing_page_is_sent_to_the_login_as_a_whole(admin: AdminApp) -> None:
    answer = admin.client().get("/overview/live", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login")


def test_a_forged_cookie_is_nobody(admin: AdminApp) -> None:
    client = admin.client()
    client.set_cookie("hydrant_admin", "eyJfdXNlcl9pZCI6ImFkbV8xOjEifQ.aaaa.bbbb")
    assert not is_signed_in(client)


@pytest.mark.parametrize(
    ("base_url", "secure"),
    [("http://127.0.0.1:8401", False), ("http://localhost:8401", False), ("https://admin.example.org", True)],
)
def test_the_cookie_is_secure_unless_it_stays_on_this_machine(admin: AdminApp, base_url: str, secure: bool) -> None:
    _client, answer = admin.log_in(OWNER, base_url=base_url, headers={"Referer": f"{base_url}/login"})
    assert answer.status_code == 302
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert ("Secure" in cookie) is secure


def test_passwords_are_not_taken_over_plain_http_from_afar(admin: AdminApp, database: Path, no_redis: str) -> None:
    afar = "http://admin.example.org"
    page = admin.client().get("/login", base_url=afar)
    assert "not encrypted" in page.text
    answer = admin.client().post("/login", data={"email": OWNER, "password": PASSWORD}, base_url=afar)
    assert answer.status_code in (400, 403)
    with running_app(database, no_redis, allow_plain_http=True) as trusting:
        assert trusting.log_in(OWNER, base_url=afar)[1].status_code == 302


def test_a_proxys_word_counts_only_when_told_so(admin: AdminApp, database: Path, no_redis: str) -> None:
    headers = {"X-Forwarded-Proto": "https"}
    options = {"base_url": "http://admin.example.org", "headers": headers}
    assert "not encrypted" in admin.client().get("/login", **options).text  # type: ignore[arg-type]
    with running_app(database, no_redis, trusted_proxies=1) as behind_proxy:
        assert "not encrypted" not in behind_proxy.client().get("/login", **options).text  # type: ignore[arg-type]
