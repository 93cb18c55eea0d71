"""A node's configuration: the TOML file named by HYDRANT_NODE_CONFIG, and the paths that follow from it.

    [node]
    name = "node-a"                # default: HYDRANT_NODE, then the host name
    address = "10.0.0.11"          # where other nodes and gateways reach this one; default 127.0.0.1
    ports = [31000, 31099]         # for the engines, both ends included
    link_gbps = 25.0               # Gbit/s of this node's link that fetches may use; absent: all of it
    store_gb = 64.0                # GB (1e9 bytes) of host memory for weights
    warm = true                    # false: no warm runtime; stages start plainly, seconds later
    warm_memory_gb = 3.0           # GB that the warm runtime may take; above it, it gives them back and stays away
    engine_python = "/opt/..."     # interpreter of the engine environment; default .venv-engine beside this checkout
    run_dir, store_dir             # default: $HYDRANT_HOME/<name>, /dev/shm/hydrant-<user id>-<digest of run_dir>

    [[device]]                     # default: every NVIDIA GPU, or one CPU device with all cores
    kind = "cpu"                   # or "cuda"
    cores = [0, 1]                 # the cores its engines are pinned to; optional with "cuda"
    memory_gb = 8.0                # GB that models may use; default: all the device has
    gpu = 0                        # with "cuda": NVML index; default: the position among the cuda devices

Standard library only: the engine environment reads it too.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_PORTS = (31000, 31099)
DEFAULT_STORE_GB = 8.0
DEFAULT_WARM_MEMORY_GB = 3.0
SOCKET_PATH_LIMIT = 107
"""Bytes that Linux allows for the path of a unix socket."""
LONGEST_SOCKET = ".warm.sock.4194304"
"""The longest name that is bound in the run directory: the warm runtime's, with its id, before it is renamed."""


class ConfigError(Exception):
    """The node's configuration cannot be used; the message names the field and the remedy."""


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One device as configured. `memory_bytes` None: all it has. `gpu`: NVML index, None for a CPU device."""

    kind: str
    cores: tuple[int, ...]
    memory_bytes: int | None
    gpu: int | None


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node's configuration with every default filled in. `link_bps` is bytes/s, None for no limit."""

    name: str
    address: str
    ports: tuple[int, int]
    link_bps: int | None
    store_bytes: int
    engine_python: Path
    run_dir: Path
    store_dir: Path
    devices: tuple[DeviceConfig, ...]
    warm: bool
    warm_memory_bytes: int

    @property
    def api_socket(self) -> Path:
        """Where noded serves its API."""
        return self.run_dir / "noded.sock"

    @property
    def warm_socket(self) -> Path:
        """Where the warm runtime takes requests."""
        return self.run_dir / "warm.sock"

    @property
    def signal_socket(self) -> Path:
        """Where engines wake noded."""
        return self.run_dir / "signal.sock"

    @property
    def stages_dir(self) -> Path:
        """One directory a stage; the working directory of its processes."""
        return self.run_dir / "stages"

    @property
    def logs_dir(self) -> Path:
        """Logs of stages that have ended."""
        return self.run_dir / "logs"

    @property
    def ended_dir(self) -> Path:
        """The last reports of stages that have ended."""
        return self.run_dir / "ended"

    @property
    def temp_dir(self) -> Path:
        """Parent of the stages' TMPDIRs. Short, because SGLang makes unix sockets in them."""
        return Path(tempfile.gettempdir()).resolve() / f"hydrant-{_digest(self.run_dir)}"


