"""Points at which a test may let a process die, to prove that whatever is killed when, nothing is lost or done twice.

HYDRANT_FAILPOINT names one point (`ledger.committed`, say); reaching it is a SIGKILL, exactly like a crash there. With
`ledger.committed:3` the third time is.
Without the variable, which is how everything outside tests runs, reaching a point does nothing.
"""

import os
import signal
from collections import Counter

_hits: Counter[str] = Counter()


def reach(name: str) -> None:
    """Die here if HYDRANT_FAILPOINT says so."""
    wanted, _, count = os.environ.get("HYDRANT_FAILPOINT", "").partition(":")
    if wanted == name:
        _hits[name] += 1
        if _hits[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
