"""`hydrant demo` and `hydrant up` as a person runs them: real processes, real SGLang, and nothing left at the end."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import openai
import psutil
import pytest
from support.leaks import assert_none_in_logs, plant
from support.stack import free_ports, wait_for

from cli.leftovers import shared_memory_files
from cli.services import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

HYDRANT = ROOT / ".venv/bin/hydrant"
KEY = re.compile(r"hyd-[0-9a-z]{8}-[A-Za-z0-9_-]{43}")


def environment(temporary: Path, **extra: str) -> dict[str, str]:
    """This shell's, with ports that nobody listens on and temporary files where they can be counted."""
    gateway, admin, hosted = free_ports(3)
    ports = {"HYDRANT_GATEWAY_PORT": gateway, "HYDRANT_ADMIN_PORT": admin, "HYDRANT_HOSTED_PORT": hosted}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HYDRANT_")}
    return inherited | {name: str(port) for name, port in ports.items()} | {"TMPDIR": str(temporary), **extra}


def processes_of(home: Path) -> list[str]:
    """Whatever runs for a HYDRANT_HOME at or below `home`, a line each."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HYDRANT_HOME", "").startswith(str(home)):
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:100]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short temporary directory (unix sockets lie below it); empty at the end, as all of shared memory is of ours."""
    before = shared_memory_files()
    with TemporaryDirectory(prefix="hyc-", dir="/tmp") as name:
        yield Path(name)
        assert_none_in_logs(Path(name))
        assert processes_of(Path(name)) == []
        assert [path.name for path in Path(name).iterdir() if path.name != "home"] == []
    appeared = shared_memory_files() - before
    assert [path for path in appeared if path.name.startswith(("hydrant-", "sglang", "torch_", "psm_"))] == []


def test_the_demo_keeps_its_promises_and_leaves_nothing(temporary: Path, smollm2: Path) -> None:
    done = subprocess.run(
        [HYDRANT, "demo"], env=environment(temporary), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = done.stdout
    for promise in (
        "s=2 w=1",
        "the same planner with links of 1.2 Gbit/s",
        "s=1 w=1",
        "to the first token: 'The capital of France is Paris.'",
        "the anthropic SDK (/v1/messages, litellm lane): 'The capital of France is Paris.'",
        "answer during consolidation: 'The capital of France is Paris.'",
        "the long stream ended normally (length)",
        "scaled to zero",
        "Cold start: prediction and outcome",
        "rank 1 on node-b",
        "Usage and bill, from the SQL ledger",
        "litellm  pipeline",
        "\nequal\n",
        "no process, no socket, no shared-memory file is left",
    ):
        assert promise in told, f"{promise!r} is missing from:\n{told}"


@contextmanager
def running_up(temporary: Path, variables: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`hydrant up`, with the lines that it has printed so far; interrupted at the end if it still runs."""
    process = subprocess.Popen(
        [HYDRANT, "up"], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []

    reader = threading.Thread(target=_read_into, args=(process, lines), daemon=True)
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=90)
        reader.join(timeout=10)
        if process.stdout is not None:
            process.stdout.close()


def _read_into(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_serves_until_it_is_told_to_end(temporary: Path, smollm2: Path, end: signal.Signals) -> None:
    variables = environment(temporary, HYDRANT_HOME=str(temporary / "home"))
    with running_up(temporary, variables) as (process, lines):
        wait_for(
            "the line that says ready",
            lambda: process.poll() is not None or any("Ctrl-C stops everything" in line for line in lines),
            180,
        )
        text = "".join(lines)
        assert process.poll() is None, text
        if end is signal.SIGINT:
            _use(text, variables)
        process.send_signal(end)
        assert process.wait(timeout=90) == 0, "".join(lines)
        assert processes_of(temporary) == []


def _use(text: str, variables: dict[str, str]) -> None:
    """What a person does with what `up` has printed: sign in with the one-time password, ask with the key."""
    key = KEY.search(text)
    password = re.search(r"one-time password\s+(\S+)", text)
    assert key is not None, text
    assert password is not None, text
    plant("the one-time password", password[1])
    admin = f"http://127.0.0.1:{variables['HYDRANT_ADMIN_PORT']}"
    browser = build_opener(HTTPCookieProcessor(CookieJar()))
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', browser.open(f"{admin}/login").read().decode())
    assert token is not None
    form = {"csrf_token": token[1], "email": "owner@localhost", "password": password[1]}
    page = browser.open(f"{admin}/login", urlencode(form).encode()).read().decode()
    assert "New password" in page, page
    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{variables['HYDRANT_GATEWAY_PORT']}/v1", api_key=key[0], timeout=120
    )
    answer = client.chat.completions.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        max_tokens=24,
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_a_demo_that_is_told_to_end_leaves_nothing(temporary: Path, smollm2: Path) -> None:
    with subprocess.Popen(
        [HYDRANT, "demo"], env=environment(temporary), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines: list[str] = []
        reader = threading.Thread(target=_read_into, args=(process, lines), daemon=True)
        reader.start()
        wait_for(
            "an engine that starts",
            lambda: process.poll() is not None or any(": starting" in line for line in lines),
            180,
        )
        assert process.poll() is None, "".join(lines)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=90) != 0
        assert processes_of(temporary) == [], "".join(lines)
