"""`hydrant up` and `hydrant demo`: everything on this machine."""

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
    from cli.up import up as start

    _run(start)


@click.command(cls=Command, examples=["hydrant demo"])
def demo() -> None:
    """The whole path on a real model: a cold start as a pipeline, answers, consolidation, scale to zero, the bill."""
    from cli.demo import demo as start

    _run(start)


def _run(start: Callable[[], int]) -> None:
    from cli.progress import TimedOut
    from cli.services import CannotStart

    try:
        status = start()
    except (CannotStart, TimedOut) as error:
        raise Failure(str(error)) from None
    sys.exit(status)
