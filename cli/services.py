"""A whole Hydrant on this machine: the Procfile under honcho, with an environment and two nodes' configurations."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cli.progress import Progress
from registry.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PROCFILE = ROOT / "Procfile"
SOCKET_PATH_LIMIT = 90
"""A unix socket's path may have about 107 characters; ours lie a little below HYDRANT_HOME."""
NEEDED_SHM_BYTES = 2_000_000_000
MARK = "HYDRANT_UP"
"""Set to HYDRANT_HOME in what `up` starts, and nowhere else. HYDRANT_HOME itself may be exported in a person's shell,
and would mark the shell, the editor and this very process as ours."""
NOT_FOR_SERVICES = ("HYDRANT_NODE", "HYDRANT_NODE_CONFIG", "HYDRANT_FAILPOINT", "PYTHONDONTWRITEBYTECODE")
"""What the Procfile sets for each node, what only tests set, and what would slow every start."""
DRAIN_S = 4
"""How long running answers may go on when everything stops."""
GATEWAY_ENDS_WITHIN_S = DRAIN_S + 4.0
"""Then it has also told Redis of the answers that were cut."""
HONCHO_ENDS_WITHIN_S = 8.0
"""It kills after 5 s. One that is asked to end while it still starts its processes fails in its handler and waits
for them for ever; they are then ended without it."""
ENDS_WITHIN_S = 6.0
SWEEP_WITHIN_S = 60.0


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


def nodes_of_up(home: Path) -> frozenset[str]:
    """The nodes that an `up` of this home has started, or would start again: no unit of systemd does."""
    return frozenset(path.stem for path in home.glob("node-[ab].toml"))


@dataclass(frozen=True)
class Ports:
    """Where people and SDKs connect, all on 127.0.0.1."""

    gateway: int
    admin: int
    hosted: int

    @classmethod
    def of(cls, settings: Settings) -> "Ports":
        """HYDRANT_{GATEWAY,ADMIN,HOSTED}_PORT, or 8400, 8401, 8402."""
        return cls(gateway=settings.gateway_port, admin=settings.admin_port, hosted=settings.hosted_port)


def taken(port: int, needs: str, remedy: str) -> CannotStart:
    """What to say of a port that something listens at: `needs` says who wants it, `remedy` what to set otherwise."""
    home = _home_of_listener(port)
    if home is not None:
        return CannotStart(
            f"port {port} is taken by the Hydrant that runs in {home}, and {needs}. End that one (Ctrl-C where it was"
            " started), or give this one ports of its own: set HYDRANT_GATEWAY_PORT, HYDRANT_ADMIN_PORT,"
            " HYDRANT_HOSTED_PORT and HYDRANT_ENGINE_PORTS"
        )
    return CannotStart(
        f"port {port} is taken, and {needs}. Stop what listens there (ss -ltnp 'sport = :{port}'), or set {remedy}"
    )


def _home_of_listener(port: int) -> str | None:
    """HYDRANT_HOME of the `up` or `demo` that started what listens at the port; None when it is something else."""
    pid = _listeners().get(port)
    if pid is not None:
        with suppress(psutil.Error):
            return psutil.Process(pid).environ().get(MARK)
    return None


