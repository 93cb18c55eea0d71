"""Points at which a test may let a process die, to prove that whatever is killed when, nothing is lost or done twice.

HYDRANT_FAILPOINT names one point (`ledger.committed`, say); reaching it is a SIGKILL, exactly like a crash there.
Without the variable, which is how everything outside tests runs, reaching a point does nothing.
"""

import os
import signal


def reach(name: str) -> None:
    """Die here if HYDRANT_FAILPOINT says so."""
    if os.environ.get("HYDRANT_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
