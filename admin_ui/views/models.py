"""Models: register, change, price, warm up, stop, and the reasons behind a plan."""

from flask import Blueprint, abort, current_app, flash, redirect, render_template, url_for
from werkzeug.wrappers import Response as WsgiResponse

from admin_ui.changes import press, redis_client, redis_is_up, submit
from admin_ui.database import db
from admin_ui.forms.models import AliasForm, EditForm, PriceForm, TokenPriceForm, WarmForm
from admin_ui.permissions import Permission, permission
from admin_ui.read.cluster import (
    living_groups,
    memory_is_plenty,
    models_without_manifests,
    recent_cold_starts,
    recent_groups,
)
from admin_ui.read.decision import VERDICTS, explained
from admin_ui.read.demand import demand, start_states
from admin_ui.read.waterfall import draw
from admin_ui.views.found import found
from orchestrator.keep_alive import keep_alives_ms
from registry.ids import now_ms
from registry.models import Model
from registry.ops import aliases, calibrations, coldstarts, models, prices
from registry.ops.cost_queries import model_time, start_cost

COSTS_SHOWN_MS = 30 * 86_400_000

blueprint = Blueprint("models", __name__, url_prefix="/models")


@blueprint.get("")
@permission(Permission.SEE)
def index() -> str:
    """All models."""
    rows = models_without_manifests(db())
    states: dict[str, list[str]] = {}
    for group in living_groups(db()):
        states.setdefault(group.model_id, []).append(group.state)
    latest = {model.id: prices.list_prices(db(), model.id) for model in rows}
    now = now_ms()
    in_force = {id_: next((price for price in list_ if price.from_ms <= now), None) for id_, list_ in latest.items()}
    return render_template("models/index.html", models=rows, states=states, prices=in_force, now_ms=now)


@blueprint.get("/<model_id>")
@permission(Permission.SEE)
def show(model_id: str) -> str:
    """One model: state, workers, cold starts, prices, aliases."""
    return _page(found(models.get_model, db(), model_id))


@blueprint.get("/<model_id>/live")
@permission(Permission.SEE)
def live(model_id: str) -> str:
    """The part of that page that refreshes itself."""
    model = found(models.get_model, db(), model_id)
    return render_template("models/live.html", **_state(model))


@blueprint.route("/<model_id>/edit", methods=["GET", "POST"])
@permission(Permission.CHANGE_MODELS)
def edit(model_id: str) -> WsgiResponse | str | tuple[str, int]:
    """Changes how the model is served."""
    model = found(models.get_model, db(), model_id)
    if model.lane == "hosted":
        return redirect(url_for("hosted_models.edit", model_id=model_id))
    form = EditForm(data={"kv_reserve_bytes": model.kv_reserve_bytes})
    if not form.is_submitted():
        return render_template("models/edit.html", model=model, form=EditForm.of(model))
    changed = submit(
        form,
        lambda session, actor: models.update_model(
            session, actor, model_id, name=form.name.data, settings=form.settings(), **form.serving()
        ),
        reconcile=True,
    )
    if changed is None:
        return render_template("models/edit.html", model=model, form=form), 422
    flash("Saved. Engine settings apply to workers that start from now on.", "ok")
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.route("/<model_id>/price", methods=["GET", "POST"])
@permission(Permission.CHANGE_MONEY)
def price(model_id: str) -> WsgiResponse | str | tuple[str, int]:
    """Sets a new price from now on."""
    model = found(models.get_model, db(), model_id)
    # Nothing of a provider's model starts here.
    form_class = TokenPriceForm if model.lane == "hosted" else PriceForm
    form = form_class()
    in_force = prices.price_at(db(), model_id, now_ms())
    if not form.is_submitted():
        form = form_class(formdata=None, obj=in_force)
        return render_template("models/price.html", model=model, price=in_force, form=form)
    changed = submit(
        form,
        lambda session, actor: prices.set_price(
            session,
            actor,
            model_id,
            input_nusd=form.input_nusd.data,
            cached_input_nusd=form.cached_input_nusd.data,
            output_nusd=form.output_nusd.data,
            request_nusd=form.request_nusd.data or 0,
            gpu_second_nusd=(form.gpu_second_nusd.data or 0) if isinstance(form, PriceForm) else 0,
        ),
    )
    if changed is None:
        return render_template("models/price.html", model=model, price=in_force, form=form), 422
    flash("The new price holds from now on; requests under way are billed at the price they began with.", "ok")
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.post("/<model_id>/warm")
@permission(Permission.CHANGE_MODELS)
def warm(model_id: str) -> WsgiResponse | tuple[str, int]:
    """Starts a worker and keeps it up for a while."""
    model = found(models.get_model, db(), model_id)
    form = WarmForm()
    minutes = submit(
        form,
        lambda session, actor: models.warm_now(session, actor, model_id, int(form.minutes.data)),
        reconcile=True,
    )
    if minutes is None:
        return _page(model, warm_form=form), 422
    flash(f"{model.name} is being started and will be kept up.", "ok")
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.post("/<model_id>/stop")
@permission(Permission.CHANGE_MODELS)
def stop(model_id: str) -> WsgiResponse:
    """Drains what runs."""
    model = found(models.get_model, db(), model_id)
    press(
        lambda session, actor: models.stop_now(session, actor, model_id),
        f"{model.name} drains: running requests finish, then it stops. A new request would start it again.",
        reconcile=True,
    )
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.post("/<model_id>/enable")
@permission(Permission.CHANGE_MODELS)
def enable(model_id: str) -> WsgiResponse:
    """Offers the model to clients."""
    model = found(models.get_model, db(), model_id)
    press(
        lambda session, actor: models.set_enabled(session, actor, model_id, True),
        f"{model.name} is enabled.",
        reconcile=True,
    )
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.post("/<model_id>/disable")
@permission(Permission.CHANGE_MODELS)
def disable(model_id: str) -> WsgiResponse:
    """Offers it no longer, and stops it."""
    model = found(models.get_model, db(), model_id)
    press(
        lambda session, actor: models.set_enabled(session, actor, model_id, False),
        f"{model.name} is disabled: new requests are refused, running ones finish.",
        reconcile=True,
    )
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.post("/<model_id>/delete")
@permission(Permission.CHANGE_MODELS)
def delete(model_id: str) -> WsgiResponse:
    """Takes it out of service for ever; its usage and prices stay."""
    model = found(models.get_model, db(), model_id)
    press(
        lambda session, actor: models.delete_model(session, actor, model_id, stop=True),
        f"{model.name} is deleted. Its usage and ledger entries stay.",
        reconcile=True,
    )
    return redirect(url_for("models.index"))


