"""`python -m bench.gateway`: the table, and bench/results/gateway.json and .png. See docs/performance.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from bench import targets
from bench.gateway import crowds, footprint, others, plot, report, rounds, wrk
from bench.gateway.client import LoadError
from bench.gateway.hydrant import COLD_MODELS, GATEWAY, MODEL, Hydrant
from bench.gateway.machine import FILES_WANTED, Cores, free_ports, raise_file_limit, take_cores
from bench.gateway.report import DIRECT, Found
from bench.gateway.rounds import Effort
from bench.gateway.servers import PYTHON, Servers
from bench.gateway.upstream import BURST
from bench.gateway.variant import Variant
from bench.lab.node import ROOT

RESULTS = ROOT / "bench/results"
FILES_PER_STREAM = 2
SPARE_FILES = 200
SETTLE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. `probe_s`: how long another model's answers are timed, thrice."""

    rounds: int
    starts: int
    held: int
    probe_s: float
    streams: int
    stream_tokens: int
    effort: Effort


FULL = Size(5, 5, 2_000, 10.0, 5_000, 20, Effort())
QUICK = Size(1, 1, 40, 1.0, 40, 2, Effort(json_s=1, stream_s=0.5, first_tokens=10))
"""Seconds, to see that all of it works; its figures mean little."""


class Run:
    """One run: the servers, and what is measured of them in turn."""

    def __init__(self, servers: Servers, cores: Cores, size: Size) -> None:
        self._servers, self._cores, self._size = servers, cores, size
        self._began = time.monotonic()
        (self._upstream_port,) = free_ports(1)

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"[bench {time.monotonic() - self._began:5.0f} s] {text}", flush=True)

    async def whole(self, *, with_others: bool) -> tuple[Found, list[Variant], int]:
        """Everything; also the variants, and the usage rows that the ledger has written. Raises LoadError."""
        size = self._size
        direct = await self._start_upstream()
        hydrant = Hydrant(self._servers, self._cores, self._upstream_port)
        try:
            self.say("starts of the gateway")
            started = await footprint.measure(self._servers, hydrant, size.starts)
            hydrant.start_ledger()
            self.say(f"{size.held:,} requests held for cold models")
            held = await crowds.hold(await hydrant.fresh(), COLD_MODELS, size.held, size.probe_s)
            self.say(f"{size.streams:,} open streams")
            streams = await crowds.open_streams(await hydrant.fresh(), size.streams, size.stream_tokens)
            variants = [direct, await hydrant.fresh()]
            if with_others:
                self.say("starting sglang-router and LiteLLM's proxy")
                variants.append(await others.start_router(self._servers, self._cores, self._upstream_port))
                variants.append(await others.start_litellm(self._servers, self._cores, self._upstream_port))
            samples, settled = [], 0
            for number in range(1, size.rounds + 1):
                for variant in variants:
                    sample = await rounds.measure(variant, number, size.effort, self._servers.home)
                    samples.append(sample)
                    self.say(
                        f"round {number}/{size.rounds}, {variant.name}: {sample.json_per_s:,.0f} requests/s,"
                        f" {sample.tokens_per_s:,.0f} tokens/s, first token {sample.first_token_ms:.2f} ms"
                    )
                    if variant.name == GATEWAY:
                        # Else it would go on beside the others' turns.
                        settled = await self._settled(hydrant)
        finally:
            hydrant.close()
        return Found(samples, held, streams, started), variants, settled

    async def _start_upstream(self) -> Variant:
        port = self._upstream_port
        command = (PYTHON, "-m", "bench.gateway.upstream", str(port))
        process = self._servers.start("upstream", self._cores.load, command, os.environ)
        await self._servers.until_up("upstream", process, f"http://127.0.0.1:{port}/health", 30)
        return Variant(DIRECT, port, MODEL, note="the load generator at the upstream, on one core together")

    async def _settled(self, hydrant: Hydrant) -> int:
        """Waits until the ledger has written what this run has used. Raises LoadError."""
        self.say(f"the ledger has {hydrant.unsettled():,} events left to write")
        deadline = time.monotonic() + SETTLE_WITHIN_S
        while hydrant.unsettled():
            if time.monotonic() > deadline:
                raise LoadError(f"the ledger did not write what is left within {SETTLE_WITHIN_S:.0f} s")
            await asyncio.sleep(0.2)
        return hydrant.settled()


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description="Gateways, side by side.")
    parser.add_argument("--quick", action="store_true", help="seconds: direct and Hydrant only, small crowds")
    parser.add_argument("--rounds", type=int, help="how often each variant is measured")
    parser.add_argument("--out", type=Path, default=RESULTS / "gateway", help="path without a suffix")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    if options.rounds:
        size = replace(size, rounds=options.rounds)
    installed = others.LITELLM_BIN.exists() and others.ROUTER_PYTHON.exists()
    if not wrk.is_there() or not (installed or options.quick):
        print("bench.gateway: run deploy/install-wrk.sh and bench/gateway/install.sh first", file=sys.stderr)
        return 2
    files = raise_file_limit()
    if files < size.streams * FILES_PER_STREAM + SPARE_FILES:
        print(
            f"bench.gateway: this user's processes may open {files} files, and {size.streams:,} streams need"
            f" {FILES_WANTED}: raise it (ulimit -Hn {FILES_WANTED}, as root)",
            file=sys.stderr,
        )
        return 2
    cores = take_cores()
    if not cores.apart:
        print("[bench] ONE CORE: the load generator and the servers disturb each other", flush=True)
    home = Path(tempfile.mkdtemp(prefix="hyd-bench-"))
    servers = Servers(home)
    try:
        found, variants, settled = uvloop.run(Run(servers, cores, size).whole(with_others=not options.quick))
    finally:
        servers.close()
        shutil.rmtree(home)
    print("\nmedians of the rounds; CPU and memory are the server's own")
    print("\n".join(report.side_by_side(found.samples)))
    print("\n".join(f"{variant.name}: {variant.note}" for variant in variants))
    print("\n" + "\n".join(report.alone(found)))
    print(f"the ledger has written {settled:,} usage rows")
    print("\n" + "\n".join(targets.lines(report.targets(found))))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "apart": cores.apart,
            # Which build it is counts for a tenth: Hydrant and LiteLLM's proxy run on the same one.
            "python": sys.version,
        },
        "quick": options.quick,
        "json_connections": rounds.JSON_CONNECTIONS,
        "streams": rounds.STREAMS,
        "tokens_a_write": BURST,
        "notes": {variant.name: variant.note for variant in variants},
        "usage_rows_settled": settled,
        **report.document(found),
    }
    options.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    title = f"Gateways on one core each, medians of {size.rounds} rounds"
    plot.draw(found.samples, options.out.with_suffix(".png"), title)
    print(f"\nwrote {options.out.with_suffix('.json')} and {options.out.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
