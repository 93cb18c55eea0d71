"""Production's units run what the Procfile runs: the same command, with the same secrets."""

import re
import shlex

import pytest

from cli.services import ROOT

UNITS = sorted(ROOT.glob("deploy/systemd/*.service"))
NAMES = [path.stem.removeprefix("hydrant-") for path in UNITS]
NODE = ("noded", "warm", "worker")
SECRETS = {"DATABASE_URL", "HYDRANT_KEY_PEPPER", "HYDRANT_FLASK_SECRET", "HYDRANT_HOSTED_SECRET"}


def unit(name: str) -> dict[str, str]:
    lines = (ROOT / f"deploy/systemd/hydrant-{name}.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def procfile_line(name: str) -> str:
    lines = (ROOT / "Procfile").read_text().splitlines()
    found = [line for line in lines if re.match(rf"{name}(-a)?: ", line)]
    assert len(found) == 1, name
    return found[0].split(": ", 1)[1]


def command_of_procfile(name: str) -> list[str]:
    words = shlex.split(procfile_line(name).partition("exec ")[2])
    if words[0] == "env":
        words = words[1:]
        while words[0] == "-u":
            words = words[2:]
    return _shown(words)


def command_of_unit(name: str) -> list[str]:
    return _shown(shlex.split(unit(name)["ExecStart"].replace("/opt/hydrant/", "")))


def _shown(words: list[str]) -> list[str]:
    """The words with what differs on purpose made equal: the log level, who and where it is."""
    text = re.sub(r"\$\{HYDRANT_HOME(:\?[^}]*)?\}", "$HYDRANT_HOME", " ".join(words).replace(" -l WARNING", ""))
    text = text.replace("${HYDRANT_NODE}", "node-a")
    return re.sub(r"@(hydrant|%%h)\b", "@HOST", text).split()


def test_every_process_but_redis_has_a_unit() -> None:
    in_procfile = {
        re.sub(r"-[ab]$", "", line.split(":")[0])
        for line in (ROOT / "Procfile").read_text().splitlines()
        if not line.startswith("#")
    }
    assert set(NAMES) == in_procfile - {"redis"}


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_runs_what_the_procfile_runs(name: str) -> None:
    assert command_of_unit(name) == command_of_procfile(name)


@pytest.mark.parametrize("name", NAMES)
def test_percent_signs_reach_celery(name: str) -> None:
    # In a system unit %h is the home directory of root; celery's own %h must be written %%h.
    assert not re.search(r"(?<!%)%[a-z]", unit(name)["ExecStart"])


@pytest.mark.parametrize("name", NODE)
def test_nodes_get_neither_secrets_nor_the_database(name: str) -> None:
    assert set(unit(name)["UnsetEnvironment"].split()) >= SECRETS
    for variable in SECRETS:
        assert f"-u {variable} " in procfile_line(name)


def test_a_worker_without_a_node_does_not_start() -> None:
    assert 'test -n "$$HYDRANT_NODE"' in unit("worker")["ExecStartPre"]


@pytest.mark.parametrize("name", ["gateway", "hosted"])
def test_connections_do_not_run_out_of_files(name: str) -> None:
    assert int(unit(name)["LimitNOFILE"]) == 65536
