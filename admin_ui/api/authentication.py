"""Who asks: a management token in `Authorization: Bearer`. The admin UI's cookie means nothing here."""

import structlog
from flask import current_app, g, request
from flask_limiter.errors import RateLimitExceeded

from admin_ui.api.answers import ApiError
from admin_ui.database import db, forget_reads, session_factory
from admin_ui.permissions import Permission, allows
from registry.db import session_scope
from registry.models import ManagementToken
from registry.ops import tokens

log = structlog.get_logger(__name__)

TOKEN_BLUEPRINTS = ("management", "litellm")


def authenticate(wanted: Permission) -> None:
    """Lets a live token with the right role pass, as `current_token()`. Raises ApiError 401, 403 or 429.

    A right token passes whatever else was tried from its address: behind a gateway or a proxy many share one, and
    nobody shall be able to lock the others out. With 256 random bits in a token there is nothing to be guessed.
    """
    given = request.headers.get("Authorization", "")
    kind, _, plaintext = given.partition(" ")
    token = None
    if kind.lower() == "bearer":
        token = tokens.authenticate(db(), current_app.config["KEY_PEPPER"], plaintext.strip())
    if token is None:
        _refuse()
        return
    if not allows(token.role, wanted):
        raise ApiError(
            403,
            f"The role of this token, {token.role}, does not allow this. An owner can make a token with another role.",
            "not_permitted",
            type_="permission_error",
        )
    g.management_token = token
    if tokens.use_is_to_be_noted(token):
        forget_reads()
        with session_scope(session_factory()) as session:
            tokens.note_use(session, token.id)
        forget_reads()


def current_token() -> ManagementToken:
    """The token that this request came with."""
    token: ManagementToken = g.management_token
    return token


def current_actor() -> str:
    """How the audit log names it."""
    return tokens.actor_name(current_token())


def _refuse() -> None:
    log.warning("wrong_management_token", address=request.remote_addr, path=request.path)
    try:
        current_app.extensions["hydrant_count_wrong_token"]()
    except RateLimitExceeded:
        raise ApiError(
            429,
            "Too many wrong tokens came from this address. Wait a minute, then send a live one.",
            "rate_limit_exceeded",
            headers={"Retry-After": "60"},
        ) from None
    raise ApiError(
        401,
        "The management token is missing, unknown, expired or revoked. Send `Authorization: Bearer hym-...`; "
        "hydrant token create makes one.",
        "invalid_token",
        headers={"WWW-Authenticate": "Bearer"},
    )
