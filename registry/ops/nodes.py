"""Nodes: what their nodeds report, and whether they may take new stages."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.errors import InvalidError, NotFoundError
from registry.models import Device, Node
from registry.ops import audit, checks


def get_node(session: Session, name: str) -> Node:
    """The node of this name. Raises NotFoundError."""
    node = session.get(Node, name)
    if node is None:
        raise NotFoundError(f"there is no node {name!r}; a node appears when its noded first reports", "node")
    return node


def list_nodes(session: Session) -> Sequence[Node]:
    """All nodes by name."""
    return session.scalars(select(Node).order_by(Node.name)).all()


def cordon(session: Session, actor: str, name: str) -> Node:
    """Give the node no new stage; what runs there goes on."""
    return _mark(session, actor, name, "node.cordon", cordoned=True, draining=False)


def uncordon(session: Session, actor: str, name: str) -> Node:
    """Let the node take stages again; this also ends a drain."""
    return _mark(session, actor, name, "node.uncordon", cordoned=False, draining=False)


def drain(session: Session, actor: str, name: str) -> Node:
    """Cordon the node, and have the controller drain every group with a stage on it."""
    return _mark(session, actor, name, "node.drain", cordoned=True, draining=True)


def upsert_from_report(session: Session, report: Mapping[str, Any], now_ms: int) -> Node:
    """Store a noded's report (docs/interfaces.md, section 7): the node, made at its first report, and its devices.

    A report older than the one stored (same boot, lower `seq`) changes nothing. Raises InvalidError naming the field
    that is missing or of the wrong type. Machines report by themselves, so nothing is audited.
    """
    name = checks.text("node", report.get("node"), limit=80)
    boot_id = checks.text("boot_id", report.get("boot_id"), limit=64)
    seq = checks.integer("seq", report.get("seq"))
    ports = report.get("ports")
    if not isinstance(ports, list) or len(ports) != 2:
        raise InvalidError("ports must be [first, last]", "ports")
    first, last = (checks.integer("ports", port, low=1, high=65535) for port in ports)
    devices = _devices(report.get("devices"))
    address = checks.text("address", report.get("address"), limit=80)
    link_bps = checks.integer("link_bps", report.get("link_bps"), low=1)

    node = session.get(Node, name)
    if node is None:
        node = Node(name=name, cordoned=False, draining=False)
        session.add(node)
    elif node.boot_id == boot_id and seq < node.report_seq:
        return node
    if node.link_bps != link_bps:
        node.fetch_bps = None  # measured on another link
    node.address, node.link_bps, node.port_first, node.port_last = address, link_bps, first, last
    node.boot_id, node.report_seq, node.report, node.seen_at_ms = boot_id, seq, dict(report), now_ms
    session.flush()
    _store_devices(session, node, devices)
    return node


def _devices(reported: Any) -> dict[int, dict[str, Any]]:
    if not isinstance(reported, list) or not all(isinstance(device, dict) for device in reported):
        raise InvalidError("devices must be a list of objects", "devices")
    devices: dict[int, dict[str, Any]] = {}
    for device in reported:
        index = checks.integer("devices.index", device.get("index"), high=1023)
        if device.get("kind") not in ("cpu", "cuda"):
            raise InvalidError("devices.kind must be cpu or cuda", "devices")
        if index in devices:
            raise InvalidError(f"devices has index {index} twice", "devices")
        devices[index] = {
            "kind": device["kind"],
            "name": str(device.get("name", ""))[:120],
            "memory_bytes": checks.integer("devices.memory_bytes", device.get("memory_bytes"), low=1),
        }
    return devices


def _store_devices(session: Session, node: Node, devices: Mapping[int, Mapping[str, Any]]) -> None:
    stored = {device.idx: device for device in session.scalars(select(Device).where(Device.node_name == node.name))}
    for index, device in stored.items():
        if index not in devices:
            session.delete(device)
    for index, fields in devices.items():
        row = stored.get(index)
        if row is None:
            session.add(Device(node_name=node.name, idx=index, **fields))
            continue
        for field, value in fields.items():
            setattr(row, field, value)
    session.flush()
    session.expire(node, ["devices"])


def _mark(session: Session, actor: str, name: str, action: str, *, cordoned: bool, draining: bool) -> Node:
    node = get_node(session, name)
    node.cordoned, node.draining = cordoned, draining
    audit.record(session, actor, action, name)
    return node
