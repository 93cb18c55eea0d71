"""How often a race is run: a few times in the suite, as often as HYDRANT_RACES says by `make races`."""

import os

RACES = int(os.environ.get("HYDRANT_RACES", "3"))
EXAMPLES = max(40, 10 * RACES)
