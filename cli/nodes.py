"""`hydrant node`: the GPU servers, and whether they may take work."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from cli.command import Group, reporting
from cli.console import Console, fields, table
from cli.units import rate, size
from registry.ids import now_ms

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.documents.cluster import NodeDocument
    from registry.models import Node


@click.group(
    cls=Group,
    examples=["hydrant node list", "hydrant node drain gpu-3    before maintenance", "hydrant node uncordon gpu-3"],
)
def node() -> None:
    """GPU servers. A node appears by itself when its noded and node worker first report."""


@node.command("list", examples=["hydrant node list", "hydrant node list --json"])
@reporting
def list_(console: Console) -> None:
    """All nodes: link, devices and how full they are, and when each last reported."""
    from cli.cluster import node_documents
    from cli.workspace import Workspace

    with Workspace(console) as here, here.read() as session:
        documents = node_documents(session, now_ms())
    console.show({"nodes": documents}, nodes_table(documents))


def nodes_table(documents: "list[NodeDocument]") -> list[str]:
    """Nodes under headings."""
    if not documents:
        return ["no node yet; start a noded and a node worker on a GPU server (docs/operations.md)"]
    rows = [
        (
            d["name"],
            d["state"],
            f"{d['seen_ago_ms'] / 1000:.0f} s ago",
            d["address"],
            rate(d["link_bps"]),
            "warm" if d["warm"] else "cold",
            len(d["devices"]),
            size(sum(device["free_bytes"] for device in d["devices"])),
            size(sum(device["memory_bytes"] for device in d["devices"])),
            d["stages"],
        )
        for d in documents
    ]
    headings = ("NODE", "STATE", "SEEN", "ADDRESS", "LINK", "RUNTIME", "DEVICES", "FREE", "MEMORY", "STAGES")
    return table(headings, rows, right="0010101111")


def _warm(document: "NodeDocument") -> str:
    if not document["warm"]:
        return "none: stages start from nothing"
    taken = document["warm_memory_bytes"]
    return document["engine"] or "yes" if taken is None else f"{document['engine']}, {size(taken)} of memory"


def _link(document: "NodeDocument") -> str:
    said, planned = document["link_bps"], document["planned_link_bps"]
    return rate(said) if planned == said else f"{rate(said)}, of which fetches have had {rate(planned)} at best"


@node.command(examples=["hydrant node show gpu-3"])
@click.argument("name")
@reporting
def show(console: Console, name: str) -> None:
    """One node: its devices and the stages on it."""
    from cli.cluster import node_documents, stage_documents
    from cli.workspace import Workspace
    from registry.ops import nodes

    with Workspace(console) as here, here.read() as session:
        nodes.get_node(session, name)
        document = next(d for d in node_documents(session, now_ms()) if d["name"] == name)
        stages = stage_documents(session, node=name)
    lines = fields(
        [
            ("name", document["name"]),
            ("state", document["state"]),
            ("last report", f"{document['seen_ago_ms'] / 1000:.0f} s ago"),
            ("address", document["address"]),
            ("ports", f"{document['port_first']} to {document['port_last']}"),
            ("link", _link(document)),
            ("warm runtime", _warm(document)),
            ("weights held", f"{size(document['store_bytes'])} of at most {size(document['store_limit_bytes'])}"),
        ]
    )
    devices = [
        (d["index"], d["kind"], d["name"], size(d["free_bytes"]), size(d["memory_bytes"])) for d in document["devices"]
    ]
    lines += ["", *table(("DEVICE", "KIND", "NAME", "FREE", "MEMORY"), devices, right="10011")]
    rows = [
        (s["model"], s["group_id"], s["rank"], s["device"], s["layers"], s["state"], size(s["reserved_bytes"]))
        for s in stages
    ]
    headings = ("MODEL", "GROUP", "RANK", "DEVICE", "LAYERS", "STATE", "RESERVED")
    lines += ["", *(table(headings, rows, right="0011001") if rows else ["no stage runs there"])]
    console.show({"node": {**document, "running": stages}}, lines)


@node.command(examples=["hydrant node cordon gpu-3"])
@click.argument("name")
@reporting
def cordon(console: Console, name: str) -> None:
    """Give a node no new stage; what runs there goes on."""
    from registry.ops import nodes

    _mark(console, name, nodes.cordon, "takes no new stage; what runs there goes on")


@node.command(examples=["hydrant node uncordon gpu-3"])
@click.argument("name")
@reporting
def uncordon(console: Console, name: str) -> None:
    """Let a node take stages again; this also ends a drain."""
    from registry.ops import nodes

    _mark(console, name, nodes.uncordon, "takes stages again")


@node.command(examples=["hydrant node drain gpu-3", "hydrant node show gpu-3    until no stage runs there"])
@click.argument("name")
@reporting
def drain(console: Console, name: str) -> None:
    """Empty a node: running answers end, its groups stop and start elsewhere on demand; it takes nothing new."""
    from registry.ops import nodes

    _mark(console, name, nodes.drain, "drains: running answers end there, then its stages stop")


def _mark(console: Console, name: str, mark: "Callable[[Session, str, str], Node]", done: str) -> None:
    from cli.cluster import node_documents
    from cli.workspace import Workspace

    with Workspace(console) as here:
        here.change(lambda session, actor: mark(session, actor, name), publish=False, reconcile=True)
        with here.read() as session:
            document = next(d for d in node_documents(session, now_ms()) if d["name"] == name)
    console.show({"node": document}, [f"{name} {done}"])
