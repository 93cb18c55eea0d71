"""Points at which a test may let a gateway die, as `tasks/failpoints.py` does for the controller.

HYDRANT_FAILPOINT is `name`, or `name:n` for the n-th time that the point is reached.
"""

import os
import signal

_WANTED = os.environ.get("HYDRANT_FAILPOINT", "")
_POINT, _, _COUNT = _WANTED.partition(":")
_hits = 0


def reach(name: str) -> None:
    """Die here, exactly as by a crash, if HYDRANT_FAILPOINT says so."""
    global _hits
    if name != _POINT:
        return
    _hits += 1
    if _hits == int(_COUNT or 1):
        os.kill(os.getpid(), signal.SIGKILL)
