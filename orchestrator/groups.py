"""Groups, found by what decisions ask for: their id, their model, the pipeline that they replace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.control import GroupView


class Groups:
    """Groups in the order in which they were put. Whoever keeps one over time (a simulator) may change it in place."""

    def __init__(self, groups: Iterable[GroupView] = ()) -> None:
        self._by_id: dict[str, GroupView] = {}
        self._by_model: dict[str, dict[str, GroupView]] = {}
        self._by_parent: dict[str, dict[str, GroupView]] = {}
        for group in groups:
            self.put(group)

    def __iter__(self) -> Iterator[GroupView]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, group_id: str) -> GroupView:
        return self._by_id[group_id]

    def get(self, group_id: str) -> GroupView | None:
        """The group, or None when there is none of that id."""
        return self._by_id.get(group_id)

    def of(self, model: str) -> list[GroupView]:
        """The groups of a model."""
        return list(self._by_model.get(model, _NONE).values())

    def replacing(self, group_id: str) -> list[GroupView]:
        """The groups that were started to replace this pipeline."""
        return list(self._by_parent.get(group_id, _NONE).values())

    def models(self) -> list[str]:
        """Names of the models that have a group."""
        return list(self._by_model)

    def put(self, group: GroupView) -> None:
        """Add the group, or what has become of it."""
        self._by_id[group.group_id] = group
        self._by_model.setdefault(group.model, {})[group.group_id] = group
        if group.parent_id is not None:
            self._by_parent.setdefault(group.parent_id, {})[group.group_id] = group

    def drop(self, group_id: str) -> None:
        """Forget the group. KeyError when there is none of that id."""
        group = self._by_id.pop(group_id)
        _drop(self._by_model, group.model, group_id)
        if group.parent_id is not None:
            _drop(self._by_parent, group.parent_id, group_id)


_NONE: Mapping[str, GroupView] = {}


def _drop(index: dict[str, dict[str, GroupView]], key: str, group_id: str) -> None:
    found = index[key]
    del found[group_id]
    if not found:
        del index[key]