@blueprint.post("/<model_id>/aliases")
@permission(Permission.CHANGE_MODELS)
def add_alias(model_id: str) -> WsgiResponse | tuple[str, int]:
    """Another name for it."""
    model = found(models.get_model, db(), model_id)
    form = AliasForm()
    added = submit(form, lambda session, actor: aliases.add_alias(session, actor, model_id, form.alias.data))
    if added is None:
        return _page(model, alias_form=form), 422
    flash(f"{model.name} can now be asked for as {added.name}.", "ok")
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.post("/<model_id>/aliases/<path:alias>/remove")
@permission(Permission.CHANGE_MODELS)
def remove_alias(model_id: str, alias: str) -> WsgiResponse:
    """Gives a name up."""
    model = found(models.get_model, db(), model_id)
    if alias not in {row.name for row in aliases.list_aliases(db(), model_id)}:
        abort(404)
    press(
        lambda session, actor: aliases.remove_alias(session, actor, alias),
        f"{model.name} can no longer be asked for as {alias}.",
    )
    return redirect(url_for("models.show", model_id=model_id))


@blueprint.get("/<model_id>/why")
@permission(Permission.SEE)
def why(model_id: str) -> str:
    """The last plan: its reasons, its stages, and every candidate that was judged."""
    model = found(models.get_model, db(), model_id)
    starts = recent_cold_starts(db(), model_id=model_id, limit=1)
    last = starts[0] if starts else None
    return render_template(
        "models/why.html",
        model=model,
        cold_start=last,
        decision=explained(last.plan) if last else None,
        verdicts=VERDICTS,
    )


@blueprint.get("/cold-starts/<cold_start_id>")
@permission(Permission.SEE)
def cold_start(cold_start_id: str) -> str:
    """One cold start as a waterfall, predicted beside actual."""
    drawn = found(coldstarts.waterfall, db(), cold_start_id)
    start = drawn.cold_start
    return render_template(
        "models/cold_start.html",
        start=start,
        model=db().get_one(Model, start.model_id),
        chart=draw(drawn.rows, start.predicted_ttft_ms, now_ms() - start.requested_at_ms),
        decision=explained(start.plan),
        cost=start_cost(db(), start.id),
    )


def _page(model: Model, *, alias_form: AliasForm | None = None, warm_form: WarmForm | None = None) -> str:
    now = now_ms()
    history = prices.list_prices(db(), model.id)
    pauses = models.pauses_ms(db(), model.id)
    kept_ms, kept_in_plenty_ms = keep_alives_ms(pauses, model.keep_alive_s * 1000)
    return render_template(
        "models/show.html",
        prices=history,
        price=next((price for price in history if price.from_ms <= now), None),
        aliases={row.name: aliases.weights(row) for row in aliases.list_aliases(db(), model.id)},
        learnt=calibrations.list_learnt(db(), model.id),
        pauses=len(pauses),
        kept_ms=kept_ms,
        kept_in_plenty_ms=kept_in_plenty_ms,
        plenty=memory_is_plenty(db(), current_app.config["IDLE_MEMORY_PERCENT"]),
        expected_ms=models.expected_ms(db(), model),
        time=model_time(db(), model.id, now - COSTS_SHOWN_MS),
        alias_form=alias_form or AliasForm(formdata=None),
        warm_form=warm_form or WarmForm(formdata=None),
        **_state(model),
    )


def _state(model: Model) -> dict[str, object]:
    now = now_ms()
    up = redis_is_up()
    return {
        "model": model,
        "now_ms": now,
        "groups": living_groups(db(), model.id),
        "last_groups": recent_groups(db(), model.id, limit=5),
        "cold_starts": recent_cold_starts(db(), model_id=model.id),
        "demand": demand(redis_client(), [model.name], now).get(model.name) if up else None,
        "starting": start_states(redis_client()).get(model.name) if up else None,
    }
