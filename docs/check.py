"""Checks that the documents name what exists: files, folders, make targets, `hydrant` commands, source folders.

Run by `make check`. Prints one line for each thing that is wrong and exits 1.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STRUCTURE = ROOT / "docs/structure.md"
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#]+)")


def tracked() -> set[str]:
    """Files that git tracks, and their folders, relative to the root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = set(listed.stdout.split("\n")) - {""}
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    return files | folders


def documents() -> list[Path]:
    """Every page for people."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md")])


def wrong_paths(page: Path, known: set[str]) -> Iterator[str]:
    """Paths and links on a page that lead nowhere."""
    text = page.read_text()
    for name in CODE.findall(text):
        first = name.split()[0].split(":")[0].rstrip("/")
        if "/" in first and first.split("/")[0] in known and not set("*<{$") & set(first) and first not in known:
            yield f"{page.relative_to(ROOT)}: `{name}` does not exist"
    for target in LINK.findall(text):
        if not (page.parent / target).resolve().exists():
            yield f"{page.relative_to(ROOT)}: the link to {target} leads nowhere"


def wrong_commands(page: Path) -> Iterator[str]:
    """`make` targets and `hydrant` commands on a page that do not exist or would not take what they are given."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    for target in re.findall(r"(?:^|`|\s{4})make ([a-z-]+)", text, re.MULTILINE):
        if target not in targets:
            yield f"{page.relative_to(ROOT)}: the Makefile has no target {target}"
    for words in hydrant_commands(text):
        trouble = trouble_with(words)
        if trouble is not None:
            yield f"{page.relative_to(ROOT)}: hydrant {' '.join(words)}: {trouble}"


def hydrant_commands(text: str) -> Iterator[list[str]]:
    """The words after `hydrant` of each command on a page, in code blocks and between backticks."""
    blocks = [re.split(r"\s{3,}|\s#", line)[0] for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)]
    for code in (*blocks, *CODE.findall(text)):
        for part in re.split(r"&&|[;|]", code):
            found = re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:\S*/bin/)?hydrant ([a-z].*)", part)
            if found:
                yield shlex.split(found[1])


def trouble_with(words: list[str]) -> str | None:
    """Why the command line would refuse these words; None when it would not. A bare command, as in prose, is fine."""
    from click import Command, Context, Group, UsageError

    from cli.main import cli

    here: Command = cli
    for at, word in enumerate(words):
        if not isinstance(here, Group):
            try:
                here.make_context(here.name, words[at:])
            except UsageError as error:
                return error.format_message()
            return None
        found = here.get_command(Context(here), word)
        if found is None:
            return "there is no such command"
        here = found
    return None


def missing_from_structure(known: set[str]) -> Iterator[str]:
    """Source folders that the structure page does not mention."""
    text = STRUCTURE.read_text()
    folders = {str(Path(name).parent) for name in known if name.endswith(".py") and not name.startswith("tests/")}
    for folder in sorted(folders - {"."}):
        if f"{folder}/" not in text:
            yield f"docs/structure.md: {folder}/ is not on the page"


def main() -> int:
    """0 when everything named exists."""
    known = tracked()
    problems = [*missing_from_structure(known)]
    for page in documents():
        problems += [*wrong_paths(page, known), *wrong_commands(page)]
    for problem in problems:
        print(problem)
    print(f"docs: {len(documents())} pages checked, {len(problems)} problem(s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
