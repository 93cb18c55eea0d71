"""A real browser, and the admin UI as it is started in production (`python -m admin_ui`)."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from support.admin_site import Site, running_site
from support.browser import running_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module's tests; each opens pages with cookies of their own.

    Not for the whole session: while it lives, Playwright keeps an event loop running in the tests' thread, and every
    test with an event loop of its own would fail.
    """
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The admin UI over a small busy installation."""
    with running_site() as running:
        yield running
