"""The audit log: who changed what, when."""

from flask import Blueprint, render_template, request

from admin_ui.database import db
from admin_ui.forms.filters import whole_number
from admin_ui.permissions import Permission, permission
from admin_ui.read.audit import audit_lines, subject_names
from registry.ops import audit

blueprint = Blueprint("audit", __name__, url_prefix="/audit")

PAGE = 50


@blueprint.get("")
@permission(Permission.SEE)
def index() -> str:
    """Entries, newest first; of one subject with ?subject=."""
    subject = request.args.get("subject", "").replace("\0", "") or None  # Postgres compares no NUL
    entries = audit.list_entries(db(), subject=subject, before_id=whole_number(request.args, "before"), limit=PAGE + 1)
    before = entries[PAGE - 1].id if len(entries) > PAGE else None
    return render_template(
        "audit/index.html",
        lines=audit_lines(db(), entries[:PAGE]),
        before=before,
        subject=subject,
        subject_name=subject_names(db(), [subject]).get(subject) if subject else None,
    )
