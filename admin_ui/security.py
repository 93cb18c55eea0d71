"""Headers that every answer carries, and the hook that checks permissions before a view runs."""

from flask import Flask, Response, abort, current_app, redirect, request, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.api.authentication import TOKEN_BLUEPRINTS, authenticate
from admin_ui.permissions import PUBLIC, SIGNED_IN, Permission, needed
from admin_ui.sessions import ask_to_sign_in

# Scripts and styles come from our own files only: a name that slipped through escaping could still not run.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # pico.css draws its form icons as data URLs
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)


def init_security(app: Flask) -> None:
    """Installs the permission check and the headers."""

    @app.before_request
    def check_permission() -> WsgiResponse | None:
        if request.endpoint is None:  # no such page: the 404 handler answers
            return None
        wanted = needed(current_app, request.endpoint)
        if wanted == PUBLIC:
            return None
        if request.blueprint in TOKEN_BLUEPRINTS:
            authenticate(Permission(wanted))
            return None
        if not current_user.is_authenticated:
            answer: WsgiResponse = ask_to_sign_in()
            return answer
        if wanted == SIGNED_IN:
            return None
        if current_user.must_change:
            return redirect(url_for("account.password"))
        if not current_user.can(Permission(wanted)):
            abort(403)
        return None

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers = response.headers
        headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Frame-Options"] = "DENY"
        headers["Referrer-Policy"] = "same-origin"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
        if request.is_secure:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        if request.endpoint != "static":
            # A page can hold a new key or a balance: no cache and no Back button may show it again.
            headers["Cache-Control"] = "no-store"
        return response
