"""A process that runs a WeightStore until it is killed: `python weights_daemon.py <root> <effect.json>`."""

import asyncio
import json
import sys
from pathlib import Path

from engine.weights.spec import Prefetch
from engine.weights.store import WeightStore


async def main(root: str, effect: object) -> None:
    store = WeightStore(Path(root), 10**9)
    await store.start()
    store.prefetch(Prefetch.from_json(effect))
    await asyncio.sleep(300)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))
