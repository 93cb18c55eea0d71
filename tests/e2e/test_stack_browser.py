"""What an operator does, from the first sign-in to the bill: in a real browser, on the whole stack."""

from collections.abc import Callable, Iterator

import openai
import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import open_page, running_browser
from support.leaks import plant
from support.stack import Stack, accepted, wait_for

from registry.db import session_scope
from registry.ops.admins import create_admin

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(300)]

OWN_PASSWORD = plant("the password of a person", "nine quiet lighthouses at sea")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for this module alone (tests/browser/conftest.py says why)."""
    with running_browser() as running:
        yield running


def sign_in_for_the_first_time(page: Page, stack: Stack, email: str, one_time: str) -> None:
    page.goto(stack.services.admin_url)
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password", exact=True).fill(one_time)
    page.get_by_role("button", name="Sign in").click()
    page.locator("input[name=current]").fill(one_time)
    page.locator("input[name=password]").fill(OWN_PASSWORD)
    page.locator("input[name=again]").fill(OWN_PASSWORD)
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()


def test_from_the_first_sign_in_to_the_bill(stack: Stack, tiny: Callable[..., str], browser: Browser) -> None:
    model_id = tiny("by-browser")
    with session_scope(stack.sessions) as session:
        _, one_time = create_admin(session, "test", email="first@example.org", role="owner")
    assert one_time is not None
    plant("a one-time password", one_time)
    with open_page(browser) as page:
        sign_in_for_the_first_time(page, stack, "first@example.org", one_time)

        page.get_by_role("link", name="Tenants", exact=True).click()
        page.get_by_role("button", name="New tenant").click()
        page.get_by_label("Name").fill("Grey Seal Ltd")
        page.get_by_role("button", name="Create").click()
        page.get_by_label("Amount").fill("1.00")
        page.get_by_label("Reason").fill("Trial")
        page.get_by_role("button", name="Top up").click()
        expect(page.locator(".tile").filter(has_text="Balance")).to_contain_text("$1.00")
        page.get_by_role("button", name="New key").click()
        page.get_by_label("Name").fill("laptop")
        page.get_by_role("button", name="Create").click()
        key = page.get_by_label("API key").input_value()
        page.reload()
        key_page = page.url

        client = openai.OpenAI(base_url=f"{stack.services.gateway_url}/v1", api_key=key, max_retries=0, timeout=120)
        answer = client.completions.create(
            model="by-browser", prompt="Once upon a time", max_tokens=37, extra_body={"ignore_eos": True}
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 37
        (row,) = stack.settled(model_id, 1)

        page.goto(f"{stack.services.admin_url}/usage")
        line = page.locator("tr").filter(has_text="Grey Seal Ltd")
        expect(line.locator("[data-label=Generated]")).to_have_text("37")
        expect(line.locator("[data-label=Prompt]")).to_have_text(str(answer.usage.prompt_tokens))
        dollars = f"{row.cost_nusd / 1e9:.9f}".rstrip("0")
        expect(line.locator("[data-label=Billed]")).to_contain_text(dollars)
        line.locator("[data-label=Held] a").click()
        expect(page.get_by_text("rank 0").first).to_be_visible()

        page.goto(f"{stack.services.admin_url}/models/{model_id}")
        page.get_by_text("Stop…").click()
        page.locator("details.confirm[open] button").click()
        wait_for("the end of the model's workers", lambda: stack.all_over(model_id), 60)

        page.goto(key_page)
        page.get_by_text("Revoke…").click()
        page.locator("details.confirm[open] button").click()
        # That it takes a second at most is tested at the gateway; here the page's own answer takes as long as it takes.
        wait_for("the key to be refused", lambda: not accepted(client), 30)
