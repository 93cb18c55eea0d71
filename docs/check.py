"""Checks that the documents name what exists: files, folders, make targets, `hydrant` commands, source folders.

Run by `make check`. Prints one line for each thing that is wrong and exits 1.
"""

import re
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
    """`make` targets and `hydrant` subcommands on a page that do not exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    for target in re.findall(r"(?:^|`|\s{4})make ([a-z-]+)", text, re.MULTILINE):
        if target not in targets:
            yield f"{page.relative_to(ROOT)}: the Makefile has no target {target}"
    for words in re.findall(r"(?:^|`|\s{4})hydrant ((?:[a-z][a-z-]+ ?){1,2})", text, re.MULTILINE):
        if not hydrant_has(tuple(words.split())):
            yield f"{page.relative_to(ROOT)}: there is no command hydrant {words.strip()}"


def hydrant_has(words: tuple[str, ...]) -> bool:
    """Whether `hydrant WORDS...` names a command (a word that follows a command that is no group is its argument)."""
    from click import Command, Context, Group

    from cli.main import main

    here: Command = main
    for word in words:
        if not isinstance(here, Group):
            return True
        found = here.get_command(Context(here), word)
        if found is None:
            return False
        here = found
    return True


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
