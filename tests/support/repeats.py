"""How often a race is run: a few times in the suite, as often as HYDRANT_RACES says by `make races`."""

import os

import pytest

RACES = int(os.environ.get("HYDRANT_RACES", "3"))
EXAMPLES = max(40, 10 * RACES)
PATIENCE = pytest.mark.timeout(240 + 20 * RACES)
"""As many repeats as that take longer than any other test, and the machine may be shared."""
