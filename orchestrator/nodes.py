"""Nodes by name."""

from collections.abc import Iterable, Iterator

from orchestrator.types import NodeState


class Nodes:
    """Nodes in the order in which they were given."""

    def __init__(self, nodes: Iterable[NodeState] = ()) -> None:
        self._by_name = {node.name: node for node in nodes}

    def __iter__(self) -> Iterator[NodeState]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def memory_bytes(self) -> int:
        """Device memory of all nodes."""
        return sum(device.memory_bytes for node in self for device in node.devices)

    @property
    def reserved_bytes(self) -> int:
        """What of it groups have reserved."""
        return sum(device.memory_bytes - device.free_bytes for node in self for device in node.devices)

    def get(self, name: str) -> NodeState | None:
        """The node, or None when there is none of that name."""
        return self._by_name.get(name)