def _listeners() -> dict[int, int | None]:
    """Each TCP port that something listens at, with the id of the process if that may be seen."""
    sockets = psutil.net_connections("tcp")
    return {one.laddr[1]: one.pid for one in sockets if one.status == psutil.CONN_LISTEN and one.laddr}


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
        host = os.environ.get("HYDRANT_GATEWAY_HOST") or "127.0.0.1"
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{self.ports.gateway}"  # noqa: S104 - read, not bound

    @property
    def admin_url(self) -> str:
        """What a person opens."""
        return f"http://127.0.0.1:{self.ports.admin}"

    def environment(self) -> dict[str, str]:
        """What the Procfile's processes are given. Secrets are not in it: each process reads its own."""
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SERVICES}
        return {
            **inherited,
            "HYDRANT_HOME": str(self.home),
            MARK: str(self.home),
            "HYDRANT_GATEWAY_PORT": str(self.ports.gateway),
            "HYDRANT_ADMIN_PORT": str(self.ports.admin),
            "HYDRANT_HOSTED_PORT": str(self.ports.hosted),
            "HYDRANT_DRAIN_TIMEOUT_S": str(DRAIN_S),
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
                    remedy = f"HYDRANT_{name.upper()}_PORT to a free port"
                    raise taken(port, f"the {name} needs it", remedy) from None
        self._check_engine_ports()
        free = shutil.disk_usage("/dev/shm").free
        if free < NEEDED_SHM_BYTES:
            raise CannotStart(
                f"/dev/shm has {free / 1e9:.1f} GB free and weights need {NEEDED_SHM_BYTES / 1e9:.0f}."
                " Enlarge it: mount -o remount,size=8G /dev/shm (in a container: --shm-size=8g)"
            )

    def _check_engine_ports(self) -> None:
        listening = _listeners()
        for node in self.nodes:
            first, last = node.ports
            for port in sorted(port for port in listening if first <= port <= last):
                needs = f"the engines of {node.name} need {first}-{last}"
                raise taken(port, needs, "HYDRANT_ENGINE_PORTS to the first of 200 free ports")

    def start(self) -> None:
        """Write the nodes' configurations and start honcho; returns at once."""
        for node in self.nodes:
            (self.home / f"{node.name}.toml").write_text(node.toml())
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the others in order.
            self._honcho = subprocess.Popen(
                [sys.executable, "-m", "honcho", "start", "-f", str(PROCFILE)],
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
        """End the gateway, honcho and its other processes, then the engines, which outlive their noded by design, and
        what they left."""
        if self._honcho is not None and self._honcho.poll() is None:
            progress.say(f"stopping (running answers get up to {DRAIN_S} s to end, then the rest ends)")
            with progress.during("stopping: the gateway's running answers end"):
                self._end_gateway()
            with progress.during("stopping: the other processes end"):
                self._end_honcho(self._honcho)
        with progress.during("stopping: engines end, and their weights leave shared memory"):
            self.end_all()
            for node in self.nodes:
                trouble = self.sweep(node)
                if trouble:
                    progress.say(f"sweeping {node.name} failed:\n{trouble}")

    def _end_gateway(self) -> None:
        """The gateway first: what it still answers, and the bills of it, need Redis. honcho then ends the others."""
        gateways = []
        for process in marked_processes(self.home):
            with suppress(psutil.Error):
                if process.cmdline()[-2:] == ["-m", "gateway"]:
                    process.terminate()
                    gateways.append(process)
        psutil.wait_procs(gateways, timeout=GATEWAY_ENDS_WITHIN_S)

    @staticmethod
    def _end_honcho(honcho: subprocess.Popen[bytes]) -> None:
        honcho.terminate()
        try:
            honcho.wait(timeout=HONCHO_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(honcho.pid, signal.SIGKILL)
            honcho.wait()

    def end_all(self) -> list[int]:
        """End every process that `up` or `demo` ever started in this home; their ids.

        honcho gives each of its processes a session of its own, so they outlive a honcho that was killed, and all of
        them outlive an `up` that was killed.
        """
        ours = marked_processes(self.home)
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        deadline = time.monotonic() + ENDS_WITHIN_S
        while marked_processes(self.home):
            if time.monotonic() > deadline:
                # What was started meanwhile ends with the rest.
                for process in marked_processes(self.home):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                if time.monotonic() > deadline + ENDS_WITHIN_S:
                    break
            time.sleep(0.1)
        return [process.pid for process in ours]

    def sweep(self, node: DevNode) -> str:
        """End the engines of a node whose noded has ended, and remove what they left; what went wrong, or nothing."""
        environment = {
            **self.environment(),
            "HYDRANT_NODE": node.name,
            "HYDRANT_NODE_CONFIG": str(self.home / f"{node.name}.toml"),
        }
        command = [sys.executable, "-m", "engine.noded", "--sweep"]
        try:
            swept = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SWEEP_WITHIN_S
            )
        except subprocess.TimeoutExpired:
            settings = f"HYDRANT_HOME={shlex.quote(str(self.home))} HYDRANT_NODE={node.name}"
            return f"not done after {SWEEP_WITHIN_S:.0f} s; run it again: {settings} {shlex.join(command)}"
        return "" if swept.returncode == 0 else swept.stderr.strip()


def marked_processes(home: Path) -> list[psutil.Process]:
    """The living processes that an `up` or `demo` of `home` started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home) and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Ended while we looked (a zombie is NoSuchProcess too), or another user's: not ours.
            continue
    return found


def procfile() -> dict[str, str]:
    """Name -> command of each process, as the Procfile has them."""
    lines = PROCFILE.read_text().splitlines()
    entries = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    return {name: command.strip() for name, command in entries}
