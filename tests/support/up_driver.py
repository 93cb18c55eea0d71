"""`hydrant up` on another Procfile and without a model: `python up_driver.py ready|starting PROCFILE`.

What is tested is starting, waiting, signals and stopping; the services themselves have tests of their own.
"""

import sys
import time
from pathlib import Path
from typing import Any

from cli import seed, services, up
from cli.seed import Seeded


def main(how_far: str, procfile: str) -> int:
    services.PROCFILE = Path(procfile)
    services.Services.check = lambda _self: None  # type: ignore[method-assign]
    seed.open_database = lambda _settings: None  # type: ignore[assignment,return-value]
    seed.seed = _seed  # type: ignore[assignment]
    up._wait_until_ready = _never if how_far == "starting" else _at_once  # type: ignore[assignment]
    return up.up()


def _seed(*_: object, **__: object) -> Seeded:
    return Seeded(api_key="hyd-once", owner_password="password-once", owner="o@localhost", hydrant="hydrant")


def _at_once(*_: Any) -> None:
    return


def _never(*_: Any) -> None:
    print("waiting for ever", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
