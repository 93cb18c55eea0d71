"""Debian's chromium for tests: installed when it is missing, started with a profile of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

INSTALL = Path(__file__).parents[2] / "deploy" / "install-browser.sh"
INSTALL_SECONDS = 240
PATIENCE_MS = 15_000
NARROW = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 800}

# Beyond these the browser would talk to its maker's servers; the sandbox needs rights that containers lack.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Path of the browser; installs it first when there is none (deploy/install-browser.sh says what it does)."""
    if _installed() is None:
        done = subprocess.run([str(INSTALL)], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{INSTALL} could not install a browser:\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}")
    path = _installed()
    if path is None:
        raise RuntimeError(f"{INSTALL} ended well, but there is no chromium on PATH")
    return path


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A headless browser with a fresh profile, gone at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, *, narrow: bool = False, zone: str = "Europe/Berlin") -> Iterator[Page]:
    """A page without cookies. Whatever its console or scripts complain of makes the test fail."""
    context = browser.new_context(viewport=NARROW if narrow else WIDE, timezone_id=zone)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield page
    finally:
        context.close()
    assert complaints == []


def _installed() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")
