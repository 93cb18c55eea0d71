"""`python -m engine.warm`: one a node, in the engine environment, supervised by itself (see engine.runtime.warm).

Reads the same HYDRANT_NODE_CONFIG as the node's noded, for the socket's path and the kind of the devices.
"""

from __future__ import annotations

import os
import signal
import sys

from engine.node_config import ConfigError, NodeConfig, load_config
from engine.runtime import gpu_facts, warm
from engine.runtime.environment import DeviceKind, driver_loaded, node_environment

IDLE = "--idle"
"""Argument with which it only waits for its end."""


def device_kind(config: NodeConfig) -> DeviceKind:
    """Kind of the node's devices: as configured, or CUDA where the NVIDIA driver is, as noded finds them."""
    if config.devices:
        return "cuda" if config.devices[0].kind == "cuda" else "cpu"
    return "cuda" if driver_loaded() else "cpu"


def main() -> int:
    """Command line entry."""
    try:
        config = load_config()
    except ConfigError as error:
        print(f"warm: {error}", file=sys.stderr)
        return 1
    if not config.warm:
        wait_for_the_end("warm: switched off by the node's configuration; stages start plainly")
        return 0
    if IDLE in sys.argv[1:]:
        wait_for_the_end("warm: waiting for the end")
        return 0
    kind = device_kind(config)
    os.environ.update(node_environment(kind))
    again = [sys.executable, "-m", "engine.warm"]
    try:
        if kind == "cuda":
            gpu_facts.check_one_generation([device.gpu for device in config.devices if device.gpu is not None] or None)
        warm.serve(config.warm_socket, config.warm_memory_bytes)
    except warm.Outdated as change:
        # In place: whoever supervises this process needs not know.
        print(f"warm: {change}; importing anew", flush=True)
        os.execv(sys.executable, again)
    except (warm.TooLarge, gpu_facts.NotForkable) as error:
        # The process that stays has imported nothing, and gives the memory back. (Whoever is started anew by its
        # supervisor would import SGLang again and again.)
        print(f"warm: {error}; until then stages start plainly", file=sys.stderr, flush=True)
        os.execv(sys.executable, [*again, IDLE])
    return 0


def wait_for_the_end(why: str) -> None:
    """Say why, and do nothing until SIGTERM or SIGINT. (What ends by itself, a supervisor starts again and again.)"""
    numbers = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    print(why, flush=True)
    signal.sigwait(numbers)


if __name__ == "__main__":
    sys.exit(main())
