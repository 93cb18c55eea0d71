"""Management tokens: what lets a program manage Hydrant. Made once, shown once, stored as a digest."""

import hmac
import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import new_id, now_ms
from registry.models import ManagementToken
from registry.ops import audit, checks
from registry.ops.admins import ROLES
from registry.snapshot import generate_key, key_digest

KIND = "hym"
"""What a token begins with, where an API key has `hyd`: neither is ever taken for the other."""
USE_NOTED_EVERY_MS = 60_000
_SHAPE = re.compile(rf"{KIND}-([0-9a-z]{{8}})-[A-Za-z0-9_-]{{43}}")


def create_token(
    session: Session, actor: str, pepper: str, *, name: str, role: str, expires_at_ms: int | None = None
) -> tuple[ManagementToken, str]:
    """A new token with a person's role, and its plaintext `hym-...`, which can never be had again."""
    if role not in ROLES:
        raise InvalidError(f"role must be one of: {', '.join(ROLES)}", "role")
    plaintext, prefix = generate_key(KIND)
    token = ManagementToken(
        id=new_id("tok"),
        name=checks.text("name", name),
        prefix=prefix,
        digest=key_digest(pepper, plaintext),
        role=role,
        created_by=actor,
        created_at_ms=now_ms(),
        expires_at_ms=checks.end("expires_at_ms", expires_at_ms),
    )
    session.add(token)
    session.flush()
    audit.record(session, actor, "token.create", token.id, name=token.name, role=role, prefix=prefix)
    return token, plaintext


def authenticate(session: Session, pepper: str, plaintext: str) -> ManagementToken | None:
    """The live token that this is; None for a wrong, revoked or expired one. Digests are compared in constant time."""
    shaped = _SHAPE.fullmatch(plaintext)
    if shaped is None:
        return None
    digest = key_digest(pepper, plaintext)
    rows = session.scalars(select(ManagementToken).where(ManagementToken.prefix == shaped[1])).all()
    found = [row for row in rows if hmac.compare_digest(row.digest, digest)]
    return found[0] if found and state_of(found[0]) == "live" else None


def note_use(session: Session, token_id: str) -> None:
    """Remember that the token was used now. Not audited: what it was used for is."""
    get_token(session, token_id).last_used_at_ms = now_ms()


def use_is_to_be_noted(token: ManagementToken) -> bool:
    """Whether its last use was noted so long ago that this one is worth a write."""
    return token.last_used_at_ms is None or now_ms() - token.last_used_at_ms >= USE_NOTED_EVERY_MS


def state_of(token: ManagementToken) -> str:
    """live, expired or revoked."""
    if token.revoked_at_ms is not None:
        return "revoked"
    return "expired" if token.expires_at_ms is not None and token.expires_at_ms <= now_ms() else "live"


def actor_name(token: ManagementToken) -> str:
    """How the audit log names what a token did."""
    return f"token:{token.name} ({token.prefix})"


def get_token(session: Session, token_id: str) -> ManagementToken:
    """The token with this id. Raises NotFoundError."""
    token = session.get(ManagementToken, token_id)
    if token is None:
        raise NotFoundError(f"there is no management token {token_id}", "token_id")
    return token


def find_token(session: Session, text: str) -> ManagementToken:
    """The token with this id or public prefix (the part after `hym-`). Raises NotFoundError and ConflictError; neither
    repeats `text`, which may be a token."""
    if text.startswith("tok_"):
        return get_token(session, text)
    prefix = text.removeprefix(f"{KIND}-")[:8]
    found = session.scalars(select(ManagementToken).where(ManagementToken.prefix == prefix)).all()
    if not found:
        raise NotFoundError("no management token has this prefix; use the id that the list shows", "token")
    if len(found) > 1:
        raise ConflictError(f"{len(found)} tokens have this prefix; use the id that the list shows", "token")
    return found[0]


def list_tokens(session: Session) -> Sequence[ManagementToken]:
    """All tokens, newest first; revoked and expired ones too."""
    return session.scalars(select(ManagementToken).order_by(ManagementToken.id.desc())).all()


def revoke_token(session: Session, actor: str, token_id: str) -> ManagementToken:
    """End a token for ever, at once. Revoking again changes nothing."""
    token = get_token(session, token_id)
    if token.revoked_at_ms is None:
        token.revoked_at_ms = now_ms()
        audit.record(session, actor, "token.revoke", token.id, name=token.name, prefix=token.prefix)
    return token
