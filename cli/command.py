"""How every command of `hydrant` looks: examples in its help, --json, and groups that load their modules when used."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any

import click

from cli.console import Console
from cli.errors import Failure
from cli.option_names import in_options
from registry.errors import RegistryError


class Command(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, as they are typed."""
        _write_examples(formatter, self.examples)


class Group(click.Group):
    """A group of commands, with examples of its own."""

    command_class = Command
    group_class = type  # a group within a group is of the same kind

    def __init__(self, *args: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, as they are typed."""
        _write_examples(formatter, self.examples)


@dataclass(frozen=True)
class Lazy:
    """A command that is imported when it is used: `module:attribute`, and the line that the list of commands shows."""

    target: str
    summary: str


class LazyGroup(Group):
    """A group that imports a command's module only when that command is used."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they were given."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        entry = self._lazy.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._lazy.items()])


def reporting(function: Callable[..., None]) -> Callable[..., None]:
    """Adds --json, passes a Console as the first argument, and has the registry's refusals speak of options."""

    def with_console(as_json: bool, **arguments: Any) -> None:
        try:
            function(Console(as_json=as_json), **arguments)
        except RegistryError as error:
            command = click.get_current_context().command
            raise Failure(in_options(error.message, error.field, command), error.field) from error

    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
    wrapped: Callable[..., None] = option(update_wrapper(with_console, function))
    return wrapped


def confirm(console: Console, question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone, unless --yes was given; a refusal ends the command."""
    if yes:
        return
    if console.as_json or not sys.stdin.isatty():
        raise click.UsageError("this cannot be undone; add --yes to do it without being asked")
    click.confirm(question, abort=True, err=True)


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
