"""The admin UI in a real browser: signing in, creating a tenant and a key, on a desk and on a phone."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect
from support.admin_app import PASSWORD
from support.admin_site import Site
from support.browser import open_page

from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import Node
from registry.ops import keys, tenants

pytestmark = pytest.mark.browser

KEY = re.compile(r"hyd-[0-9a-z]{8}-[A-Za-z0-9_-]{43}")


def sign_in(page: Page, site: Site, role: str = "owner") -> None:
    page.goto(f"{site.address}/")
    page.get_by_label("E-mail").fill(f"{role}@example.org")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()


def test_a_tenant_and_a_key_are_created_and_the_key_is_shown_once(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        sign_in(page, site)
        page.get_by_role("link", name="Tenants", exact=True).click()
        page.get_by_role("button", name="New tenant").click()
        page.get_by_label("Name").fill("Blue Whale GmbH")
        page.get_by_label("Requests a minute").fill("120")
        page.get_by_role("button", name="Create").click()
        expect(page.get_by_role("heading", name="Blue Whale GmbH")).to_be_visible()

        page.get_by_label("Amount").fill("12.50")
        page.get_by_label("Reason").fill("First invoice")
        page.get_by_role("button", name="Top up").click()
        expect(page.locator(".tile").filter(has_text="Balance")).to_contain_text("$12.50")

        page.get_by_role("button", name="New key").click()
        page.get_by_label("Name").fill("browser test")
        page.get_by_role("button", name="Create").click()
        plaintext = page.get_by_label("API key").input_value()
        assert KEY.fullmatch(plaintext)

        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.get_by_role("button", name="Copied", exact=True)).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == plaintext

        page.reload()
        expect(page.get_by_role("heading", name="browser test")).to_be_visible()
        assert plaintext not in page.content()
        page.go_back()
        assert plaintext not in page.content()
    with read_scope(site.sessions) as session:
        tenant = tenants.find_tenant(session, "Blue Whale GmbH")
        assert [key.name for key in keys.list_keys(session, tenant.id)] == ["browser test"]


def test_a_dangerous_button_asks_first(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        sign_in(page, site, "operator")
        page.goto(f"{site.address}/nodes/node-b")
        page.get_by_text("Drain…").click()
        sure = page.get_by_role("button", name="Drain it")
        expect(sure).to_be_visible()
        page.keyboard.press("Escape")
        expect(sure).to_be_hidden()
        page.get_by_text("Drain…").click()
        sure.click()
        expect(page.get_by_text("node-b drains")).to_be_visible()
        page.get_by_role("button", name="Uncordon").click()
        expect(page.get_by_text("node-b takes stages again.")).to_be_visible()


def test_the_overview_refreshes_itself(browser: Browser, site: Site) -> None:
    with open_page(browser) as page:
        sign_in(page, site, "viewer")
        with session_scope(site.sessions) as session:
            session.get_one(Node, "node-a").link_bps = 123_456_789 * 1000 // 8
            session.get_one(Node, "node-a").seen_at_ms = now_ms()
        expect(page.get_by_text("123.5 Gbit/s")).to_be_visible(timeout=15_000)


def test_times_are_in_the_readers_zone_with_utc_in_the_title(browser: Browser, site: Site) -> None:
    path = f"/models/cold-starts/{site.samples.cold_start.id}"
    shown = []
    for zone in ("UTC", "Asia/Tokyo"):
        with open_page(browser, zone=zone) as page:
            sign_in(page, site, "viewer")
            page.goto(f"{site.address}{path}")
            time = page.locator("time[data-local]").first
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", time.get_attribute("title") or "")
            shown.append(time.inner_text())
            page.goto(f"{site.address}/usage")
            expect(page.get_by_text(f"({zone})")).to_be_visible()
    assert shown[0] != shown[1]


def test_no_page_scrolls_sideways_on_a_phone(browser: Browser, site: Site) -> None:
    model = f"/models/{site.samples.model.id}"
    paths = (
        "/", "/models", "/models/new", model, f"{model}/edit", f"{model}/price", f"{model}/why",
        f"/models/cold-starts/{site.samples.cold_start.id}", "/nodes", "/nodes/node-a", "/tenants", "/tenants/new",
        f"/tenants/{site.samples.tenant.id}", "/keys", "/keys/new", f"/keys/{site.samples.key_id}", "/usage",
        "/ledger", "/audit", "/users", "/users/new", "/account/password",
    )  # fmt: skip
    with open_page(browser, narrow=True) as page:
        sign_in(page, site)
        wide = {}
        for path in paths:
            page.goto(f"{site.address}{path}")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > 390:
                wide[path] = width
        assert wide == {}
        page.get_by_text("Menu").click()
        page.get_by_role("navigation", name="small screens").get_by_role("link", name="Usage").click()
        expect(page.get_by_role("heading", name="Usage")).to_be_visible()


@pytest.mark.parametrize("narrow", [False, True], ids=["desk", "phone"])
def test_a_question_near_the_edge_stays_on_the_screen(browser: Browser, site: Site, *, narrow: bool) -> None:
    with open_page(browser, narrow=narrow) as page:
        sign_in(page, site)
        for path, label in (
            (f"/models/{site.samples.model.id}", "Warm now…"),
            (f"/models/{site.samples.model.id}", "Stop…"),
            (f"/models/{site.samples.model.id}", "Delete…"),
            ("/nodes/node-a", "Drain…"),
            (f"/keys/{site.samples.key_id}", "Revoke…"),
        ):
            page.goto(f"{site.address}{path}")
            page.get_by_text(label).click()
            box = page.locator("details.confirm[open] > form").bounding_box()
            assert box is not None
            assert box["x"] >= 0, (path, label)
            assert box["x"] + box["width"] <= page.evaluate("innerWidth"), (path, label)
