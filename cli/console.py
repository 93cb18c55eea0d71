"""What a command prints: text for people, or with --json one document; warnings go to standard error either way."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click


class Console:
    """The output of one command. `show` is called once."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Something that the person should know although the command succeeds."""
        self._warnings.append(text)
        click.echo(f"warning: {text}", err=True)

    def note(self, text: str) -> None:
        """Progress, for a person who waits; not part of the result."""
        click.echo(text, err=True)

    def show(self, document: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Print the result: `document` with --json, else `lines`."""
        if self.as_json:
            extra = {"warnings": self._warnings} if self._warnings else {}
            click.echo(json.dumps({**document, **extra}, indent=2, ensure_ascii=False))
            return
        for line in lines:
            click.echo(line)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> list[str]:
    """Aligned lines under headings. `right` holds a "1" at each column whose values are flush right, a "." where their
    decimal points are below each other, else "0".

    None is shown as "-"; a line break inside a value would break the table and becomes a blank.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    flush = right.ljust(len(headings), "0")
    for column in range(len(headings)):
        if flush[column] == ".":
            _align_points(cells, column)
    lines = [list(headings), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return [
        "  ".join(_pad(line[c], widths[c], flush[c] in "1.") for c in range(len(widths))).rstrip() for line in lines
    ]


def fields(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """`name  value` lines, aligned."""
    shown = [(name, _cell(value)) for name, value in pairs]
    width = max((len(name) for name, _value in shown), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in shown]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)


def _align_points(cells: list[list[str]], column: int) -> None:
    """Blanks behind the values of a column, so that flush right puts their points below each other."""
    behind = [len(row[column]) - row[column].find(".") if "." in row[column] else 0 for row in cells]
    for row, length in zip(cells, behind, strict=True):
        row[column] += " " * (max(behind) - length)


def _pad(text: str, width: int, flush_right: bool) -> str:
    return text.rjust(width) if flush_right else text.ljust(width)
