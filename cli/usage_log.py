"""Requests for a simulation, from what `hydrant usage csv` writes (or any CSV with the same four columns)."""

import csv
from collections.abc import Collection, Iterable
from pathlib import Path

from cli.cluster_file import FileError
from orchestrator.simulator.workload import Request

COLUMNS = ("started_at_ms", "model_name", "prompt_tokens", "completion_tokens")


def read_log(path: Path, models: Iterable[str], left_out: Collection[str] = ()) -> tuple[list[Request], int]:
    """Requests in order of time, the first at 0 ms; and how many were for models in `left_out`, which are not in them.

    Raises FileError, which names the line, or what is missing.
    """
    known, skipped = set(models), 0
    found: list[tuple[int, str, int, int]] = []
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise FileError(f"{path}: column {missing[0]} is missing; hydrant usage csv writes such a file")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if row["model_name"] not in known:
                if row["model_name"] in left_out:
                    skipped += 1
                    continue
                raise FileError(
                    f"{where}: model_name: {row['model_name']!r} is not among the models to simulate; register it,"
                    " describe it with --models FILE, or remove its lines"
                )
            at, prompt, output = (_number(where, row, name) for name in ("started_at_ms", *COLUMNS[2:]))
            found.append((at, row["model_name"], prompt, max(1, output)))
    if not found:
        only = " for a model to simulate" if skipped else ""
        raise FileError(f"{path}: there is no request{only} in it")
    found.sort()
    began = found[0][0]
    return [Request(at - began, model, prompt, output) for at, model, prompt, output in found], skipped


def _number(where: str, row: dict[str, str], name: str) -> int:
    try:
        value = int(row[name] or "")
    except (TypeError, ValueError):
        raise FileError(f"{where}: {name}: expected a whole number, got {row[name]!r}") from None
    if value < 0:
        raise FileError(f"{where}: {name}: expected at least 0, got {value}")
    return value
