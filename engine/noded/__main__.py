"""`python -m engine.noded`: run the node daemon of HYDRANT_NODE_CONFIG; with `--sweep`, remove all that the node owns.

On SIGTERM and SIGINT noded ends and its engines go on serving: the next noded adopts them.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import fcntl
import os
import signal
import sys

import structlog

from engine.node_config import ConfigError, NodeConfig, load_config
from engine.noded import api, inventory, sweep
from engine.noded.node import Node
from engine.weights.inventory import StoreError

PR_SET_CHILD_SUBREAPER = 36

log = structlog.get_logger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m engine.noded", description="The node daemon of a GPU server.")
    parser.add_argument("--sweep", action="store_true", help="stop and remove everything that this node owns, then end")
    args = parser.parse_args(argv)
    # Its figures change by the second; a terminal or journal adds the colours and times it wants.
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        config = load_config()
        config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        hold_lock(config)
        if args.sweep:
            left = sweep.sweep(config)
            for line in left:
                print(f"noded: {line}", file=sys.stderr)
            return 1 if left else 0
        devices = inventory.find_devices(config)
        asyncio.run(run(config, devices))
    except (ConfigError, StoreError, OSError) as error:
        print(f"noded: {error}", file=sys.stderr)
        return 1
    return 0


def hold_lock(config: NodeConfig) -> None:
    """Be the only noded of this node until the process ends. Raises ConfigError when there is another."""
    descriptor = os.open(config.run_dir / "noded.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another noded runs in {config.run_dir}; stop it first") from None


async def run(config: NodeConfig, devices: list[inventory.Device]) -> None:
    """Run noded until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGCHLD, reap)
    # Engines whose parent ends come to noded, so that no zombie of theirs looks alive.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    node = Node(config, devices)
    signals = await api.listen_for_signals(node, config.signal_socket)
    await node.start()
    runner = await api.serve(api.make_app(node), config.api_socket)
    log.info("noded serves", node=config.name, socket=str(config.api_socket), devices=[d.name for d in devices])
    try:
        await stop.wait()
    finally:
        await runner.cleanup()
        signals.close()
        await node.close()
        for path in (config.api_socket, config.signal_socket):
            path.unlink(missing_ok=True)
        log.info("noded ended; its engines go on")


def reap() -> None:
    """Collect ended processes whose parent is this one: plainly started engines and orphans that came to it."""
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


if __name__ == "__main__":
    sys.exit(main())
