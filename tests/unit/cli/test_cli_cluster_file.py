"""Cluster and model files: what is read from them, and that what is wrong is said by field."""

import re

import pytest

from cli.cluster_file import FileError, cluster_of, models_of, read_cluster, read_models
from orchestrator.simulator.startup import StartTimes, Style

CLUSTER = """
[[server]]
kind = "L40S"
count = 2
devices = 4
memory_gb = 48
link_gbps = 20
cache_gb = 100
start = { plain_s = 9, floor_s = 2.5, load_s_per_gb = 0.2 }
"""
MODELS = """
[[model]]
name = "chat"
replicas = 2
weights_gb = 16
layers = 32
kv_reserve_gb = 5
slo_ttft_s = 5
tpot_ms = 30
prefill_us_per_token = 100
"""


@pytest.fixture
def write(tmp_path):
    def file(text):
        path = tmp_path / "file.toml"
        path.write_text(text)
        return path

    return file


def test_a_cluster_and_its_models(write):
    cluster = cluster_of(read_cluster(write(CLUSTER)), {}, {})
    assert [name for name, _ in cluster.hosts()] == ["L40S-0000", "L40S-0001"]
    (server,) = cluster.servers
    assert (server.memory_bytes, server.link_bps, server.times) == (
        48 * 10**9,
        2_500_000_000,
        StartTimes(9000, 2500, 200),
    )
    models = list(models_of(read_models(write(MODELS)), cluster, Style.OVERLAPPED, in_place=False))
    assert [model.spec.name for model in models] == ["chat-00", "chat-01"]
    assert models[0].spec.weights_bytes == 16 * 10**9
    assert models[0].spec.on("L40S").profile.runtime_floor_ms == 2500


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("memory_gb = 48", "memory_gb = -1", "server.0.memory_gb: "),
        ("memory_gb = 48", "memory_gb = nan", "server.0.memory_gb: "),
        ("memory_gb = 48", "memory_gb = inf", "server.0.memory_gb: "),
        ("link_gbps = 20", "link_gbps = 0", "server.0.link_gbps: "),
        ("count = 2", "count = 0", "server.0.count: "),
        ("count = 2", "count = 1.5", "server.0.count: "),
        ("count = 2", "", "server.0.count: Field required"),
        ("count = 2", "count = 2\ncolour = 1", "server.0.colour: "),
        ("plain_s = 9", "plain_s = -9", "server.0.start.plain_s: "),
        ("[[server]]", "[[serve]]", "server: Field required"),
        ("[[server]]", "[[server]", "is not TOML"),
    ],
)
def test_a_cluster_file_that_cannot_be_is_refused_by_field(write, before, after, says):
    path = write(CLUSTER.replace(before, after))
    with pytest.raises(FileError, match=re.escape(f"{path}: {says}")):
        read_cluster(path)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("weights_gb = 16", "weights_gb = 0", "model.0.weights_gb: "),
        ("layers = 32", "layers = 0", "model.0.layers: "),
        ("slo_ttft_s = 5", "slo_ttft_s = nan", "model.0.slo_ttft_s: "),
        ('name = "chat"', 'name = "a b"', "model.0.name: "),
    ],
)
def test_a_models_file_that_cannot_be_is_refused_by_field(write, before, after, says):
    path = write(MODELS.replace(before, after))
    with pytest.raises(FileError, match=re.escape(f"{path}: {says}")):
        read_models(path)


def test_a_model_larger_than_any_device_is_refused(write):
    cluster = cluster_of(read_cluster(write(CLUSTER)), {}, {})
    large = read_models(write(MODELS.replace("weights_gb = 16", "weights_gb = 44")))
    with pytest.raises(FileError, match=re.escape("model.0.weights_gb: chat needs 44.0 GB and 5.0 GB")):
        list(models_of(large, cluster, Style.OVERLAPPED, in_place=True))


def test_a_kind_of_which_nothing_is_known_must_say_how_it_starts(write):
    fields = read_cluster(write(re.sub("start = .*", "", CLUSTER)))
    with pytest.raises(FileError, match=re.escape("server.0.start: ")):
        cluster_of(fields, {}, {})
    (server,) = cluster_of(fields, {"L40S": StartTimes(1, 2, 3)}, {"L40S": 0.5}).servers
    assert (server.times, server.link_bps) == (StartTimes(1, 2, 3), 1_250_000_000)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match=r"nowhere\.toml: No such file"):
        read_cluster(tmp_path / "nowhere.toml")
