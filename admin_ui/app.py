"""The app factory: `create_app(config)` puts the parts together and holds no logic of its own."""

from flask import Flask, Response, render_template, request
from flask_login import current_user
from flask_wtf import CSRFProtect
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from admin_ui.api import answers, describe, resources
from admin_ui.changes import REDIS_TIMEOUT_S, init_announcements, redis_is_up
from admin_ui.config import AdminConfig
from admin_ui.database import init_database
from admin_ui.formats import FILTERS
from admin_ui.permissions import Permission, check_all_marked
from admin_ui.rate_limits import init_rate_limits
from admin_ui.registrations import Registrations
from admin_ui.security import init_security
from admin_ui.sessions import CookieSessions, login_manager
from admin_ui.views import (
    account,
    aliases,
    audit,
    auth,
    budgets,
    health,
    hosted_models,
    invoices,
    keys,
    ledger,
    models,
    nodes,
    overview,
    registrations,
    tenants,
    tokens,
    usage,
    users,
)
from registry.broker import broker_url
from registry.db import make_engine, make_session_factory

MAX_FORM_BYTES = 1_000_000

BLUEPRINTS = (
    *(auth, health, overview, models, hosted_models, aliases, registrations, tenants, invoices, keys, budgets, usage),
    *(ledger, nodes, audit, users, tokens, account),
)


def create_app(config: AdminConfig) -> Flask:
    """A WSGI app over `config`'s database and Redis. Neither is contacted before the first request."""
    app = Flask("admin_ui")
    app.config.update(
        SECRET_KEY=config.flask_secret,
        SESSION_COOKIE_NAME="hydrant_admin",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=MAX_FORM_BYTES,
        WTF_CSRF_TIME_LIMIT=None,  # a form left open over lunch still works: the token lives as long as the session
        ALLOW_PLAIN_HTTP=config.allow_plain_http,
        KEY_PEPPER=config.key_pepper,
        GATEWAY_PORT=config.gateway_port,
        HOLD=config.hold,
        PROVIDER_HTTP=config.provider_http,
        IDLE_MEMORY_PERCENT=config.idle_memory_percent,
    )
    app.session_interface = CookieSessions()
    app.jinja_env.filters.update(FILTERS)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    if config.trusted_proxies:
        hops = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]

    engine = make_engine(config.database_url)
    app.extensions["hydrant_engine"] = engine
    init_database(app, make_session_factory(engine))
    init_announcements(app, redis_url=config.redis_url, broker_url=broker_url(config.redis_url))
    app.extensions["hydrant_registrations"] = Registrations()
    login_manager.init_app(app)
    init_security(app)
    csrf = CSRFProtect(app)
    for part in BLUEPRINTS:
        app.register_blueprint(part.blueprint)
    for api in resources.APIS:
        # Nothing to forge: these views take a token that no browser sends by itself, and never the cookie.
        csrf.exempt(api.blueprint)
        app.register_blueprint(api.blueprint)
    app.register_blueprint(describe.blueprint)
    init_rate_limits(app, config, timeout_s=REDIS_TIMEOUT_S)
    check_all_marked(app)

    app.register_error_handler(HTTPException, show_error)
    app.context_processor(template_globals)
    return app


def template_globals() -> dict[str, object]:
    """What every template may use."""
    return {"Permission": Permission, "redis_is_up": redis_is_up}


def show_error(error: HTTPException) -> tuple[str, int] | HTTPException | Response:
    """An error page that says what to do next; the views' own redirects and aborts pass through unchanged."""
    code = error.code or 500
    if code < 400:
        return error
    if answers.is_api_path(request.path):
        return answers.http_error(error)
    if isinstance(error, CSRFError):
        message = "This form has expired, or was not sent from this site. Go back, reload the page and send it again."
    else:
        message = ERROR_MESSAGES.get(code, error.description or "")
    page = "error_signed_in.html" if current_user.is_authenticated else "error.html"
    return render_template(page, code=code, title=error.name, message=message), code


ERROR_MESSAGES = {
    403: "Your role does not allow this. An owner can change your role under Users.",
    404: "There is no such page. It may have been deleted; the menu leads to everything that exists.",
    405: "This address only answers a form that is sent to it. Use the menu to find the form.",
    429: "Too many failed attempts from this address. Wait a minute, then try again.",
    413: "That was more than a form may hold (1 MB).",
    500: "Something broke on our side and the change, if any, was not made. The server's log says more.",
}
