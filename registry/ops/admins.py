"""People who manage Hydrant: accounts, passwords (Argon2), roles."""

import secrets
from collections.abc import Sequence

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import new_id, now_ms
from registry.models import AdminUser
from registry.ops import audit, checks

ROLES = ("owner", "operator", "viewer")
MIN_PASSWORD_LENGTH = 12
MAX_PASSWORD_LENGTH = 1024
_HASHER = PasswordHasher()
# Verified when no account matches, so that a missing account takes as long as a wrong password.
_NOBODY = _HASHER.hash(secrets.token_urlsafe(32))


def create_admin(
    session: Session, actor: str, *, email: str, role: str, password: str | None = None
) -> tuple[AdminUser, str | None]:
    """A new account, and its one-time password if none was given: that must be changed at the first login."""
    generated = None if password is not None else secrets.token_urlsafe(16)
    user = AdminUser(
        id=new_id("adm"),
        email=_email(email),
        password_hash=_hash(password if generated is None else generated),
        role=_role(role),
        must_change=generated is not None,
        session_epoch=1,
        created_at_ms=now_ms(),
    )
    address = user.email
    try:
        with session.begin_nested():
            session.add(user)
            session.flush()
    except IntegrityError:
        raise ConflictError(f"there is already an account {address}; set its password instead", "email") from None
    audit.record(session, actor, "admin.create", user.id, email=user.email, role=role)
    return user, generated


def authenticate(session: Session, email: str, password: str) -> AdminUser | None:
    """The account, if the password is right and the account is not disabled; None otherwise, after the same work."""
    if len(password) > MAX_PASSWORD_LENGTH or not _storable(password) or not _storable(email):
        return None
    user = session.scalar(select(AdminUser).where(AdminUser.email == email.strip().lower()))
    try:
        _HASHER.verify(user.password_hash if user is not None else _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return None
    if user is None or user.disabled_at_ms is not None:
        return None
    if _HASHER.check_needs_rehash(user.password_hash):
        user.password_hash = _HASHER.hash(password)
    user.last_login_at_ms = now_ms()
    return user


def get_admin(session: Session, admin_id: str) -> AdminUser:
    """The account with this id. Raises NotFoundError."""
    user = session.get(AdminUser, admin_id)
    if user is None:
        raise NotFoundError(f"there is no account {admin_id}", "admin_id")
    return user


def find_admin(session: Session, email: str) -> AdminUser:
    """The account with this e-mail address. Raises NotFoundError."""
    user = session.scalar(select(AdminUser).where(AdminUser.email == email.strip().lower()))
    if user is None:
        raise NotFoundError(f"there is no account {email}", "email")
    return user


def list_admins(session: Session) -> Sequence[AdminUser]:
    """All accounts by e-mail address."""
    return session.scalars(select(AdminUser).order_by(AdminUser.email)).all()


def set_password(
    session: Session, actor: str, admin_id: str, password: str | None = None
) -> tuple[AdminUser, str | None]:
    """Set a password, or without one generate a one-time password and return it. Ends all sessions of the account."""
    user = get_admin(session, admin_id)
    generated = None if password is not None else secrets.token_urlsafe(16)
    user.password_hash = _hash(password if generated is None else generated)
    user.must_change = generated is not None
    user.session_epoch += 1
    audit.record(session, actor, "admin.password", user.id, one_time=user.must_change)
    return user, generated


def set_role(session: Session, actor: str, admin_id: str, role: str) -> AdminUser:
    """Change what an account may do. The last owner stays one."""
    user = get_admin(session, admin_id)
    if user.role == "owner" and _role(role) != "owner":
        _keep_an_owner(session, user)
    user.role = _role(role)
    audit.record(session, actor, "admin.role", user.id, role=role)
    return user


def set_disabled(session: Session, actor: str, admin_id: str, disabled: bool) -> AdminUser:
    """Lock an account (its sessions end) or open it again. The last owner cannot be locked."""
    user = get_admin(session, admin_id)
    if disabled and user.disabled_at_ms is None:
        if user.role == "owner":
            _keep_an_owner(session, user)
        user.disabled_at_ms = now_ms()
        user.session_epoch += 1
    elif not disabled:
        user.disabled_at_ms = None
    audit.record(session, actor, "admin.disable" if disabled else "admin.enable", user.id)
    return user


def _keep_an_owner(session: Session, user: AdminUser) -> None:
    # Lock the owners' rows, so that two owners cannot demote each other at the same moment (no-op on SQLite, whose
    # writers are serial).
    owners = session.scalars(
        select(AdminUser.id).where(AdminUser.role == "owner", AdminUser.disabled_at_ms.is_(None)).with_for_update()
    ).all()
    if set(owners) <= {user.id}:
        raise ConflictError(f"{user.email} is the last owner; make another account an owner first", "role")


def _email(value: str) -> str:
    email = checks.text("email", value, limit=200).lower()
    name, at, domain = email.partition("@")
    if not name or not at or not domain or "@" in domain or " " in email:
        raise InvalidError("email must be an address such as ada@example.org", "email")
    return email


def _hash(password: str | None) -> str:
    if password is None or not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise InvalidError(f"password must have {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters", "password")
    if not _storable(password):
        raise InvalidError("password holds characters that are not text", "password")
    return _HASHER.hash(password)


def _storable(value: str) -> bool:
    """Whether databases and hashes take this text: no NUL, no half of a surrogate pair."""
    return "\x00" not in value and value.encode(errors="replace").decode() == value


def _role(role: str) -> str:
    if role not in ROLES:
        raise InvalidError(f"role must be one of: {', '.join(ROLES)}", "role")
    return role


def count_admins(session: Session) -> int:
    """How many accounts there are: none means that the first owner is still to be made."""
    return int(session.scalar(select(func.count()).select_from(AdminUser)) or 0)
