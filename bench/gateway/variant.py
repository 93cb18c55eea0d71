"""What is measured: a server at a port, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the servers that are compared. `pid` None: there is none of its own (direct). `note`: what is said
    beside its figures."""

    name: str
    port: int
    model: str
    api_key: str = "none"
    pid: int | None = None
    note: str = ""
