"""The files of `hydrant simulate`: a cluster and its models in TOML. What is wrong with one is said by field."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.simulator.cluster import Cluster, Server
from orchestrator.simulator.simulation import SimModel
from orchestrator.simulator.startup import StartTimes, Style, profile
from orchestrator.types import MAX_STAGES, KindProfile, ModelSpec, Profile

GB = 10**9
USUAL_PROMPT_TOKENS = 512
"""For predictions, which are made before a prompt is seen."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


T = TypeVar("T", bound=BaseModel)


class FileError(ValueError):
    """The file cannot be used; the message names the file and the field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StartFields(_Strict):
    """How engines start on this kind of device; seconds."""

    plain_s: NotNegative
    floor_s: NotNegative
    load_s_per_gb: NotNegative = 0.0


class ServerFields(_Strict):
    """One make of server. GB = 1e9 bytes; `link_gbps` in Gbit/s as fetches get it."""

    kind: Name
    count: Count
    devices: Count
    memory_gb: Positive
    link_gbps: Positive
    cache_gb: NotNegative = 0.0
    start: StartFields | None = None


class ClusterFields(_Strict):
    """The whole file."""

    server: Annotated[list[ServerFields], Field(min_length=1)]


class ModelFields(_Strict):
    """`replicas` models of one make, named NAME-00 and so on; `share` of the requests of all replicas together."""

    name: Name
    label: Name | None = None
    replicas: Count = 1
    share: NotNegative = 1.0
    weights_gb: Positive
    layers: Count
    kv_reserve_gb: NotNegative
    slo_ttft_s: Positive
    slo_tpot_ms: Count | None = None
    tpot_ms: Count
    prefill_us_per_token: Count
    keep_alive_s: NotNegative = 30.0
    capacity: Count = 8
    max_stages: Count = MAX_STAGES


class ModelsFields(_Strict):
    """The whole file."""

    model: Annotated[list[ModelFields], Field(min_length=1)]


def read_cluster(path: Path) -> ClusterFields:
    """The cluster file. Raises FileError."""
    return _read(path, ClusterFields)


def read_models(path: Path) -> ModelsFields:
    """The models file. Raises FileError."""
    return _read(path, ModelsFields)


def cluster_of(fields: ClusterFields, starts: Mapping[str, StartTimes], efficiency: Mapping[str, float]) -> Cluster:
    """The cluster; `starts` and `efficiency` (of a link, 0 to 1) are for kinds whose file does not say how they start.

    Raises FileError when neither says it.
    """
    servers = []
    for i, server in enumerate(fields.server):
        own = server.start
        times = starts.get(server.kind) if own is None else _times(own)
        if times is None:
            raise FileError(f"server.{i}.start: nothing is known of how engines start on {server.kind}; give start")
        share = efficiency.get(server.kind, 1.0) if own is None else 1.0
        servers.append(
            Server(
                kind=server.kind,
                count=server.count,
                devices=server.devices,
                memory_bytes=int(server.memory_gb * GB),
                link_bps=max(1, int(server.link_gbps * 1e9 / 8 * share)),
                cache_bytes=int(server.cache_gb * GB),
                times=times,
            )
        )
    return Cluster(tuple(servers))


def models_of(fields: ModelsFields, cluster: Cluster, style: Style, *, in_place: bool) -> Iterator[SimModel]:
    """The models, for engines that start in that style. Raises FileError for one that fits no device."""
    largest = max(server.memory_bytes for server in cluster.servers)
    for i, model in enumerate(fields.model):
        size = int(model.weights_gb * GB)
        if size + int(model.kv_reserve_gb * GB) > largest:
            raise FileError(
                f"model.{i}.weights_gb: {model.name} needs {model.weights_gb} GB and {model.kv_reserve_gb} GB for its"
                f" KV cache, and the largest device has {largest / GB:g} GB"
            )
        for number in range(model.replicas):
            name = model.name if model.replicas == 1 else f"{model.name}-{number:02d}"
            yield _model(name, model, size, cluster, style, in_place=in_place)


def _model(name: str, model: ModelFields, size: int, cluster: Cluster, style: Style, *, in_place: bool) -> SimModel:
    prefill = USUAL_PROMPT_TOKENS * model.prefill_us_per_token // 1000
    layer = max(1, size * 97 // 100 // model.layers)
    rest = max(0, size - layer * model.layers)
    spec = ModelSpec(
        name=name,
        layer_bytes=(layer,) * model.layers,
        embed_bytes=rest // 2,
        head_bytes=rest - rest // 2,
        tied=False,
        kv_bytes_per_token=0,
        kv_reserve_bytes=int(model.kv_reserve_gb * GB),
        slo_ttft_ms=int(model.slo_ttft_s * 1000),
        slo_tpot_ms=model.slo_tpot_ms,
        profile=Profile(tpot_ms=model.tpot_ms, prefill_ms=prefill),
        max_stages=model.max_stages,
        capacity=model.capacity,
        profiles=tuple(
            KindProfile(kind, profile(style, times, size, model.tpot_ms, prefill))
            for kind, times in cluster.times.items()
        ),
        in_place=in_place,
    )
    return SimModel(spec, model.label or model.name, int(model.keep_alive_s * 1000), model.prefill_us_per_token)


def _times(start: StartFields) -> StartTimes:
    return StartTimes(round(start.plain_s * 1000), round(start.floor_s * 1000), round(start.load_s_per_gb * 1000))


def _read(path: Path, kind: type[T]) -> T:
    try:
        return kind.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FileError(f"{path}: {where}: {first['msg']} (given: {first['input']!r})") from error
