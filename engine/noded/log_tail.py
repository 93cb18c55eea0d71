"""Why an engine died, read from the end of its log."""

from __future__ import annotations

import re
from pathlib import Path

TAIL_BYTES = 64 * 1024
MAX_REASON = 600

_ERROR_LINE = re.compile(r"^(\[[^\]]*\]\s*)?([A-Za-z_][\w.]*(Error|Exception|Timeout|Exit|Running|Interrupt)\b.*)$")
_NOISE = re.compile(
    r"nanobind|leaked|resource_tracker|^\s*(warnings\.warn|File \"|\^+|~)|UserWarning|Fatal Python error|"
    r"sigquit|Received sig|kill_process_tree|SystemExit|server_args=|Rank \d+ scheduler died"
)


def reason_from(log: Path, secrets: tuple[str, ...] = ()) -> str:
    """The most telling line at the end of `log`: its first exception, or else that there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return "it left no log"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    if not lines:
        return "it left an empty log; it may have been killed for want of memory (see dmesg)"
    errors = [match.group(2) for line in lines if (match := _ERROR_LINE.match(line))]
    # The first exception of a chain of deaths is the cause; the ranks' complaints about each other follow it.
    if errors:
        telling = next((line for line in errors if "distributed" not in line.lower()), errors[0])
    else:
        telling = f"no error in its log, so it was probably killed (for want of memory? see dmesg); last: {lines[-1]}"
    for secret in secrets:
        telling = telling.replace(secret, "***")
    return telling[:MAX_REASON]
