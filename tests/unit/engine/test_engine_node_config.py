"""A node's configuration file: defaults, figures, and mistakes named with their remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.node_config import ConfigError, load_config, parse_config

EXAMPLE = """
[node]
name = "node-a"
address = "10.0.0.11"
ports = [32000, 32009]
link_gbps = 0.4
store_gb = 1.5

[[device]]
kind = "cuda"
memory_gb = 70.0

[[device]]
kind = "cuda"
gpu = 7
cores = [0, 1]
"""


def write(path: Path, text: str) -> dict[str, str]:
    """The environment that names a file of this content."""
    file = path / "node.toml"
    file.write_text(text)
    return {"HYDRANT_NODE_CONFIG": str(file), "HYDRANT_HOME": "/srv/hydrant"}


def test_a_full_file_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, EXAMPLE))
    assert (config.name, config.address, config.ports) == ("node-a", "10.0.0.11", (32000, 32009))
    assert config.link_bps == 50_000_000
    assert config.store_bytes == 1_500_000_000
    assert [(device.gpu, device.cores, device.memory_bytes) for device in config.devices] == [
        (0, (), 70_000_000_000),
        (7, (0, 1), None),
    ]
    assert config.api_socket == Path("/srv/hydrant/node-a/noded.sock")


def test_without_a_file_there_are_defaults() -> None:
    config = load_config({"HYDRANT_NODE": "node-b", "HYDRANT_HOME": "/srv/hydrant"})
    assert (config.name, config.address, config.ports, config.link_bps) == ("node-b", "127.0.0.1", (31000, 31099), None)
    assert config.devices == ()
    assert config.engine_python.name == "python"


def test_two_nodes_of_one_machine_share_nothing() -> None:
    one, two = (parse_config({}, {"HYDRANT_NODE": name, "HYDRANT_HOME": "/srv"}) for name in ("a", "b"))
    for field in ("run_dir", "store_dir", "temp_dir", "api_socket", "warm_socket", "signal_socket", "stages_dir"):
        assert getattr(one, field) != getattr(two, field)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[node", "not valid TOML"),
        ("[nodes]", "unknown field 'nodes'"),
        ('[node]\nadress = "x"', "unknown field 'adress'"),
        ('[node]\nname = "../x"', "name"),
        ("[node]\nports = [31000]", "ports"),
        ("[node]\nports = [31099, 31000]", "ports"),
        ("[node]\nports = [80, 90]", "ports"),
        ("[node]\nlink_gbps = 0", "link_gbps"),
        ('[node]\nstore_gb = "all"', "store_gb"),
        ('[[device]]\nkind = "tpu"', "kind"),
        ("[[device]]\ncores = [0]", "kind"),
        ('[[device]]\nkind = "cpu"\ngpu = 0', "gpu"),
        ('[[device]]\nkind = "cpu"\ncores = [-1]', "cores"),
        ('[[device]]\nkind = "cpu"\nmemory_gb = -1', "memory_gb"),
        ('device = "cpu"', "must be a table"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HYDRANT_NODE_CONFIG: cannot read"):
        load_config({"HYDRANT_NODE_CONFIG": str(tmp_path / "none.toml")})


def test_every_socket_that_is_bound_has_room(tmp_path: Path) -> None:
    for length in range(60, 110):
        home = "/" + "x" * (length - 1)
        try:
            config = parse_config({"node": {"run_dir": home}}, {"HYDRANT_NODE": "a"})
        except ConfigError:
            continue
        # As engine.runtime.warm binds it, with the longest process id there is.
        assert len(str(config.run_dir / ".warm.sock.4194304")) <= 107


def test_links_are_resolved_but_not_where_everyone_may_make_them(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    node = {"run_dir": str(tmp_path / "link/run"), "store_dir": str(tmp_path / "link/store")}
    config = parse_config({"node": node}, {"HYDRANT_NODE": "a"})
    assert (config.run_dir, config.store_dir) == (tmp_path / "real/run", tmp_path / "real/store")
    default = parse_config({}, {"HYDRANT_NODE": "a", "HYDRANT_HOME": str(tmp_path)}).store_dir
    default.symlink_to(tmp_path / "real")
    try:
        again = parse_config({}, {"HYDRANT_NODE": "a", "HYDRANT_HOME": str(tmp_path)}).store_dir
        assert again == default, "the weight store refuses it"
    finally:
        default.unlink()


def test_a_home_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(ConfigError, match="too long a path"):
        parse_config({}, {"HYDRANT_NODE": "a", "HYDRANT_HOME": "/" + "x" * 120})
