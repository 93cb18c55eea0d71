"""All pages at once: hostile names are escaped, nothing runs inline, empty installations say what to do next."""

import re
from pathlib import Path

import pytest
from support.admin_app import AdminApp, send
from support.admin_samples import Samples

from registry.db import session_scope
from registry.models import ColdStart, Group, Node, Stage, Usage
from registry.ops import keys, money, tenants

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
INLINE = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>|\sstyle=|\son[a-z]+=|javascript:", re.IGNORECASE)


def paths(samples: Samples) -> list[str]:
    model = f"/models/{samples.model.id}"
    return [
        "/", "/overview/live", "/models", "/models/new", model, f"{model}/live", f"{model}/edit", f"{model}/price",
        f"{model}/why", f"/models/cold-starts/{samples.cold_start.id}", "/nodes", "/nodes/node-a", "/tenants",
        "/tenants/new", f"/tenants/{samples.tenant.id}", "/keys", "/keys/new", f"/keys/{samples.key_id}", "/usage",
        "/usage?period=24h", "/ledger", "/audit", "/users", "/users/new", "/account/password", "/nowhere", "/tokens",
        "/aliases/small", f"/keys/{samples.key_id}/edit", f"/tenants/{samples.tenant.id}/invoices",
    ]  # fmt: skip


def test_no_page_runs_anything_inline(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("owner")
    for path in ("/login", *paths(samples)):
        answer = client.get(path) if path != "/login" else admin.client().get(path)
        assert answer.status_code in (200, 404), path
        assert INLINE.search(answer.text) is None, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


def test_no_two_elements_of_a_page_share_an_id(admin: AdminApp, samples: Samples) -> None:
    """A label would then speak of another field than the one beside it. Each form's hidden token has no label."""
    client = admin.signed_in("owner")
    for path in paths(samples):
        ids = [one for one in re.findall(r'\sid="([^"]+)"', client.get(path).text) if one != "csrf_token"]
        assert sorted(set(ids)) == sorted(ids), path


def test_hostile_names_and_reasons_are_shown_as_text(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        tenants.update_tenant(session, HOSTILE, samples.tenant.id, name=HOSTILE)
        money.top_up(session, HOSTILE, samples.tenant.id, 1, HOSTILE)
        keys.create_key(session, HOSTILE, "pepper", tenant_id=samples.tenant.id, name=HOSTILE)
        session.get_one(ColdStart, samples.cold_start.id).reason = HOSTILE
        session.get_one(ColdStart, samples.cold_start.id).failed_at_ms = 1
        node = session.get_one(Node, "node-a")
        node.report = {**node.report, "warm": {"ready": True, "engine": HOSTILE}}
        node.devices[0].name = HOSTILE
        for group in session.query(Group):
            group.reason = HOSTILE
        for stage in session.query(Stage):
            stage.reason = HOSTILE
        for row in session.query(Usage):
            row.model_name, row.outcome = HOSTILE, HOSTILE[:20]
    client = admin.signed_in("owner")
    seen = 0
    for path in paths(samples):
        page = client.get(path).text
        assert "<script>alert" not in page, path
        assert "<img src=x" not in page, path
        seen += page.count("&lt;script&gt;alert")
    assert seen > 20


def test_an_address_is_not_echoed_as_markup(admin: AdminApp) -> None:
    client = admin.signed_in("viewer")
    for path in ("/<script>alert(1)</script>", "/audit?subject=<script>alert(1)</script>", "/login?next=<script>"):
        assert "<script>alert" not in client.get(path).text


def test_times_are_in_utc_for_those_without_scripts(admin: AdminApp, samples: Samples) -> None:
    page = admin.signed_in("viewer").get(f"/tenants/{samples.tenant.id}").text
    assert re.search(r'<time datetime="20\d\d-[^"]+\+00:00" title="20\d\d-[^"]+ UTC">20\d\d-[^<]+ UTC</time>', page)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/", "No node has reported yet"),
        ("/", "Register a model"),
        ("/models", "Register one"),
        ("/tenants", "Create one"),
        ("/keys", "create a tenant"),
        ("/keys/new", "create a tenant"),
        ("/usage", "No requests in this time"),
        ("/ledger", "A top-up on a tenant"),
        ("/nodes", "Start noded"),
    ],
)
def test_an_empty_page_says_what_to_do_next(admin: AdminApp, path: str, hint: str) -> None:
    assert hint in admin.signed_in("owner").get(path).text


def test_a_viewer_is_not_told_to_press_what_is_not_there(admin: AdminApp) -> None:
    client = admin.signed_in("viewer")
    for path in ("/", "/models", "/tenants", "/keys"):
        assert "/new" not in client.get(path).text


def test_every_input_has_a_label(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("owner")
    for path in paths(samples):
        page = client.get(path).text
        labels = set(re.findall(r'<label for="([^"]+)"', page))
        inputs = re.findall(r'<(?:input|select)\b(?![^>]*type="hidden")[^>]*\bid="([^"]+)"', page)
        assert set(inputs) <= labels, path


def test_the_health_check_needs_no_login(admin: AdminApp) -> None:
    answer = admin.client().get("/health")
    assert (answer.status_code, answer.json) == (200, {"status": "ok", "sql": True, "redis": False})


def test_a_form_that_is_too_large_is_refused(admin: AdminApp) -> None:
    answer = send(admin.signed_in("operator"), "/tenants/new", {"name": "x" * 1_100_000})
    assert answer.status_code == 413
    assert "more than a form may hold" in answer.text


def test_an_unforeseen_error_says_so_without_its_cause(admin: AdminApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret is 12345")

    monkeypatch.setattr("admin_ui.views.tenants.tenant_rows", broken)
    answer = admin.signed_in("viewer").get("/tenants")
    assert answer.status_code == 500
    assert "Something broke on our side" in answer.text
    assert "12345" not in answer.text


def test_the_vendored_files_say_where_they_come_from() -> None:
    vendor = Path(__file__).parents[3] / "admin_ui" / "static" / "vendor"
    names = {path.name for path in vendor.iterdir()}
    assert names == {"htmx.min.js", "htmx.LICENSE", "pico.min.css", "pico.LICENSE"}
    script = (vendor.parents[1] / "vendor.sh").read_text()
    assert all(name in script for name in names)
