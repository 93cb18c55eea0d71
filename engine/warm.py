"""`python -m engine.warm`: one a node, in the engine environment, supervised by itself (see engine.runtime.warm).

Reads the same HYDRANT_NODE_CONFIG as the node's noded, for the socket's path and the kind of the devices.
"""

from __future__ import annotations

import os
import sys

from engine.node_config import ConfigError, NodeConfig, load_config
from engine.runtime import warm
from engine.runtime.environment import DeviceKind, driver_loaded, node_environment


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
    os.environ.update(node_environment(device_kind(config)))
    warm.serve(config.warm_socket)
    return 0


if __name__ == "__main__":
    sys.exit(main())
