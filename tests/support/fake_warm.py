"""The real warm runtime without SGLang: `fake_warm.py SOCKET` forks stand-ins (fake_stage.py) as it forks stages."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Be the warm runtime."""
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests.parent), str(tests)]
    from support import fake_stage

    from engine.runtime import stage, warm

    warm.import_engine = lambda: None  # type: ignore[assignment]
    warm.engine_version = lambda: "none 0"  # type: ignore[assignment]
    stage.serve = fake_stage.serve  # type: ignore[assignment]
    warm.serve(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
