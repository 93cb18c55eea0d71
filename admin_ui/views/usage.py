"""Usage: totals, a chart, single attempts, CSV."""

from datetime import date, timedelta, tzinfo
from typing import Any

from flask import Blueprint, Response, render_template, request

from admin_ui.charts import bar_chart
from admin_ui.database import db
from admin_ui.downloads import csv_download
from admin_ui.forms.filters import UsageFilterForm, chosen, whole_number
from admin_ui.permissions import Permission, permission
from admin_ui.read.usage import DAY_MS, models_used, usage_over_time
from admin_ui.zones import day_of, day_start_ms, readers_zone
from registry.ids import now_ms
from registry.ops import tenants
from registry.ops.cost_queries import tenant_waits
from registry.ops.usage import UsageFilter, list_usage, usage_by_model, usage_csv, usage_totals

blueprint = Blueprint("usage", __name__, url_prefix="/usage")

PERIOD_MS = {"24h": DAY_MS, "7d": 7 * DAY_MS, "30d": 30 * DAY_MS, "90d": 90 * DAY_MS}
DEFAULT_PERIOD = "7d"
LONGEST_DAYS = 366
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2999, 12, 31)
PAGE = 50


@blueprint.get("")
@permission(Permission.SEE)
def index() -> str | tuple[str, int]:
    """Totals, the chart and the last attempts of a period."""
    zone, zone_name = readers_zone()
    form = _form()
    wanted = _filter(form, zone)
    offset = whole_number(request.args, "offset") or 0
    attempts = list_usage(db(), wanted, limit=PAGE + 1, offset=offset)
    points = usage_over_time(db(), wanted, zone)
    page = render_template(
        "usage/index.html",
        form=form,
        totals=usage_totals(db(), wanted),
        by_model=usage_by_model(db(), wanted),
        waits=tenant_waits(db(), wanted),
        chart=bar_chart([(point.label, point.short, point.tokens) for point in points]),
        points=points,
        attempts=attempts[:PAGE],
        next_offset=offset + PAGE if len(attempts) > PAGE else None,
        offset=offset,
        zone_name=zone_name,
        tenant_names=form.tenant.choices,
        query=chosen(form),
    )
    return (page, 422) if form.errors else page


@blueprint.get("/export.csv")
@permission(Permission.SEE)
def export() -> Response:
    """The same attempts as a CSV file, oldest first."""
    zone, _name = readers_zone()
    return csv_download("hydrant-usage", usage_csv(db(), _filter(_form(), zone)))


def _form() -> UsageFilterForm:
    return UsageFilterForm.from_query(
        request.args,
        tenant={"": "All tenants"} | {tenant.id: tenant.name for tenant in tenants.list_tenants(db())},
        model={"": "All models"} | models_used(db()),
    )


def _filter(form: UsageFilterForm, zone: tzinfo) -> UsageFilter:
    from_ms, until_ms = _period(form, zone)
    return UsageFilter(
        tenant_id=form.tenant.data or None, model_id=form.model.data or None, from_ms=from_ms, until_ms=until_ms
    )


def _period(form: UsageFilterForm, zone: tzinfo) -> tuple[int, int]:
    now = now_ms() + 1
    if form.period.data != "dates":
        return now - PERIOD_MS.get(form.period.data, PERIOD_MS[DEFAULT_PERIOD]), now
    last = _possible(form.last) or day_of(now, zone)
    first = _possible(form.first) or last - timedelta(days=6)
    if first > last:
        form.first.errors = ["The first day must not come after the last."]
        first = last
    elif (last - first).days >= LONGEST_DAYS:
        form.first.errors = ["At most a year at a time."]
        first = last - timedelta(days=LONGEST_DAYS - 1)
    return day_start_ms(first, zone), day_start_ms(last + timedelta(days=1), zone)


def _possible(field: Any) -> date | None:
    """The day in a field; the nearest that usage can be of, with an error, when it is out of this world."""
    day: date | None = field.data
    if day is None or FIRST_DAY <= day <= LAST_DAY:
        return day
    field.errors = [f"Choose a day from {FIRST_DAY.year} to {LAST_DAY.year}."]
    return min(max(day, FIRST_DAY), LAST_DAY)
