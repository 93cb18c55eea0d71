"""For process supervisors and load balancers."""

from flask import Blueprint, Response, jsonify
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from admin_ui.changes import redis_is_up
from admin_ui.database import db
from admin_ui.permissions import PUBLIC, permission

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
@permission(PUBLIC)
def health() -> tuple[Response, int]:
    """200 while SQL answers; Redis is reported beside it, for pages work without Redis."""
    try:
        db().execute(text("SELECT 1"))
        sql = True
    except SQLAlchemyError:
        sql = False
    return jsonify(status="ok" if sql else "unavailable", sql=sql, redis=redis_is_up()), 200 if sql else 503
