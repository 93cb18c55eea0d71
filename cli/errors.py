"""How a command ends when it cannot do what was asked: exit status and one line (or one JSON document) that helps."""

import sqlite3

from registry.errors import RegistryError


class Failure(Exception):
    """What a person must change before the command can succeed. `field` names the argument or setting at fault."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


def expected(error: Exception) -> Failure | None:
    """The failure that `error` means to a person; None for a defect of this program, which deserves a traceback."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, RegistryError):
        return Failure(error.message, error.field)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}; correct the path or its permissions")
    return _of_redis(error) or _of_database(error)


def _of_redis(error: Exception) -> Failure | None:
    # Imported here: `hydrant --help` must not wait for redis.
    from redis.exceptions import ConnectionError, TimeoutError

    if not isinstance(error, ConnectionError | TimeoutError):
        return None  # what Redis itself refuses is a defect of this program
    reason = str(error).strip() or type(error).__name__
    return Failure(f"Redis does not answer ({reason}); start it (hydrant up starts one), or set REDIS_URL", "REDIS_URL")


def _of_database(error: Exception) -> Failure | None:
    # Imported here: `hydrant --help` must not wait for SQLAlchemy.
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(error, OperationalError | InterfaceError):
        if _waited_for_a_lock(error.orig):
            return Failure("the database was busy with another change for too long, so nothing was done; try again")
        reason = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
        return Failure(
            f"the database did not do its part: {reason}; check DATABASE_URL and that the server runs", "DATABASE_URL"
        )
    return None


def _waited_for_a_lock(error: BaseException | None) -> bool:
    """Whether SQLite or Postgres says that somebody else has held the lock for longer than we wait."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)  # what the module itself raises has none
        return code & 0xFF == sqlite3.SQLITE_BUSY  # the other bits say which kind of busy
    return getattr(error, "sqlstate", None) == "55P03"  # lock_not_available
