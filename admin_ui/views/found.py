"""Looking up what an address names."""

from collections.abc import Callable
from typing import TypeVar

from flask import abort
from sqlalchemy.orm import Session

from registry.errors import NotFoundError

Thing = TypeVar("Thing")


def found(get: Callable[[Session, str], Thing], session: Session, name: str) -> Thing:
    """What `get` finds; a 404 page when there is no such thing."""
    try:
        return get(session, name)
    except NotFoundError as error:
        abort(404, error.message)
