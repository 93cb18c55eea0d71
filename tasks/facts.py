"""What manifests and reports say, decoded once: they are large and change seldom; every pass needs a little of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from orchestrator.types import ModelSpec
from registry.manifest import tensor_group
from registry.models import Model, Node
from tasks.learnt import NOTHING, Learnt, learnt_version, read_learnt
from tasks.spec import model_spec

Digests = frozenset[str]
_Fact = TypeVar("_Fact")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model for the planner. `parts`: the digests of each tensor group ("embed", "layer:3", "head")."""

    spec: ModelSpec
    parts: Mapping[str, Digests]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the planner needs of a node's report: `digests` of the tensors that its host memory holds, verified."""

    warm: bool
    digests: Digests


class Held(Mapping[str, frozenset[str]]):
    """Node name -> the tensor groups of one model that it holds whole; worked out for those who ask."""

    def __init__(self, parts: Mapping[str, Digests], stores: Mapping[str, Digests]) -> None:
        self._parts = parts
        self._stores = stores

    def __getitem__(self, node: str) -> frozenset[str]:
        there = self._stores[node]
        return frozenset(part for part, wanted in self._parts.items() if wanted <= there)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stores)

    def __len__(self) -> int:
        return len(self._stores)


class _Newest(Generic[_Fact]):
    """For each id the fact of its newest version: bounded by what there is, and thread-safe, for an entry is replaced
    whole."""

    def __init__(self) -> None:
        self._facts: dict[str, tuple[object, _Fact]] = {}

    def get(self, key: str, version: object) -> _Fact | None:
        known = self._facts.get(key)
        return known[1] if known is not None and known[0] == version else None

    def put(self, key: str, version: object, fact: _Fact) -> _Fact:
        self._facts[key] = (version, fact)
        return fact


class Facts:
    """The facts that one process has decoded so far."""

    def __init__(self) -> None:
        self._models: _Newest[ModelFacts] = _Newest()
        self._calibrated: _Newest[ModelFacts] = _Newest()
        self._nodes: _Newest[NodeFacts] = _Newest()
        self._learnt = NOTHING

    def of_model(self, model: Model, learnt: Learnt) -> ModelFacts:
        """Of a model; its manifest, which may be deferred, is loaded only when the model has changed."""
        version = (model.updated_at_ms, learnt.version)
        known = self._calibrated.get(model.id, version)
        if known is not None:
            return known
        base = self._models.get(model.id, model.updated_at_ms)
        if base is None:
            base = ModelFacts(model_spec(model), part_digests(model))
            self._models.put(model.id, model.updated_at_ms, base)
        spec = replace(base.spec, profiles=learnt.profiles(model))
        return self._calibrated.put(model.id, version, replace(base, spec=spec))

    def learnt(self, session: Session) -> Learnt:
        """What starts have taken, read anew when something was learnt since."""
        if learnt_version(session) != self._learnt.version:
            self._learnt = read_learnt(session)
        return self._learnt

    def of_node(self, node: Node) -> NodeFacts:
        """Of a node; its report, which may be deferred, is loaded only when there is a new one."""
        version = (node.boot_id, node.report_seq)
        known = self._nodes.get(node.name, version)
        if known is not None:
            return known
        report = node.report
        warm, digests = report.get("warm", {}).get("ready"), report.get("store", {}).get("digests", ())
        return self._nodes.put(node.name, version, NodeFacts(bool(warm), frozenset(digests)))


def part_digests(model: Model) -> Mapping[str, Digests]:
    """The content digests of every tensor of each part that stages are made of."""
    parts: dict[str, set[str]] = {}
    for tensor in model.manifest["tensors"]:
        group = tensor_group(tensor["name"])
        if group is not None:
            parts.setdefault(group, set()).add(tensor["sha256"])
    return {group: frozenset(wanted) for group, wanted in parts.items()}
