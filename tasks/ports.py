"""Which ports of a node a new stage listens on."""

from collections.abc import Collection


def free_ports(first: int, last: int, taken: Collection[int], count: int, start_at: int) -> list[int]:
    """`count` ports of [first, last] that are not taken, beginning `start_at` places in and wrapping around.

    Moving the start along keeps a port that was just closed out of use while its last connections time out.
    Raises ValueError when too few are free.
    """
    size = last - first + 1
    ring = (first + (start_at + i) % size for i in range(size))
    found: list[int] = []
    for port in ring:
        if len(found) == count:
            break
        if port not in taken:
            found.append(port)
    if len(found) < count:
        raise ValueError(f"only {len(found)} of {count} ports are free in {first}-{last}")
    return found
