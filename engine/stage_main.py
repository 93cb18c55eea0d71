"""A stage without a warm runtime, `python -m engine.stage_main DIR`: slower than a fork, then the same."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.runtime import stage
from engine.runtime.imports import import_engine


def main() -> int:
    """Command line entry."""
    if len(sys.argv) != 2:
        print("usage: python -m engine.stage_main STAGE_DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(sys.argv[1]).absolute()
    spec = stage.become_stage(directory)
    import_engine()
    stage.serve(directory, spec)
    return 0


if __name__ == "__main__":
    sys.exit(main())
