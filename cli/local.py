"""`hydrant up` and `hydrant demo`: everything on this machine."""

import sys
from collections.abc import Callable

import click

from cli.command import Command
from cli.errors import Failure


@click.command(cls=Command, examples=["hydrant up", "HYDRANT_GATEWAY_PORT=18400 hydrant up", "hydrant up --json"])
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready; text goes to standard error.")
def up(as_json: bool) -> None:
    """Start everything on this machine and stay: Redis, gateway, controller, admin UI and two stand-in nodes.

    Prints where the admin UI is and, at the first start, an API key and a one-time password. Ctrl-C (or SIGTERM, or a
    closed terminal) stops all of it.
    """
    from cli.up import up as start

    _run(start, as_json)


@click.command(cls=Command, examples=["hydrant demo", "hydrant demo --json > report.json"])
@click.option("--json", "as_json", is_flag=True, help="Print one JSON report at the end; text goes to standard error.")
def demo(as_json: bool) -> None:
    """The whole path on a real model: a cold start as a pipeline, answers, consolidation, scale to zero, the bill."""
    from cli.demo import demo as start

    _run(start, as_json)


def _run(start: Callable[..., int], as_json: bool) -> None:
    from cli.progress import TimedOut
    from cli.services import CannotStart

    try:
        status = start(as_json=as_json)
    except (CannotStart, TimedOut) as error:
        raise Failure(str(error)) from None
    sys.exit(status)
