"""What the commands work on: the database, and Redis after each change.

SQL is the truth. With Redis away a change is kept all the same and a warning says so: the ledger's sweep brings Redis
up to date when it is back.
"""

import getpass
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from cli.console import Console
from cli.errors import Failure
from registry.db import make_engine, make_session_factory, read_scope, session_scope
from registry.errors import ConflictError
from registry.ids import now_ms
from registry.migrate import require_current
from registry.publish import publish_balances, publish_snapshot
from registry.settings import Settings, load_settings
from registry.wake import make_sender, wake_controller

DATABASE_TIMEOUT_S = 5
REDIS_TIMEOUT_S = 2.0
_MIGRATE = "run: hydrant db upgrade"

Result = TypeVar("Result")


class Workspace:
    """The database of this environment, at this version's schema; use it in a `with`.

    Raises Failure when the schema is another version's.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.settings = load_settings()
        self._engine = open_engine(self.settings)
        self._sessions = make_session_factory(self._engine)

    def __enter__(self) -> Self:
        try:
            require_schema(self._engine)
        except BaseException:
            self._engine.dispose()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only reads."""
        with read_scope(self._sessions) as session:
            yield session

    def change(
        self,
        do: Callable[[Session, str], Result],
        *,
        publish: bool = True,
        reconcile: bool = False,
        balances: Callable[[Result], Collection[str]] = lambda _result: (),
    ) -> Result:
        """Run `do(session, actor)` and commit; then tell gateways (`publish`, and the tenants whose balance changed)
        and the controller (`reconcile`). What `do` raises passes through, with nothing changed."""
        with session_scope(self._sessions) as session:
            result = do(session, actor())
        self._announce(balances(result), publish=publish, reconcile=reconcile)
        return result

    def _announce(self, tenant_ids: Collection[str], *, publish: bool, reconcile: bool) -> None:
        url = self.settings.redis_url.get_secret_value()
        try:
            with self.read() as session, connect_redis(url) as redis:
                # Sums first: a gateway that knows of a budget must find what is spent of it.
                if tenant_ids:
                    publish_balances(session, redis, tenant_ids)
                if publish:
                    publish_snapshot(session, redis, now_ms(), hold=self.settings.hold)
            if reconcile:
                with make_sender(url, timeout_s=REDIS_TIMEOUT_S) as sender:
                    wake_controller(sender)
        except (RedisError, OperationalError, OSError):
            self._console.warn(
                "saved, but Redis did not answer; gateways and the controller learn of it when Redis is back"
            )


def open_engine(settings: Settings) -> Engine:
    """The database of `settings`; a server that does not answer is given up after DATABASE_TIMEOUT_S."""
    text = settings.database_url.get_secret_value()
    try:
        url = make_url(text)
    except ArgumentError:
        return make_engine(text)  # says what is wrong with it
    if url.get_backend_name().startswith("postgres") and "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(DATABASE_TIMEOUT_S)})
    return make_engine(url.render_as_string(hide_password=False))


def require_schema(engine: Engine) -> None:
    """Raises Failure with the command to run unless the database has this version's schema."""
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path is not None and not os.path.exists(path):
        # Connecting would make an empty file where a mistyped path points.
        begin = "run: hydrant up (makes it and starts everything here), or only: hydrant db upgrade"
        raise Failure(f"there is no database at {path}; {begin}", "DATABASE_URL")
    try:
        require_current(engine)
    except ConflictError as error:
        raise Failure(f"{error.message.partition('; run:')[0]}; {_MIGRATE}", "DATABASE_URL") from None


def connect_redis(url: str) -> "Redis":
    """A client that waits at most REDIS_TIMEOUT_S; use it in a `with`."""
    return Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)


def actor() -> str:
    """Who the audit log says it was."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return f"cli:{os.getuid()}"
