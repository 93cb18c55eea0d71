"""What of models lies in a host's memory: whole tensor groups, the least recently used model going first."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import StrEnum

from orchestrator.partition import group_bytes
from orchestrator.types import ModelSpec


class Keeps(StrEnum):
    """What a host keeps of the weights that it has fetched."""

    NOTHING = "nothing"
    WHOLE_MODELS = "whole_models"
    """Only what one stage fetched whole, as the paper's artifact does."""
    EVERYTHING = "everything"


class HostCache:
    """At most `limit_bytes`; a model that is pinned stays. `noted(model, here)` is told what comes and goes."""

    def __init__(self, limit_bytes: int, noted: Callable[[str, bool], None] = lambda _model, _here: None) -> None:
        self._limit = limit_bytes
        self._noted = noted
        self._held: OrderedDict[str, tuple[ModelSpec, set[str], int]] = OrderedDict()
        self._bytes = 0
        self._pins: dict[str, int] = {}

    def held(self, model: str) -> frozenset[str]:
        """Tensor groups of the model."""
        entry = self._held.get(model)
        return frozenset() if entry is None else frozenset(entry[1])

    def touch(self, model: str) -> None:
        """The model is used now."""
        if model in self._held:
            self._held.move_to_end(model)

    def pin(self, model: str, by: int) -> None:
        """One more (1) or one less (-1) that keeps the model from going."""
        self._pins[model] = self._pins.get(model, 0) + by

    def put(self, spec: ModelSpec, groups: Iterable[str]) -> None:
        """Keep these groups too, if there is room for them without what is pinned."""
        _, there, size = self._held.get(spec.name, (spec, set(), 0))
        fresh = [group for group in groups if group not in there]
        need = sum(group_bytes(spec, group) for group in fresh)
        self.touch(spec.name)
        for name in list(self._held):
            if self._bytes + need <= self._limit:
                break
            if name != spec.name:
                self._drop(name)
        if self._bytes + need <= self._limit:
            self._held[spec.name] = (spec, there | set(fresh), size + need)
            self._bytes += need
            self._noted(spec.name, True)

    def drop_unused(self) -> None:
        """Let go of everything that is not pinned."""
        for name in list(self._held):
            self._drop(name)

    def _drop(self, name: str) -> None:
        if not self._pins.get(name):
            self._bytes -= self._held.pop(name)[2]
            self._noted(name, False)
