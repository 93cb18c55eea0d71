"""Nodes, devices, groups and stages as the pages show them, from SQL alone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer, joinedload, selectinload

from orchestrator.groups import StageState
from orchestrator.lifecycle import OVER
from registry.models import ColdStart, Device, Group, Model, Node, Stage

OFFLINE_AFTER_MS = 20_000
"""A node that has been silent for this long is shown as offline: its worker reports at least every 5 s."""

OVER_STATES = tuple(state.value for state in OVER)
GONE_STATES = (StageState.GONE.value, StageState.FAILED.value)
"""Of stages without a process: they hold no memory."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Bytes of a device that one stage holds."""

    model: str
    rank: int
    state: str
    bytes: int


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device and who holds its memory."""

    device: Device
    held: tuple[Reservation, ...]

    @property
    def reserved_bytes(self) -> int:
        """What all stages hold together."""
        return sum(part.bytes for part in self.held)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as a person wants to know it. `state`: offline, draining, cordoned or online."""

    node: Node
    state: str
    devices: tuple[DeviceView, ...]

    @property
    def reported(self) -> dict[str, Any]:
        """The last report of its noded; empty before the first."""
        return self.node.report


def node_views(session: Session, now_ms: int) -> list[NodeView]:
    """All nodes by name, with the memory that living groups hold on each device."""
    held: dict[tuple[str, int], list[Reservation]] = defaultdict(list)
    for group in living_groups(session):
        for stage in group.stages:
            part = Reservation(group.model.name, stage.rank, group.state, stage.reserved_bytes)
            held[stage.node_name, stage.device_idx].append(part)
    nodes = session.scalars(select(Node).options(selectinload(Node.devices)).order_by(Node.name))
    return [
        NodeView(
            node,
            _state(node, now_ms),
            tuple(DeviceView(device, tuple(held[node.name, device.idx])) for device in node.devices),
        )
        for node in nodes
    ]


def living_groups(session: Session, model_id: str | None = None) -> Sequence[Group]:
    """Groups that are not over, oldest first, with their stages and models."""
    query = select(Group).where(Group.state.not_in(OVER_STATES))
    if model_id is not None:
        query = query.where(Group.model_id == model_id)
    return session.scalars(_whole(query).order_by(Group.created_at_ms)).all()


def stages_on(session: Session, node_name: str) -> Sequence[Stage]:
    """Stages of living groups on a node, by device."""
    query = (
        select(Stage)
        .join(Group)
        .where(Stage.node_name == node_name, Group.state.not_in(OVER_STATES))
        .options(joinedload(Stage.group).joinedload(Group.model).options(defer(Model.manifest)))
        .order_by(Stage.device_idx, Stage.rank)
    )
    return session.scalars(query).all()


def recent_groups(session: Session, model_id: str, limit: int = 10) -> Sequence[Group]:
    """The last groups of a model, over or not, newest first."""
    query = select(Group).where(Group.model_id == model_id).order_by(Group.created_at_ms.desc()).limit(limit)
    return session.scalars(_whole(query)).all()


def recent_cold_starts(session: Session, *, model_id: str | None = None, limit: int = 8) -> Sequence[ColdStart]:
    """The last cold starts, newest first, with their models (without the models' long manifests)."""
    query = select(ColdStart).options(joinedload(ColdStart.model).options(defer(Model.manifest)))
    if model_id is not None:
        query = query.where(ColdStart.model_id == model_id)
    return session.scalars(query.order_by(ColdStart.requested_at_ms.desc()).limit(limit)).all()


def memory_is_plenty(session: Session, percent: int) -> bool:
    """Whether stages have reserved no more than `percent` of all device memory, as the controller asks before it ends
    an idle worker (orchestrator/idle_memory.py). What a pipeline keeps free for its worker to come is not seen here."""
    memory = session.scalar(select(func.sum(Device.memory_bytes))) or 0
    reserved = session.scalar(select(func.sum(Stage.reserved_bytes)).where(Stage.state.not_in(GONE_STATES))) or 0
    return int(reserved) <= int(memory) * percent // 100


def models_without_manifests(session: Session) -> Sequence[Model]:
    """All live models by name; a manifest can have megabytes and no list shows it."""
    query = select(Model).where(Model.deleted_at_ms.is_(None)).options(defer(Model.manifest))
    return session.scalars(query.order_by(Model.name)).all()


def _whole(query: Any) -> Any:
    return query.options(selectinload(Group.stages), joinedload(Group.model).options(defer(Model.manifest)))


def _state(node: Node, now_ms: int) -> str:
    if now_ms - node.seen_at_ms > OFFLINE_AFTER_MS:
        return "offline"
    if node.draining:
        return "draining"
    return "cordoned" if node.cordoned else "online"
