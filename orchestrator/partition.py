"""Which layers each stage of a pipeline gets."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

from orchestrator.types import EMBED, HEAD, ModelSpec, layer_group


@dataclass(frozen=True, slots=True)
class Part:
    """One stage's share: layers `first` to `first + count - 1`, with the embedding or head where they belong.

    size_bytes  weights of the stage, in bytes.
    groups      the tensor groups it needs.
    """

    first: int
    count: int
    size_bytes: int
    groups: tuple[str, ...]

    def missing_bytes(self, model: ModelSpec, held: Collection[str]) -> int:
        """Bytes a node must fetch for this stage when it already holds the groups `held`."""
        if not held:
            return self.size_bytes
        return sum(group_bytes(model, group) for group in self.groups if group not in held)


def group_bytes(model: ModelSpec, group: str) -> int:
    """Bytes of a tensor group of `model`; ValueError when the model has no such group."""
    if group == EMBED:
        return model.embed_bytes
    if group == HEAD:
        return model.head_bytes
    kind, _, index = group.partition(":")
    if kind != "layer" or not index.isdecimal() or int(index) >= model.layers:
        raise ValueError(f"model {model.name} has no tensor group {group!r}")
    return model.layer_bytes[int(index)]


def split(model: ModelSpec, stages: int) -> tuple[Part, ...]:
    """Contiguous parts for `stages` stages, each with at least one layer, whose largest is as small as possible.

    The first part also carries the embedding, the last the head, and with tied embeddings a second copy of the
    embedding. Among splits with the same largest part the most even one is taken (least sum of squares), then the one
    whose later parts have more layers, so the answer is unique. ValueError when there are more stages than layers.
    """
    if not 1 <= stages <= model.layers:
        raise ValueError(f"stages: {model.name} has {model.layers} layers, cannot make {stages} stages of them")
    return _split(model.layer_bytes, model.embed_bytes, model.head_bytes, model.tied, stages)


# By what it depends on, not by the model: of ten thousand models, most are fine-tunings of a few.
@lru_cache(maxsize=512)
def _split(
    layer_bytes: tuple[int, ...], embed_bytes: int, head_bytes: int, tied: bool, stages: int
) -> tuple[Part, ...]:
    layers = len(layer_bytes)
    sums = [0]
    for size in layer_bytes:
        sums.append(sums[-1] + size)
    front = embed_bytes
    back = head_bytes + (embed_bytes if tied and stages > 1 else 0)

    def size_of(stage: int, begin: int, end: int) -> int:
        extra = (front if stage == 0 else 0) + (back if stage == stages - 1 else 0)
        return sums[end] - sums[begin] + extra

    low, high = 0, front + sums[-1] + back
    while low < high:
        cap = (low + high) // 2
        if _splits_under(cap, sums, stages, front, back):
            high = cap
        else:
            low = cap + 1
    bounds = _most_even(low, layers, stages, size_of)
    return tuple(_part(tied, bounds, stage, size_of(stage, *bounds[stage])) for stage in range(stages))


def _splits_under(cap: int, sums: list[int], stages: int, front: int, back: int) -> bool:
    """Whether some split keeps every part within `cap`: fill each stage as far as it goes, from the left."""
    layers = len(sums) - 1
    begin = 0
    for stage in range(stages - 1):
        budget = cap - (front if stage == 0 else 0)
        end = begin
        while end < layers - (stages - 1 - stage) and sums[end + 1] - sums[begin] <= budget:
            end += 1
        if end == begin:
            return False
        begin = end
    return sums[layers] - sums[begin] + back + (front if stages == 1 else 0) <= cap


def _most_even(cap: int, layers: int, stages: int, size_of: Callable[[int, int, int], int]) -> list[tuple[int, int]]:
    """Bounds of the split with the least sum of squared part sizes among those whose parts stay within `cap`."""
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    for stage in range(stages):
        left = stages - 1 - stage
        reached: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        for begin, (cost, bounds) in best.items():
            for end in [layers] if left == 0 else range(begin + 1, layers - left + 1):
                size = size_of(stage, begin, end)
                if size > cap:
                    break
                total = cost + size * size
                if end not in reached or total < reached[end][0]:
                    reached[end] = (total, [*bounds, (begin, end)])
        best = reached
    return best[layers][1]


def _part(tied: bool, bounds: list[tuple[int, int]], stage: int, size: int) -> Part:
    begin, end = bounds[stage]
    groups = [layer_group(i) for i in range(begin, end)]
    last = stage == len(bounds) - 1
    if stage == 0 or (last and tied):
        groups.insert(0, EMBED)
    if last:
        groups.append(HEAD)
    return Part(begin, end - begin, size, tuple(groups))
