"""One real service for every test of how clients get on with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.real_service import RealService, real_service


@pytest.fixture(scope="session")
def service() -> Iterator[RealService]:
    """Gateway, hosted process and two SGLang engines."""
    with real_service() as running:
        yield running
