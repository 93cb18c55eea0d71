"""Several hosts on one machine: network namespaces with shaped links, Hydrant's nodes in them, a store to fetch from.

    with Lab([NodeSettings("node-1", core=0), NodeSettings("node-2", core=1)], files_dir=models) as lab:
        lab.nodes["node-1"].client.apply(...)
        lab.network.counters()["node-1"].received

Needs Linux, root and iproute2; without them `LabUnavailable` says what is missing, and `make=PacedNetwork` gives a
stand-in in which fetches alone are slow. There is one lab a machine.
"""

from bench.lab.lab import Lab
from bench.lab.network import LinkBytes, Network
from bench.lab.node import AnyNetwork, LabNode, NodeSettings
from bench.lab.paced import PacedNetwork
from bench.lab.tools import LabBusy, LabError, LabUnavailable

__all__ = [
    "AnyNetwork",
    "Lab",
    "LabBusy",
    "LabError",
    "LabNode",
    "LabUnavailable",
    "LinkBytes",
    "Network",
    "NodeSettings",
    "PacedNetwork",
]
