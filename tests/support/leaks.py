"""No secret may stand in anything that the suite's processes put out: tests/conftest.py has this look after each test.

A secret is known by its form (API keys, management tokens), or because `plant` was told of it. Looked through are: what
a test has printed and logged, with the processes that inherit its output; logs below its `tmp_path`; and, when helpers
call `assert_none_in_logs` before they remove a directory, those of the processes that wrote there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import pytest

_FORMS = {
    "an API key": re.compile(r"hyd-[0-9a-z]{8}-[A-Za-z0-9_-]{43}"),
    "a management token": re.compile(r"hym-[0-9a-z]{8}-[A-Za-z0-9_-]{43}"),
}
_planted: dict[str, str] = {}


def plant(what: str, secret: str) -> str:
    """From now on `secret` may be found nowhere; `what` it is, is what failures say. Returns it."""
    _planted[secret] = what
    return secret


def leaks(outputs: Mapping[str, str], secrets: Mapping[str, str] | None = None) -> list[str]:
    """Which secret stands in which output, a line each: never the secret itself. `secrets`: further ones, by what they
    are."""
    known = _planted | {secret: what for what, secret in (secrets or {}).items()}
    found = []
    for where, text in outputs.items():
        found += [f"{what} is in {where}" for secret, what in known.items() if secret in text]
        found += [f"{what} is in {where}" for what, form in _FORMS.items() if form.search(text)]
    return found


def logs_below(*directories: Path) -> dict[str, str]:
    """What processes have logged there, by path."""
    paths = (path for directory in directories for path in directory.rglob("*log*"))
    return {str(path): path.read_text(errors="replace") for path in paths if path.is_file()}


def kept_secrets(home: Path) -> dict[str, str]:
    """The secrets that Hydrant has made in this home, by name."""
    path = home / "secrets.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def assert_none_in_logs(home: Path, secrets: Mapping[str, str] | None = None) -> None:
    """Fails if a log below `home` has a secret: a planted one, one that the home has made, or one of `secrets`."""
    assert_none(leaks(logs_below(home), kept_secrets(home) | dict(secrets or {})))


def assert_none(found: Iterable[str]) -> None:
    """Fails with what was found."""
    told = "\n".join(found)
    assert not told, told


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """At a test's end, with its fixtures gone, its report has all that it has put out."""
    report = yield
    if report.when == "teardown":
        directory: Path | None = getattr(item, "funcargs", {}).get("tmp_path")
        logs = logs_below(directory) if directory else {}
        found = leaks(dict(report.sections) | logs)
        if found:
            report.outcome = "failed"
            report.longrepr = "\n".join(found)
    return report
