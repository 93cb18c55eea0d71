"""`hydrant up` and `hydrant demo`: everything on this machine."""

import importlib
import sys
from collections.abc import Callable

import click

from cli.command import Command
from cli.errors import Failure


@click.command(cls=Command, examples=["hydrant up", "HYDRANT_GATEWAY_PORT=18400 hydrant up"])
def up() -> None:
    """Start everything on this machine and stay: Redis, gateway, controller, admin UI and two stand-in nodes.

    Prints where the admin UI is, and a one-time password at the first start. Ctrl-C stops all of it.
    """
    _run("cli.up", "up")


@click.command(cls=Command, examples=["hydrant demo"])
def demo() -> None:
    """The whole path on a real model: a cold start as a pipeline, answers, consolidation, scale to zero, the bill."""
    _run("cli.demo", "demo")


def _run(module: str, function: str) -> None:
    from cli.progress import TimedOut
    from cli.services import CannotStart

    start: Callable[[], int] = getattr(importlib.import_module(module), function)
    try:
        status = start()
    except (CannotStart, TimedOut) as error:
        raise Failure(str(error)) from None
    sys.exit(status)
