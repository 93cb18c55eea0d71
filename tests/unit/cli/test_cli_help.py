"""Help teaches: every command has examples that are commands, speaks JSON, and costs no heavy import."""

import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, cli

ONLY_LOCAL = {"up", "demo"}
"""They tell a story while it happens; there is no one document to print."""


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))


EVERY = list(walk(cli))
LEAVES = [(path, command) for path, command in EVERY if not isinstance(command, click.Group)]


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _command in EVERY])
def test_help_says_what_and_how(path: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert command.help
    assert "Examples:" in result.stdout


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _command in LEAVES])
def test_every_command_speaks_json(path: tuple[str, ...], command: click.Command) -> None:
    options = {option for param in command.params for option in param.opts}
    assert "--json" in options or path[0] in ONLY_LOCAL


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _command in EVERY])
def test_every_example_is_a_command_that_parses(path: tuple[str, ...], command: click.Command) -> None:
    for example in command.examples:  # type: ignore[attr-defined]
        words = shlex.split(example.partition("    ")[0].removesuffix("\\"))
        if "hydrant" not in words:
            continue
        words = words[words.index("hydrant") + 1 :]
        end = next((i for i, word in enumerate(words) if word in ("|", "&&", ">") or word.endswith(")")), len(words))
        words = [word for word in words[:end] if word != "..."]
        ctx = click.Context(cli)
        found: click.Command = cli
        while isinstance(found, click.Group) and words:
            nested = found.get_command(ctx, words.pop(0))
            assert nested is not None, example
            found = nested
        if not isinstance(found, click.Group):
            try:
                found.make_context("hydrant", words)
            except click.MissingParameter:
                assert "..." in example or "--help" in words or "\\" in example, example


def test_the_list_of_commands_matches_what_they_say_of_themselves() -> None:
    for name, entry in COMMANDS.items():
        assert entry.summary.endswith("."), name


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cli.main import cli; cli.main(['--help'], standalone_mode=False);"
        "print(sorted({'sqlalchemy', 'celery', 'redis', 'pydantic', 'alembic', 'litellm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["tenant", "nonsense"], ["key", "create"], ["plan"], ["model", "warm"]]
)
def test_a_mistyped_command_is_a_usage_error(words: list[str]) -> None:
    text = CliRunner().invoke(cli, words)
    assert text.exit_code == 2
    assert "Usage:" in text.stderr
    as_json = CliRunner().invoke(cli, [*words, "--json"])
    assert as_json.exit_code == 2
    assert '"error"' in as_json.stdout


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["invoice", "demo"], "Missing argument 'MONTH'"),
        (["model", "register", "x", "/models/x"], "Missing option '--input-price'"),
        (["simulate", "--cluster", "c.toml"], "Missing option '--from-log'"),
    ],
)
def test_what_is_missing_is_named_in_place_of_the_whole_help(words: list[str], missing: str) -> None:
    result = CliRunner().invoke(cli, words)
    assert missing in result.stderr
    assert len(result.stderr.splitlines()) <= 4


def test_a_group_alone_shows_its_help_as_an_error() -> None:
    result = CliRunner().invoke(cli, ["tenant"])
    assert result.exit_code == 2
    assert "top-up" in result.stderr
    assert result.stdout == ""


def test_the_version_is_the_packages() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("hydrant, version ")
