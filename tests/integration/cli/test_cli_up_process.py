"""`hydrant up` as a process: whatever ends it, nothing that it started goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.services import MARK, ROOT

DRIVER = ROOT / "tests/support/up_driver.py"
SLEEPERS = "one: exec sleep 600\ntwo: exec sleep 600\n"
STUBBORN = SLEEPERS + """deaf: exec sh -c "trap '' TERM; while :; do sleep 1; done"\n"""


class Up:
    """One run of the driver, and what it printed."""

    def __init__(self, home: Path, procfile: Path, how_far: str, **variables: str) -> None:
        self.home = home
        self.output = home.parent / f"output-{time.monotonic_ns()}"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), how_far, str(procfile)],
                env={**os.environ, "PYTHONPATH": str(ROOT), "HYDRANT_HOME": str(home), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 60
        while text not in self.text():
            assert time.monotonic() < end, f"{text!r} did not come:\n{self.text()}"
            assert self.process.poll() is None, self.text()
            time.sleep(0.05)

    def wait_for_services(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(self.started("sleep")) < count:
            assert time.monotonic() < end, self.text()
            time.sleep(0.05)

    def started(self, name: str = "") -> list[psutil.Process]:
        """What is alive, with this in its name, of all that was ever started in this home."""
        found = []
        for process in psutil.process_iter():
            try:  # a process may end between any two questions about it: a service's own `sleep` does all the time
                if process.environ().get(MARK) == str(self.home) and name in process.name():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts `up` in a home of this test's own; whatever is left at the end is killed."""
    home = tmp_path / "home"
    home.mkdir()
    runs: list[Up] = []

    def start(how_far: str = "ready", procfile: str = SLEEPERS, **variables: str) -> Up:
        path = tmp_path / "Procfile"
        path.write_text(procfile)
        runs.append(Up(home, path, how_far, **variables))
        return runs[-1]

    yield start
    for run in runs:
        for process in [run.process, *run.started()]:
            process.kill()
        run.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_in_order(start: Callable[..., Up], number: signal.Signals) -> None:
    up = start()
    up.wait_for("Ctrl-C stops everything")
    up.wait_for_services(2)
    up.process.send_signal(number)
    assert up.process.wait(60) == 0
    assert up.started() == []
    assert up.text().rstrip().endswith("stopped")
    assert "up to 4 s" in up.text()


def test_the_gateway_ends_before_what_its_last_answers_need(start: Callable[..., Up], tmp_path: Path) -> None:
    order = tmp_path / "order"

    def service(name: str, takes_s: float) -> str:
        # The last two words, at which the shell does not look, are how the real gateway's command ends.
        script = f"trap 'sleep {takes_s}; echo {name} >> {order}; exit' TERM; while :; do sleep 0.05; done"
        return f'{name}: exec sh -c "{script}" -m {name}\n'

    up = start(procfile=service("gateway", 1) + service("redis", 0))
    up.wait_for("Ctrl-C stops everything")
    up.wait_for_services(2)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert order.read_text().split() == ["gateway", "redis"]


def test_a_second_signal_does_not_keep_the_rest_from_being_stopped(start: Callable[..., Up]) -> None:
    up = start(procfile=STUBBORN)
    up.wait_for("Ctrl-C stops everything")
    up.wait_for_services(3)
    up.process.send_signal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        time.sleep(0.5)
        up.process.send_signal(number)
    assert up.process.wait(60) == 0
    assert up.started() == []
    assert "Traceback" not in up.text()


def test_a_signal_while_starting_stops_at_once_and_the_secrets_were_shown_before(start: Callable[..., Up]) -> None:
    up = start("starting")
    up.wait_for("waiting for ever")
    up.wait_for_services(2)
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 128 + signal.SIGTERM
    assert up.started() == []
    for secret in ("hyd-once", "password-once"):
        assert up.text().count(secret) == 1


def test_a_signal_in_the_moment_of_starting_is_no_less_orderly(start: Callable[..., Up]) -> None:
    up = start("starting", "\n".join(f"s{i}: exec sleep 600" for i in range(12)) + "\n")
    up.wait_for("waiting for ever")  # honcho is starting its processes now
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 128 + signal.SIGINT
    assert up.started() == []


def test_services_do_not_outlive_a_honcho_that_was_killed(start: Callable[..., Up]) -> None:
    up = start()
    up.wait_for("Ctrl-C stops everything")
    up.wait_for_services(2)
    honcho = next(p for p in psutil.Process(up.process.pid).children() if "honcho" in p.cmdline())
    honcho.kill()
    assert up.process.wait(60) == 1
    assert up.started() == []
    assert "a process has ended" in up.text()


def test_one_home_has_one_up(start: Callable[..., Up]) -> None:
    first = start()
    first.wait_for("Ctrl-C stops everything")
    second = start()
    assert second.process.wait(60) == 1
    assert f"already runs in this home (pid {first.process.pid}" in second.text()
    first.wait_for_services(2)


def test_what_a_killed_up_left_is_ended_by_the_next(start: Callable[..., Up]) -> None:
    first = start()
    first.wait_for("Ctrl-C stops everything")
    first.wait_for_services(2)
    old = {process.pid for process in first.started()}
    first.process.kill()
    first.process.wait()
    second = start()
    second.wait_for("Ctrl-C stops everything")
    second.wait_for_services(2)
    assert "an earlier start" in second.text()
    assert not old & {process.pid for process in second.started()}


def test_a_process_that_merely_has_this_home_in_its_environment_is_left_alone(start: Callable[..., Up]) -> None:
    up = start()
    shell = subprocess.Popen(["sleep", "600"], env={**os.environ, "HYDRANT_HOME": str(up.home)})
    try:
        up.wait_for("Ctrl-C stops everything")
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(60) == 0
        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_documented_variables_reach_the_services_and_only_the_nodes_own_do_not(start: Callable[..., Up]) -> None:
    up = start(
        HYDRANT_KEY_PEPPER="of-the-environment",
        HYDRANT_GATEWAY_WORKERS="2",
        HYDRANT_NODE="not-for-all",
        HYDRANT_FAILPOINT="x",
    )
    up.wait_for("Ctrl-C stops everything")
    up.wait_for_services(2)
    service = up.started("sleep")[0].environ()
    assert service["HYDRANT_KEY_PEPPER"] == "of-the-environment"
    assert service["HYDRANT_GATEWAY_WORKERS"] == "2"
    assert "HYDRANT_NODE" not in service
    assert "HYDRANT_FAILPOINT" not in service
