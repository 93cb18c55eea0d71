"""`python -m bench.coldstart.naive`: a cold start without Hydrant, in the engine's environment.

--prefetch no: fetch the whole model, then become the server whose command follows `--`.
--prefetch yes: the fetch starts with the process, and SGLang is imported beside it; then `python -m
sglang.launch_server`, which that command must be.

In the command, MODEL stands for where the model is put.

Writes times to --events, a JSON line each: {"event": ..., "at_ms": ...}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

FETCH_PYTHON_MODULE = "bench.coldstart.fetch_all"
MODEL = "MODEL"


def note(events: Path, event: str) -> None:
    """Write that `event` happened now."""
    with events.open("a") as file:
        file.write(json.dumps({"event": event, "at_ms": time.time_ns() // 1_000_000}) + "\n")


def main() -> None:
    """Command line entry."""
    at = sys.argv.index("--")
    parser = argparse.ArgumentParser(prog="python -m bench.coldstart.naive")
    parser.add_argument("--prefetch", choices=("yes", "no"), required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", required=True, help="a JSON list of names")
    parser.add_argument("--rate-bps", help="as in fetch_all")
    options = parser.parse_args(sys.argv[1:at])
    server = [str(options.out) if word == MODEL else word for word in sys.argv[at + 1 :]]
    rate = ["--rate-bps", options.rate_bps] if options.rate_bps else []
    names = json.loads(options.files)
    # A process of its own in both rows: no interpreter's lock between the fetch and the imports.
    command = [sys.executable, "-m", FETCH_PYTHON_MODULE, options.url, str(options.out), *names, *rate]
    note(options.events, "fetch_start")
    with subprocess.Popen(command) as fetch:
        if options.prefetch == "yes":
            from sglang.launch_server import run_server
            from sglang.srt.entrypoints import http_server  # noqa: F401 - the long import is what runs beside the fetch
            from sglang.srt.server_args import prepare_server_args

            note(options.events, "imported")
        if fetch.wait() != 0:
            sys.exit(f"the fetch ended with status {fetch.returncode}")
    note(options.events, "fetch_end")
    if options.prefetch == "no":
        os.execv(server[0], server)
    # What follows "python -m sglang.launch_server".
    run_server(prepare_server_args(server[3:]))


if __name__ == "__main__":
    main()
