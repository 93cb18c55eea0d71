"""`python -m gateway`: serves until SIGTERM, then lets running streams end for a bounded time."""

from __future__ import annotations

import os
import shutil
import sys

import uvicorn

from gateway.clients.connection import Connection
from gateway.settings import SettingsError, load_settings
from registry.logs import configure_logging


def main() -> int:
    """Runs the gateway; 2 when the environment is not complete."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    configure_logging()
    if settings.workers > 1:
        # prometheus-client sums the processes' metrics through files there; old ones would be counted again.
        directory = settings.home / "gateway-metrics"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    uvicorn.run(
        "gateway.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        proxy_headers=False,  # whom a proxy speaks for only gateway/forward.py asks
        log_config=None,  # uvicorn's own lines have the shape of ours
        server_header=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        timeout_keep_alive=75,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
