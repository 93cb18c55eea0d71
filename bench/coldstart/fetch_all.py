"""`python -m bench.coldstart.fetch_all URL DIR FILE...`: fetch whole files over HTTP. Standard library only.

What a start script does before it starts a server: every file, in parallel ranges, so that the link is full.
"""

from __future__ import annotations

import argparse
import http.client
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

CONNECTIONS = 8
RANGE_BYTES = 16 * 1024 * 1024
PIECE_BYTES = 1024 * 1024


class Pace:
    """Holds all connections together to `rate_bps` bytes a second; None: to nothing."""

    def __init__(self, rate_bps: float | None) -> None:
        self._rate_bps = rate_bps
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def pay(self, size: int) -> None:
        """Wait until `size` more bytes may come."""
        if self._rate_bps is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._rate_bps
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


def fetch_all(url: str, out: Path, files: list[str], rate_bps: float | None = None) -> int:
    """Fetch `files` below `url` into the directory `out`; their bytes. Raises OSError, ValueError for a bad answer."""
    place = urlsplit(url)
    pace = Pace(rate_bps)
    sizes = {name: _size(place.netloc, f"{place.path}/{quote(name)}") for name in files}
    jobs = [(name, begin, min(begin + RANGE_BYTES, size)) for name, size in sizes.items() for begin in _starts(size)]
    for name, size in sizes.items():
        with (out / name).open("wb") as file:
            file.truncate(size)

    def run(job: tuple[str, int, int]) -> None:
        name, begin, end = job
        _range(place.netloc, f"{place.path}/{quote(name)}", out / name, begin, end, pace)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(run, jobs):
            pass
    return sum(sizes.values())


def _starts(size: int) -> Iterator[int]:
    return iter(range(0, size, RANGE_BYTES))


def _size(netloc: str, path: str) -> int:
    connection = http.client.HTTPConnection(netloc, timeout=60)
    try:
        connection.request("HEAD", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{path}: {answer.status} {answer.reason}")
        return int(answer.headers["Content-Length"])
    finally:
        connection.close()


def _range(netloc: str, path: str, out: Path, begin: int, end: int, pace: Pace) -> None:
    connection = http.client.HTTPConnection(netloc, timeout=60)
    try:
        connection.request("GET", path, headers={"Range": f"bytes={begin}-{end - 1}"})
        answer = connection.getresponse()
        if answer.status != 206:
            raise ValueError(f"{path}: asked for a range, got {answer.status}")
        descriptor = os.open(out, os.O_WRONLY)
        try:
            while data := answer.read(PIECE_BYTES):
                pace.pay(len(data))
                os.pwrite(descriptor, data, begin)
                begin += len(data)
        finally:
            os.close(descriptor)
        if begin != end:
            raise ValueError(f"{path}: {end - begin} bytes are missing")
    finally:
        connection.close()


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench.coldstart.fetch_all", description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rate-bps", type=float, help="bytes a second, for machines without a shaped link")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    fetch_all(options.url, options.out, options.files, options.rate_bps)


if __name__ == "__main__":
    main()
