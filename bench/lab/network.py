"""Hosts as network namespaces, each with a shaped link to a switch; processes in them; bytes on every link.

The machine's own namespace takes no part: the veth pairs are made between the switch's namespace and the hosts', so it
gets no device, address or route, and cannot reach the hosts by network. Paths, unix sockets too, are shared by all.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from bench.lab import claim, tools
from bench.lab.processes import Processes
from bench.lab.shaping import PAYLOAD, STORE_FACTOR, shape

SWITCH = "switch"
STORE, CLIENT, CONTROL = "store", "client", "control"
DEVICE = "eth0"
"""Every host's link, as the host sees it."""
FIRST_ADDRESS = 11


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """Bytes over a host's link since the network was made, as its kernel counts them.

    Up to 64 KiB that are handed over at once count one set of headers: the figures of a bulk transfer are within 1 % of
    its payload, and some 4 % below the wire's.
    """

    received: int
    sent: int

    def __sub__(self, other: LinkBytes) -> LinkBytes:
        return LinkBytes(self.received - other.received, self.sent - other.sent)


def addresses(nodes: Sequence[str]) -> dict[str, str]:
    """Address of every host: the nodes first, then the store, the client and the control host. Raises ValueError."""
    hosts = [*nodes, STORE, CLIENT, CONTROL]
    for name in hosts:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name) or name == SWITCH or hosts.count(name) > 1:
            raise ValueError(f"{name!r} is no name for a node: lower case letters, digits and '-', each name once")
    return {name: f"10.77.0.{FIRST_ADDRESS + index}" for index, name in enumerate(hosts)}


class Network:
    """See the module. `node_mbit` is a node's link in Mbit/s, each direction; the store has four times that.
    `payload_mbit` is what of it a node may count on.

    A context manager. It also ends with the process: at exit, at SIGINT, and at SIGTERM if nobody else handles that.
    What a killed owner leaves, the next one removes. Raises LabUnavailable, LabBusy, and ValueError for unfit names.
    """

    shaped = True
    """Whether the links themselves have the rate, in both directions and for everything."""

    def __init__(self, nodes: Sequence[str], node_mbit: float = 400) -> None:
        self.addresses = addresses(nodes)
        self.node_mbit = node_mbit
        self.payload_mbit = PAYLOAD * node_mbit
        self._rates = dict.fromkeys(nodes, node_mbit) | {STORE: STORE_FACTOR * node_mbit}
        self._processes = Processes()
        tools.check_prerequisites()
        self._lock: int | None = claim.take()
        self._handlers = _end_on_sigterm()
        atexit.register(self.close)
        try:
            claim.remove_all()
            try:
                self._build()
            except tools.LabError as error:
                raise tools.LabUnavailable(f"cannot make network namespaces here: {error}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def command(self, host: str, argv: Sequence[str | Path]) -> list[str]:
        """What to run so that `argv` runs in a host: the same process becomes `argv`, about 1 ms later.

        It sees the machine's files, but for /sys: that shows the host's devices, and no control groups.
        """
        return [tools.tool("ip"), "netns", "exec", self._namespace(host), *map(str, argv)]

    def start(
        self,
        host: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        pipe: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a host, as `Processes.start`; it is killed when this one dies, and ended by `close`."""
        return self._processes.start(self.command(host, argv), env=env, cwd=cwd, log=log, pipe=pipe)

    def port(self, host: str, usual: int) -> int:
        """Where a host's process may listen: every host has all ports for itself."""
        self._namespace(host)
        return usual

    def counters(self) -> dict[str, LinkBytes]:
        """Bytes on each host's link until now."""
        return {host: self._link_bytes(host) for host in self.addresses}

    def home(self, host: str) -> Path:
        """The host's directory, made if need be; removed with the network."""
        self._namespace(host)
        path = claim.RUN_DIR / host
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def close(self) -> None:
        """End every process of the network and remove it. Does nothing the second time. Raises LabError."""
        if self._lock is None:
            return
        with _undisturbed(self._handlers):
            self._processes.end()
            try:
                claim.remove_all()
            finally:
                claim.release(self._lock)
                self._lock = None
                atexit.unregister(self.close)
            self._processes.reap()

    def _namespace(self, host: str) -> str:
        if host not in self.addresses:
            raise ValueError(f"there is no host {host!r}; there are {', '.join(self.addresses)}")
        return claim.PREFIX + host

    def _link_bytes(self, host: str) -> LinkBytes:
        shown = tools.run("ip", ["-n", self._namespace(host), "-s", "-j", "link", "show", "dev", DEVICE])
        counted: dict[str, Any] = json.loads(shown)[0]["stats64"]
        return LinkBytes(counted["rx"]["bytes"], counted["tx"]["bytes"])

    def _build(self) -> None:
        switch = claim.PREFIX + SWITCH
        for namespace in (switch, *map(self._namespace, self.addresses)):
            tools.run("ip", ["netns", "add", namespace])
            _prepare(namespace)
        links = ["link add name bridge type bridge mcast_snooping 0", "link set dev bridge up"]
        shapes = []
        for index, host in enumerate(self.addresses):
            namespace, port = self._namespace(host), f"port-{index}"
            links += [
                f"link add name {port} type veth peer name {DEVICE} netns {namespace}",
                f"link set dev {port} master bridge up",
            ]
        tools.run("ip", ["-n", switch, "-batch", "-"], links)
        for index, (host, address) in enumerate(self.addresses.items()):
            namespace = self._namespace(host)
            up = [f"address add {address}/24 dev {DEVICE}", "link set dev lo up", f"link set dev {DEVICE} up"]
            tools.run("ip", ["-n", namespace, "-batch", "-"], up)
            if host in self._rates:
                # A queue shapes what leaves by it: the host's end what it sends, the switch's end what it receives.
                shaped = shape(self._rates[host])
                tools.run("tc", ["-n", namespace, "-batch", "-"], [shaped.qdisc(DEVICE)])
                shapes.append(shaped.qdisc(f"port-{index}"))
        tools.run("tc", ["-n", switch, "-batch", "-"], shapes)


def _prepare(namespace: str) -> None:
    """The kernel's settings in a namespace: no IPv6, whose chatter would be counted, and the same TCP on every machine.

    A new namespace has the machine's congestion control. BBR, which some have, pauses by itself; CUBIC may be forbidden
    in namespaces. Reno never is, and over links without a delay of their own it does as well as any.
    """
    settings = "echo 1 >net/ipv6/conf/all/disable_ipv6; echo reno >net/ipv4/tcp_congestion_control"
    tools.run("ip", ["netns", "exec", namespace, "sh", "-ec", f"cd /proc/sys; {settings}"])


def _end_on_sigterm() -> dict[int, Any]:
    """Have SIGTERM end this process by way of its `finally`s, unless it has another meaning here; what to restore."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return {}
    return {signal.SIGTERM: signal.signal(signal.SIGTERM, _exit)}


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def _undisturbed(handlers: Mapping[int, Any]) -> Iterator[None]:
    """SIGINT and SIGTERM that come meanwhile take effect at the end, by `handlers` or as they did before.

    Blocking them would not do: another thread would take them, and their handlers run in the main thread all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda came_now, _: came.append(came_now)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in (*before.items(), *handlers.items()):
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
