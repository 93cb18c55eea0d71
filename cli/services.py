"""A whole Hydrant on this machine: the Procfile under honcho, with an environment and two nodes' configurations."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cli.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
SOCKET_PATH_LIMIT = 90
"""A unix socket's path may have about 107 characters; ours lie a little below HYDRANT_HOME."""
NEEDED_SHM_BYTES = 2_000_000_000


class CannotStart(Exception):
    """A prerequisite is missing; the message says which, and the remedy."""


@dataclass(frozen=True)
class DevNode:
    """A stand-in for one server: one CPU device on `core`, a link held to `link_gbps` (Gbit/s)."""

    name: str
    core: int
    ports: tuple[int, int]
    link_gbps: float
    memory_gb: float = 6.0
    store_gb: float = 1.0

    def toml(self) -> str:
        """The configuration file that its noded reads."""
        first, last = self.ports
        return (
            f'[node]\nname = "{self.name}"\naddress = "127.0.0.1"\nports = [{first}, {last}]\n'
            f"link_gbps = {self.link_gbps}\nstore_gb = {self.store_gb}\n\n"
            f'[[device]]\nkind = "cpu"\ncores = [{self.core}]\nmemory_gb = {self.memory_gb}\n'
        )


@dataclass(frozen=True)
class Ports:
    """Where people and SDKs connect, all on 127.0.0.1."""

    gateway: int
    admin: int
    hosted: int

    @classmethod
    def from_environment(cls) -> "Ports":
        """HYDRANT_{GATEWAY,ADMIN,HOSTED}_PORT, or 8400, 8401, 8402."""
        names = {"gateway": "8400", "admin": "8401", "hosted": "8402"}
        return cls(**{name: int(os.environ.get(f"HYDRANT_{name.upper()}_PORT", port)) for name, port in names.items()})


class Services:
    """Everything the Procfile starts, as one thing to start and to stop."""

    def __init__(self, home: Path, ports: Ports, nodes: list[DevNode]) -> None:
        self.home = home
        self.ports = ports
        self.nodes = nodes
        self.log = home / "hydrant.log"
        self._honcho: subprocess.Popen[bytes] | None = None

    @property
    def gateway_url(self) -> str:
        """What an SDK's base_url is, without /v1."""
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def admin_url(self) -> str:
        """What a person opens."""
        return f"http://127.0.0.1:{self.ports.admin}"

    def environment(self) -> dict[str, str]:
        """What the Procfile's processes are given. Secrets are not in it: each process reads its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HYDRANT_")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        return {
            **inherited,
            "HYDRANT_HOME": str(self.home),
            "HYDRANT_GATEWAY_PORT": str(self.ports.gateway),
            "HYDRANT_ADMIN_PORT": str(self.ports.admin),
            "HYDRANT_HOSTED_PORT": str(self.ports.hosted),
            # honcho kills what has not ended 5 s after it was asked to.
            "HYDRANT_DRAIN_TIMEOUT_S": "4",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PYTHONUNBUFFERED": "1",
        }

    def check(self) -> None:
        """Raises CannotStart for the first thing that would keep the processes from starting."""
        if not (ROOT / ".venv-engine/bin/python").exists():
            raise CannotStart("the engine's environment is missing. Run: make setup")
        if len(str(self.home)) > SOCKET_PATH_LIMIT:
            raise CannotStart(f"{self.home} is too long a path for unix sockets. Set HYDRANT_HOME to a shorter one.")
        for name, port in vars(self.ports).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise CannotStart(
                        f"port {port} is taken, and the {name} needs it. Stop what listens there"
                        f" (ss -ltnp 'sport = :{port}'), or choose another: HYDRANT_{name.upper()}_PORT=18400 make demo"
                    ) from None
        free = shutil.disk_usage("/dev/shm").free
        if free < NEEDED_SHM_BYTES:
            raise CannotStart(
                f"/dev/shm has {free / 1e9:.1f} GB free and weights need {NEEDED_SHM_BYTES / 1e9:.0f}."
                " Enlarge it: mount -o remount,size=8G /dev/shm (in a container: --shm-size=8g)"
            )

    def start(self) -> None:
        """Write the nodes' configurations and start honcho; returns at once."""
        for node in self.nodes:
            (self.home / f"{node.name}.toml").write_text(node.toml())
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the others in order.
            self._honcho = subprocess.Popen(
                [sys.executable, "-m", "honcho", "start", "-f", str(ROOT / "Procfile")],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def died(self) -> bool:
        """Whether honcho has ended, which it does as soon as one of its processes has."""
        return self._honcho is not None and self._honcho.poll() is not None

    def answers(self, url: str) -> bool:
        """Whether a GET is answered with 200. Raises CannotStart when the processes have ended instead."""
        if self.died():
            raise CannotStart(f"a process ended while starting; the last lines of {self.log}:\n{self.log_tail()}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback addresses
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def log_tail(self, lines: int = 15) -> str:
        """The end of the log, indented."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

    def stop(self, progress: Progress) -> None:
        """End honcho and its processes, then the engines, which outlive their noded by design, and what they left."""
        if self._honcho is not None and self._honcho.poll() is None:
            os.kill(self._honcho.pid, signal.SIGTERM)
            with progress.during("stopping"):
                try:
                    self._honcho.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    os.killpg(self._honcho.pid, signal.SIGKILL)
                    self._honcho.wait()
        for node in self.nodes:
            trouble = self.sweep(node)
            if trouble:
                progress.say(f"sweeping {node.name} failed:\n{trouble}")

    def sweep(self, node: DevNode) -> str:
        """End the engines of a node whose noded has ended, and remove what they left; what went wrong, or nothing."""
        environment = {
            **self.environment(),
            "HYDRANT_NODE": node.name,
            "HYDRANT_NODE_CONFIG": str(self.home / f"{node.name}.toml"),
        }
        swept = subprocess.run(
            [sys.executable, "-m", "engine.noded", "--sweep"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return "" if swept.returncode == 0 else swept.stderr.strip()
