"""`python -m bench.lab.store`: serves the files of one directory over HTTP, ranges of them too; the lab's object store.

Bytes go from the page cache to the socket by sendfile(2), so that one process fills a link of several Gbit/s. Prints
`serving` when it takes requests, and ends at SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from aiohttp import web

PORT = 8080
READY = "serving"


async def serve(directory: Path, address: str, port: int) -> None:
    """Serve `directory` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = web.Application()
    # Links are followed: models lie where they lie, and a lab's directory of them holds links.
    app.router.add_static("/", directory, follow_symlinks=True)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port, shutdown_timeout=1).start()
    print(READY, flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench.lab.store", description="A static file server with ranges.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    options = parser.parse_args()
    asyncio.run(serve(options.directory.resolve(strict=True), options.address, options.port))


if __name__ == "__main__":
    main()
