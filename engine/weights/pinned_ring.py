"""From the weights' shared memory to a GPU, through a small ring of pinned buffers.

A GPU's copy engine reads pinned memory only. From other memory the driver copies through a buffer of its own, and the
caller waits for each tensor. Here a tensor goes in pieces: the CPU fills one buffer of the ring while the copy engine
empties others, and nobody waits for the end of a tensor, only for that of the load.

To pin the weights themselves (cudaHostRegister) was not chosen. It takes time for every page (1 to 5 GB a second, as
others have measured), and every stage is a process of its own that would pin anew what it reads once; the ring pins 32
MiB. Of a private mapping, which the reader's is, it would pin copies: pages as they were before their bytes landed. And
the store could not get pinned pages back by evicting them. `bench/gpu` measures both ways.

Tested against a stand-in for CUDA's order of events, not on a GPU (docs/performance.md, "On a GPU"). Needs torch, and
nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)

BUFFERS, BUFFER_BYTES = 4, 8 << 20
"""By its rate, a PCIe 5 link empties a buffer in 0.16 ms; a core fills one in about 1 ms."""


class Event(Protocol):
    """A point in the device's work."""

    def synchronize(self) -> None:
        """Return when the device has come to it."""


class Device(Protocol):
    """A GPU's copies, as CUDA has them."""

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor lies in its memory."""

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Pinned host memory, uint8. Raises RuntimeError where it is refused."""

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Begin to copy `source`, in pinned memory, behind the work of the thread's current stream."""

    def record(self) -> Event:
        """The point behind all that the current stream has been given."""

    def release_pinned(self) -> None:
        """Give back pinned memory that no tensor uses."""


class Cuda:
    """The CUDA device of a process that sees one, as every stage does."""

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor lies in its memory."""
        return bool(tensor.is_cuda)

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Pinned host memory, uint8. Raises RuntimeError where it is refused."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Begin to copy `source`, in pinned memory, behind the work of the thread's current stream."""
        destination.copy_(source, non_blocking=True)

    def record(self) -> Event:
        """The point behind all that the current stream has been given."""
        event: Event = torch.cuda.current_stream().record_event()
        return event

    def release_pinned(self) -> None:
        """Give back pinned memory that no tensor uses."""
        # Without it torch keeps 32 MiB pinned for whoever may want them; old ones cannot do otherwise.
        if hasattr(torch.accelerator, "empty_host_cache"):
            torch.accelerator.empty_host_cache()


class Ring:
    """Pinned buffers, filled and emptied in turn, by one thread and on one stream."""

    def __init__(self, device: Device, buffers: int = BUFFERS, buffer_bytes: int = BUFFER_BYTES) -> None:
        """Raises RuntimeError where pinning is refused."""
        self._device = device
        self._buffers: Sequence[torch.Tensor] = device.pinned(buffers * buffer_bytes).split(buffer_bytes)
        self._emptied: list[Event | None] = [None] * buffers
        self._next = 0

    def takes(self, destination: Any, source: Any) -> bool:
        """Whether `copy` can do it: one tensor of the host to one of the device, of the same shape, both contiguous."""
        return (
            isinstance(destination, torch.Tensor)
            and isinstance(source, torch.Tensor)
            and source.device.type == "cpu"
            and self._device.holds(destination)
            and destination.shape == source.shape
            and destination.is_contiguous()
            and source.is_contiguous()
        )

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Begin to copy `source`, cast to the destination's dtype. It may be overwritten at once.

        Whatever the current stream is given after this finds the bytes; others wait for `finish`.
        """
        to, source = destination.detach().view(-1), source.detach().view(-1)
        count = self._buffers[0].numel() // to.element_size()
        for piece, part in zip(to.split(count), source.split(count), strict=True):
            emptied = self._emptied[self._next]
            if emptied is not None:
                emptied.synchronize()
            buffer = self._buffers[self._next].view(to.dtype)[: piece.numel()]
            buffer.copy_(part)
            self._device.copy(piece, buffer)
            self._emptied[self._next] = self._device.record()
            self._next = (self._next + 1) % len(self._buffers)

    def finish(self) -> None:
        """Return when every byte is on the device, and give the buffers back; the ring cannot be used any more."""
        for emptied in self._emptied:
            if emptied is not None:
                emptied.synchronize()
        self._buffers = ()
        self._device.release_pinned()


class _Copies(TorchFunctionMode):  # type: ignore[misc]
    """Sends this thread's `Tensor.copy_` through a ring where that can be done."""

    def __init__(self, ring: Ring) -> None:
        super().__init__()
        self._ring = ring

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.copy_ and len(args) >= 2 and self._ring.takes(*args[:2]):
            self._ring.copy(*args[:2])
            return args[0]
        return function(*args, **(kwargs or {}))


@contextmanager
def copies_through(device: Device) -> Iterator[None]:
    """Within it, this thread's `device_tensor.copy_(host_tensor)`, by whomever, goes through a ring of its own.

    That is what SGLang's loaders call for every tensor. Where pinning is refused copies stay as they are, and the log
    says why. At its end everything is on the device.
    """
    try:
        ring = Ring(device)
    except RuntimeError as refused:
        logger.warning("weights go to the device from unpinned memory: %s", refused)
        yield
        return
    try:
        with _Copies(ring):
            yield
    finally:
        ring.finish()
