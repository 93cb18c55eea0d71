"""`hydrant`: the command line. Exit status 0: done; 1: it could not be done, and why; 2: the command was mistyped."""

import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from cli.command import Lazy, LazyGroup
from cli.errors import Failure, expected

EXIT_FAILURE = 1
EXIT_USAGE = 2

COMMANDS = {
    "up": Lazy("cli.local:up", "Start everything on this machine and stay until Ctrl-C."),
    "demo": Lazy("cli.local:demo", "One cold start on a real model, from the request to the bill."),
    "status": Lazy("cli.status:status", "Nodes, groups, models and balances at a glance."),
    "doctor": Lazy("cli.doctor:doctor", "Check this machine and say how to mend what is wrong."),
    "model": Lazy("cli.models:model", "Models: register, price, change, warm up, stop."),
    "policy": Lazy("cli.cold_policies:policy", "What becomes of requests while a model is cold."),
    "tenant": Lazy("cli.tenants:tenant", "Tenants: create, limit, enable, credit."),
    "budget": Lazy("cli.budgets:budget", "Budgets by day, month and in total: set, list, remove."),
    "key": Lazy("cli.keys:key", "API keys: create, rotate, revoke."),
    "token": Lazy("cli.tokens:token", "Tokens of the management API: create, list, revoke."),
    "node": Lazy("cli.nodes:node", "GPU servers: list, cordon, drain."),
    "user": Lazy("cli.users:user", "People who may use the admin UI."),
    "usage": Lazy("cli.usage:usage", "What was used and what it cost."),
    "ledger": Lazy("cli.ledger:ledger", "Whether usage, ledger and balances agree."),
    "invoice": Lazy("cli.invoice:invoice", "What a tenant was charged and credited in a month."),
    "coldstart": Lazy("cli.coldstarts:coldstart", "Cold starts, each as a waterfall."),
    "simulate": Lazy("cli.simulate:simulate", "What a log of requests would have met on another cluster."),
    "plan": Lazy("cli.plan:plan", "How a model would be started now, and why."),
    "db": Lazy("cli.database:db", "Bring the database to this version's schema, or back."),
}


class Root(LazyGroup):
    """The root of all commands: what went wrong becomes one line, or with --json one document."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that `args` (default: this process' own) name, and exit with its status."""
        words = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        as_json = "--json" in words
        try:
            status = super().main(words, prog_name or "hydrant", complete_var, standalone_mode=False, **extra)
        except click.UsageError as error:
            _exit_usage(error, as_json)
        except click.ClickException as error:
            _exit_failure(Failure(error.format_message()), as_json)
        except click.Abort:
            _exit_failure(Failure("stopped before it was done; nothing more was changed"), as_json)
        except Exception as error:
            failure = expected(error)
            if failure is None:
                raise
            _exit_failure(failure, as_json)
        sys.exit(status if isinstance(status, int) else 0)


def _exit_usage(error: click.UsageError, as_json: bool) -> NoReturn:
    if as_json:
        param = getattr(error, "param", None)
        _print_error(error.format_message(), param.name if param is not None else None)
    else:
        error.show()  # of a group named without a command, its help
    sys.exit(EXIT_USAGE)


def _exit_failure(failure: Failure, as_json: bool) -> NoReturn:
    if as_json:
        _print_error(failure.message, failure.field)
    else:
        click.echo(f"hydrant: {failure.message}", err=True)
    sys.exit(EXIT_FAILURE)


def _print_error(message: str, field: str | None) -> None:
    click.echo(json.dumps({"error": {"message": message, "field": field}}, indent=2, ensure_ascii=False))


@click.group(
    cls=Root,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        "hydrant up                                     start everything on this machine",
        "hydrant model register qwen3-8b /models/Qwen3-8B --input-price 0.05 --output-price 0.20",
        "hydrant tenant create acme && hydrant tenant top-up acme 25",
        "hydrant key create acme --name laptop          prints the key, once",
        "hydrant plan qwen3-8b --explain                why it would start the way it would",
        "hydrant status --json                          every command speaks JSON",
    ],
)
@click.version_option(package_name="hydrant", prog_name="hydrant")
def cli() -> None:
    """Hydrant: LLMs on your own GPUs that scale to zero.

    Every command reads DATABASE_URL, REDIS_URL and HYDRANT_HOME from the environment, as the services do. Changes are
    written to the database, with your name in the audit log, and gateways learn of them within a second.
    """


def main() -> None:
    """The entry point `hydrant`."""
    cli.main()
