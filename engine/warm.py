"""`python -m engine.warm --socket PATH`: one a node, in the engine environment, supervised by itself (see runtime.warm)."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from engine.runtime import warm
from engine.runtime.environment import node_environment


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m engine.warm", description="Keeps SGLang imported; forks stages.")
    parser.add_argument("--socket", type=lambda text: Path(text).absolute(), required=True, help="unix socket to serve at")
    parser.add_argument("--kind", choices=("cpu", "cuda"), default="cpu", help="kind of this node's devices")
    args = parser.parse_args(argv)
    os.environ.update(node_environment(args.kind))
    warm.serve(args.socket)
    return 0


if __name__ == "__main__":
    sys.exit(main())
