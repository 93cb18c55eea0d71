"""`python -m gateway.hosted`: serves the gateway on 127.0.0.1 until SIGTERM."""

from __future__ import annotations

import os
import sys

import uvicorn

from gateway.clients.connection import Connection
from registry.logs import configure_logging

# Before litellm is imported: its import would try to download a price list.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def main() -> int:
    """Runs the process; 2 when the environment is not complete."""
    secret = os.environ.get("HYDRANT_HOSTED_SECRET", "")
    if not secret:
        print("hosted: HYDRANT_HOSTED_SECRET is not set; `hydrant up` makes one for both processes.", file=sys.stderr)
        return 2
    configure_logging()
    from gateway.hosted.app import Hosted

    app = Hosted(
        secret,
        int(os.environ.get("HYDRANT_MAX_BODY_BYTES") or 8 * 1024 * 1024),
        float(os.environ.get("HYDRANT_STALL_TIMEOUT_S") or 600),
    )
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ.get("HYDRANT_HOSTED_PORT") or 8402),
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(os.environ.get("HYDRANT_DRAIN_TIMEOUT_S") or 30),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