def load_config(environ: Mapping[str, str] | None = None) -> NodeConfig:
    """Read the file that HYDRANT_NODE_CONFIG names; without one, all defaults. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    path = environ.get("HYDRANT_NODE_CONFIG")
    if not path:
        return parse_config({}, environ)
    try:
        content = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"HYDRANT_NODE_CONFIG: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return parse_config(content, environ)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(content: dict[str, Any], environ: Mapping[str, str]) -> NodeConfig:
    """A NodeConfig from parsed TOML. Raises ConfigError."""
    node = _table(content.get("node", {}), "node")
    _only(content, {"node", "device"}, "the file")
    _only(
        node,
        {"name", "address", "ports", "link_gbps", "store_gb", "engine_python", "run_dir", "store_dir"}
        | {"warm", "warm_memory_gb"},
        "[node]",
    )
    name = str(node.get("name") or environ.get("HYDRANT_NODE") or socket.gethostname())
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise ConfigError(f"[node] name: {name!r} may hold letters, digits, '-', '_' and '.'")
    home = Path(environ.get("HYDRANT_HOME") or "~/.local/state/hydrant").expanduser()
    # Without symbolic links: /proc shows where processes work as the kernel knows it, and they are told by that.
    run_dir = Path(node.get("run_dir", home / name)).expanduser().resolve()
    # Everyone may write to /dev/shm: a link that someone has put there is not followed but refused by the weight store.
    store_dir = Path("/dev/shm").resolve() / f"hydrant-{os.getuid()}-{_digest(run_dir)}"  # noqa: S108
    if "store_dir" in node:
        store_dir = Path(node["store_dir"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    link = _number(node, "link_gbps", None, "[node]")
    config = NodeConfig(
        name=name,
        address=str(node.get("address", "127.0.0.1")),
        ports=_ports(node.get("ports", list(DEFAULT_PORTS))),
        link_bps=None if link is None else int(link * 1e9 / 8),
        store_bytes=int((_number(node, "store_gb", DEFAULT_STORE_GB, "[node]") or 0) * 1e9),
        engine_python=Path(node.get("engine_python", checkout / ".venv-engine/bin/python")).expanduser().absolute(),
        run_dir=run_dir,
        store_dir=store_dir,
        warm=_flag(node, "warm", True, "[node]"),
        warm_memory_bytes=int((_number(node, "warm_memory_gb", DEFAULT_WARM_MEMORY_GB, "[node]") or 0) * 1e9),
        devices=tuple(_device(_table(item, "device"), index) for index, item in enumerate(content.get("device", []))),
    )
    if len(os.fsencode(config.run_dir / LONGEST_SOCKET)) > SOCKET_PATH_LIMIT:
        raise ConfigError(
            f"{run_dir} is too long a path for unix sockets: set HYDRANT_HOME or run_dir to a shorter one"
        )
    return config


def _device(table: dict[str, Any], index: int) -> DeviceConfig:
    where = f"[[device]] number {index + 1}"
    _only(table, {"kind", "cores", "memory_gb", "gpu"}, where)
    kind = table.get("kind")
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f'{where}: kind must be "cpu" or "cuda"')
    cores = table.get("cores", [])
    if not isinstance(cores, list) or not all(isinstance(core, int) and core >= 0 for core in cores):
        raise ConfigError(f"{where}: cores must be a list of core numbers")
    gpu = table.get("gpu", index if kind == "cuda" else None)
    if gpu is not None and (kind == "cpu" or not isinstance(gpu, int) or gpu < 0):
        raise ConfigError(f'{where}: gpu is the number of a GPU and goes with kind = "cuda"')
    memory = _number(table, "memory_gb", None, where)
    return DeviceConfig(kind, tuple(cores), None if memory is None else int(memory * 1e9), gpu)


def _ports(value: object) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(port, int) and 1024 <= port <= 65535 for port in value)
        or value[0] > value[1]
    ):
        raise ConfigError("[node] ports: expected [first, last] between 1024 and 65535")
    return (value[0], value[1])


def _number(table: dict[str, Any], name: str, default: float | None, where: str) -> float | None:
    value = table.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"{where} {name}: expected a number above 0")
    return float(value)


def _flag(table: dict[str, Any], name: str, default: bool, where: str) -> bool:
    value = table.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{where} {name}: expected true or false")
    return value


def _table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"[{name}] must be a table")
    return value


def _only(table: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:10]
