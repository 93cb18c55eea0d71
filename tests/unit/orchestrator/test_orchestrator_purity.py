"""The orchestrator decides and does nothing else: no clock, no chance, no input or output."""

import ast
from pathlib import Path

import pytest

import orchestrator

ALLOWED = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "operator",
    "statistics",
    "orchestrator",
    "types",
    "typing",
}
MODULES = sorted(Path(orchestrator.__path__[0]).glob("*.py"))
EFFECTS = {"open", "print", "input", "eval", "exec", "__import__"}


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_nothing_that_acts(module):
    assert imported(ast.parse(module.read_text())) <= ALLOWED


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_module_calls_nothing_that_acts(module):
    called = {
        node.func.id
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called.isdisjoint(EFFECTS)
