"""Sign-in sessions: who is asking, until when, and whether the cookie may travel.

The cookie is signed, not stored: it names the person and the session epoch of that moment. Raising the epoch (a new
password, a change of role, a disabled account) ends every session at once, on every machine.
"""

import ipaddress
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, redirect, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_login import LoginManager, UserMixin, login_user
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.database import db
from admin_ui.permissions import Permission, allows
from registry.ids import now_ms
from registry.models import AdminUser

SESSION_HOURS = 12
"""A sign-in lasts this long, however busy the page is: the overview refreshes itself and must not keep it alive."""

login_manager = LoginManager()
login_manager.session_protection = "basic"


class Person(UserMixin):  # type: ignore[misc]
    """The signed-in administrator, as views and templates see them."""

    def __init__(self, user: AdminUser) -> None:
        self.id = user.id
        self.email = user.email
        self.role = user.role
        self.must_change = user.must_change
        self.epoch = user.session_epoch

    def get_id(self) -> str:
        """What the cookie holds: the id and the epoch that it was signed in under."""
        return f"{self.id}:{self.epoch}"

    def can(self, wanted: Permission) -> bool:
        """Whether this person's role allows `wanted`."""
        return allows(self.role, wanted)


@login_manager.user_loader  # type: ignore[untyped-decorator]
def load_person(cookie_id: str) -> Person | None:
    """The person whom a cookie names, or None when that session has ended."""
    user_id, _, epoch = cookie_id.rpartition(":")
    signed_in_at = session.get("signed_in_at_ms", 0)
    if now_ms() - signed_in_at > SESSION_HOURS * 3_600_000:
        return None
    user = db().get(AdminUser, user_id)
    if user is None or user.disabled_at_ms is not None or str(user.session_epoch) != epoch:
        return None
    return Person(user)


@login_manager.unauthorized_handler  # type: ignore[untyped-decorator]
def ask_to_sign_in() -> WsgiResponse:
    """Sends the browser to the login page and remembers where it wanted to go."""
    if request.headers.get("HX-Request"):
        return Response(status=401, headers={"HX-Redirect": url_for("auth.login")})
    wanted = request.full_path.rstrip("?") if request.method == "GET" else None
    return redirect(url_for("auth.login", next=wanted if wanted and wanted != "/" else None))


def sign_in(user: AdminUser) -> None:
    """Starts a new session for `user`. What an earlier visitor left in the cookie is dropped (session fixation)."""
    session.clear()
    session["signed_in_at_ms"] = now_ms()
    login_user(Person(user))


def safe_next(target: str | None) -> str:
    """Where to go after signing in: `target` when it is a path of this site, else the overview."""
    fallback = url_for("overview.index")
    if not target or not target.startswith("/") or target.startswith(("//", "/\\")):
        return fallback
    if any(ord(char) < 0x21 or char == "\\" for char in target):
        return fallback
    parts = urlsplit(target)
    return fallback if parts.scheme or parts.netloc else target


def travels_safely() -> bool:
    """Whether this request came over TLS, or never left the machine."""
    return request.is_secure or _is_loopback(request.host) or bool(current_app.config["ALLOW_PLAIN_HTTP"])


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class CookieSessions(SecureCookieSessionInterface):
    """Flask's signed cookie; `Secure` unless the connection stays on this machine or plain HTTP was allowed."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure or not travels_safely()
