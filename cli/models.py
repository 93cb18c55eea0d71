"""`hydrant model`: what can be asked for, where its weights are, what it costs and how it is served."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.aliases import alias, alias_words
from cli.command import Group, confirm, reporting
from cli.console import Console, fields, table
from cli.errors import Failure
from cli.hosted_models import add_hosted, update_hosted
from cli.model_options import serving_options, split_serving
from cli.params import DOLLARS, MOMENT, PRICE
from cli.units import moment, seconds, size

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from cli.workspace import Workspace
    from registry.documents.models import ModelDocument
    from registry.manifest import ManifestDoc
    from registry.models import Model

_SILENCE_S = 2.0


@click.group(
    cls=Group,
    examples=[
        "hydrant model register qwen3-8b /models/Qwen3-8B --input-price 0.05 --output-price 0.20",
        "hydrant model update qwen3-8b --slo-ttft-ms 8000 --keep-alive-s 600",
        "hydrant model warm qwen3-8b --minutes 60",
    ],
)
def model() -> None:
    """Models. A model is named by its name or by one of its aliases."""


model.add_command(alias)


@model.command(
    examples=[
        "hydrant model register qwen3-8b /models/Qwen3-8B --input-price 0.05 --output-price 0.20",
        "hydrant model register big s3://weights/llama-70b --input-price 0.6 --output-price 0.9 --slo-ttft-ms 20000",
        "hydrant model register tiny https://files.example.org/tiny --input-price 0.02 --output-price 0.08 \\",
        "    --context-length 4096 --tool-parser hermes",
    ]
)
@click.argument("name")
@click.argument("source")
@click.option("--input-price", type=PRICE, required=True, help="Dollars per million tokens of prompt.")
@click.option("--output-price", type=PRICE, required=True, help="Dollars per million tokens of answer.")
@click.option(
    "--cached-input-price", type=PRICE, help="For prompt tokens found in the prefix cache; as input if absent."
)
@click.option("--request-price", type=DOLLARS, default="0", help="Dollars for each request, besides its tokens.")
@click.option("--gpu-second-price", type=DOLLARS, default="0", help="Dollars for a second of a whole device.")
@serving_options
@reporting
def register(
    console: Console,
    name: str,
    source: str,
    input_price: int,
    output_price: int,
    cached_input_price: int | None,
    request_price: int,
    gpu_second_price: int,
    **serving: Any,
) -> None:
    """Add a model from SOURCE: a directory of safetensors files, http(s)://host/dir, or s3://, gs:// or az://.

    Every byte is read once, to check the files and to record a digest of every tensor: nodes accept only bytes that
    match. This takes about a second for each GB of a fast disk.
    """
    from cli.workspace import Workspace
    from registry.ops import models
    from registry.ops.registration import check_registration
    from registry.sources import inspect_source

    settings, limits = split_serving(serving)
    values = {
        "name": name,
        "source": source,
        "input_nusd": input_price,
        "output_nusd": output_price,
        "cached_input_nusd": cached_input_price,
        "request_nusd": request_price,
        "gpu_second_nusd": gpu_second_price,
        "settings": settings,
        **limits,
    }
    with Workspace(console) as here:
        with here.read() as session:
            check_registration(session, **values)  # before gigabytes are read for nothing
        manifest = inspect_source(source, _saying(console, "reading the source"))
        row = here.change(
            lambda session, actor: models.register_model(session, actor, manifest=manifest, **values), reconcile=True
        )
        document = _read_document(here, row.name)
    console.show(
        {"model": document},
        [
            f"registered {row.name} ({row.id}): {row.architecture}, {row.layers} layers, {size(row.weight_bytes)}"
            f"{_compressed(manifest)}, pipelines of up to {row.max_stages}",
            f"next: hydrant plan {row.name} --explain",
        ],
    )


model.add_command(add_hosted)
model.add_command(update_hosted)


@model.command(
    examples=[
        "hydrant model compress /models/Qwen3-8B /models/Qwen3-8B.compressed",
        "hydrant model compress s3://weights/llama-70b ./llama-70b.compressed",
    ]
)
@click.argument("source")
@click.argument("directory", type=click.Path(path_type=Path))
@reporting
def compress(console: Console, source: str, directory: Path) -> None:
    """Write a copy of a model whose weights take fewer bytes, so that they reach a node sooner.

    Nothing of them is lost: bfloat16 takes about two thirds of its bytes, float32 and float16 five sixths. Put
    DIRECTORY where nodes read models and register it as any other; nodes decode it on the way into memory.
    """
    from registry.compressed_copy import write_compressed_copy

    before, after = write_compressed_copy(source, directory, _saying(console, "compressing"))
    console.show(
        {"directory": str(directory), "before_bytes": before, "after_bytes": after},
        [
            f"wrote {directory}: {size(after)} instead of {size(before)}",
            f"next: hydrant model register NAME {directory} --input-price ... --output-price ...",
        ],
    )


@model.command("list", examples=["hydrant model list", "hydrant model list --json"])
@reporting
def list_(console: Console) -> None:
    """All models with their prices, service levels and running groups."""
    from cli.workspace import Workspace
    from orchestrator.keep_alive import keep_alives_ms
    from registry.documents.models import model_document
    from registry.ops import models

    with Workspace(console) as here, here.read() as session:
        documents = [model_document(session, row, keep_alives_ms) for row in models.list_models(session)]
    rows = [
        (
            d["name"],
            d["enabled"],
            d["lane"],
            size(d["weight_bytes"]) if d["lane"] != "hosted" else None,
            d["price"]["input_usd_per_million"],
            d["price"]["output_usd_per_million"],
            seconds(d["slo_ttft_ms"]),
            d["min_replicas"],
            ", ".join(group["state"] for group in d["groups"]) or _idle(d["lane"]),
        )
        for d in documents
    ]
    headings = ("NAME", "ENABLED", "LANE", "WEIGHTS", "IN $/M", "OUT $/M", "SLO TTFT", "MIN", "RUNNING")
    none = ["no model yet; add one: hydrant model register NAME DIRECTORY --input-price ... --output-price ..."]
    console.show({"models": documents}, table(headings, rows, right="000111110") if rows else none)


def _keep_alive(document: "ModelDocument", *, plenty: bool, percent: int) -> str:
    """The keep-alive in force, and why. `plenty`: at most `percent` of all device memory is reserved."""
    set_, pauses = f"{document['keep_alive_s']} s", document["pauses"]
    if document["keep_alive_mode"] == "fixed":
        return f"{set_}, fixed"
    if not pauses:
        return f"{set_}, as set: there is no pause to learn from yet"
    short, in_plenty = f"{document['kept_s']:.0f} s", f"{document['kept_in_plenty_s']:.0f} s"
    learned = f"learned from {pauses} pause{'s' if pauses > 1 else ''} (set: {set_})"
    if in_plenty == short:
        return f"{short}, {learned}"
    if plenty:
        return f"{in_plenty} ({short} once more than {percent} % of all device memory is reserved), {learned}"
    return f"{short} ({in_plenty} while at most {percent} % of all device memory is reserved), {learned}"


def _weights(document: "ModelDocument") -> str | None:
    if document["lane"] == "hosted":
        return None
    return f"{document['architecture']}, {document['layers']} layers, {size(document['weight_bytes'])}"


def _expected(document: "ModelDocument") -> str | None:
    window = document["expected_ms"]
    return None if window is None else f"{moment(window[0])} to {moment(window[1])}"


@model.command(examples=["hydrant model show qwen3-8b"])
@click.argument("name")
@reporting
def show(console: Console, name: str) -> None:
    """One model: source, settings, price in force, aliases, service levels, what runs."""
    from cli.cluster import memory_is_plenty
    from cli.workspace import Workspace
    from registry.ids import now_ms
    from registry.ops.money import usd

    with Workspace(console) as here:
        document = _read_document(here, name)
        percent = here.settings.idle_memory_percent
        with here.read() as session:
            plenty = memory_is_plenty(session, percent, now_ms())
    price = document["price"]
    lines = fields(
        [
            ("name", document["name"]),
            ("aliases", ", ".join(map(alias_words, document["aliases"])) or None),
            ("id", document["model_id"]),
            ("source", document["source"]),
            ("enabled", document["enabled"]),
            ("lane", document["lane"]),
            ("provider", document["provider"]["model"] if document["provider"] else None),
            ("weights", _weights(document)),
            ("largest pipeline", document["max_stages"]),
            ("price per million", f"input {usd(price['input_nusd'] * 10**6)}, cached"
             f" {usd(price['cached_input_nusd'] * 10**6)}, output {usd(price['output_nusd'] * 10**6)}"),
            ("price per request", usd(price["request_nusd"])),
            ("price per GPU-second", usd(price["gpu_second_nusd"])),
            ("tenants pay for starts", document["charge_cold_starts"]),
            ("first token within", seconds(document["slo_ttft_ms"])),
            ("each token within", f"{document['slo_tpot_ms']} ms" if document["slo_tpot_ms"] else None),
            ("keep-alive", _keep_alive(document, plenty=plenty, percent=percent)),
            ("expected again (UTC)", _expected(document)),
            ("minimum replicas", document["min_replicas"]),
            ("kept warm until (UTC)", moment(document["warm_until_ms"])),
            ("requests a minute", document["rpm"]),
            ("tokens a minute", document["tpm"]),
            ("requests at once", document["parallel"]),
            ("requests a worker", document["capacity"]),
            ("KV reserve", size(document["kv_reserve_bytes"])),
            ("default max_tokens", document["default_max_tokens"]),
            *((f"engine: {name}", value) for name, value in document["settings"].items()),
        ]
    )  # fmt: skip
    groups = [(g["group_id"], g["state"], g["stages"], moment(g["created_at_ms"])) for g in document["groups"]]
    running = table(("GROUP", "STATE", "STAGES", "STARTED (UTC)"), groups) if groups else [_idle(document["lane"])]
    console.show({"model": document}, [*lines, "", *running])


@model.command(
    examples=[
        "hydrant model update qwen3-8b --slo-ttft-ms 8000 --slo-tpot-ms none",
        "hydrant model update qwen3-8b --min-replicas 1",
        "hydrant model update qwen3-8b --tool-parser qwen25 --context-length 16384",
    ]
)
@click.argument("name")
@click.option("--name", "new_name", help="A new name; only while nothing of it runs.")
@serving_options
@reporting
def update(console: Console, name: str, new_name: str | None, **serving: Any) -> None:
    """Change how a model is served. What is not given stays. Engine settings apply to workers started from now on."""
    settings, changes = split_serving(serving)
    if settings:
        changes["settings"] = settings
    if new_name is not None:
        changes["name"] = new_name
    if not changes:
        raise click.UsageError("nothing to change: give at least one option (hydrant model update --help lists them)")

    def do(session: "Session", actor: str) -> "Model":
        from registry.ops import models

        return models.update_model(session, actor, models.resolve_name(session, name).id, **changes)

    _change(console, do, f"changed {{name}}: {', '.join(sorted({**changes, **settings}.keys() - {'settings'}))}")


@model.command(examples=["hydrant model enable qwen3-8b"])
@click.argument("name")
@reporting
def enable(console: Console, name: str) -> None:
    """Offer a model again."""
    _set_enabled(console, name, True)


@model.command(examples=["hydrant model disable qwen3-8b"])
@click.argument("name")
@reporting
def disable(console: Console, name: str) -> None:
    """Offer a model no longer. Running answers end normally, then its workers stop."""
    _set_enabled(console, name, False)


@model.command(examples=["hydrant model delete old-model --yes", "hydrant model delete old-model --stop --yes"])
@click.argument("name")
@click.option("--stop", is_flag=True, help="Even while it runs: its workers are drained.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reporting
def delete(console: Console, name: str, stop: bool, yes: bool) -> None:
    """Take a model out of service for ever. Usage and prices stay, aliases of it alone go, weights are not touched."""
    from cli.workspace import Workspace
    from registry.errors import ConflictError
    from registry.ops import models

    confirm(console, f"Delete model {name}?", yes=yes)
    try:
        with Workspace(console) as here:
            row = here.change(
                lambda session, actor: models.delete_model(
                    session, actor, models.resolve_name(session, name).id, stop=stop
                ),
                reconcile=True,
            )
    except ConflictError as error:
        raise Failure(f"{error.message.partition(';')[0]}; stop it first, or add --stop", error.field) from None
    console.show({"deleted": {"model_id": row.id, "name": row.name}}, [f"deleted {row.name} ({row.id})"])


@model.command(
    examples=[
        "hydrant model price qwen3-8b                              its prices, the latest first",
        "hydrant model price qwen3-8b --output 0.25                from now on",
        "hydrant model price qwen3-8b --input 0.04 --from 2027-01-01",
        "hydrant model price qwen3-8b --gpu-second 0.0008          what a cold start costs a second",
    ]
)
@click.argument("name")
@click.option("--input", "input_nusd", type=PRICE, help="Dollars per million tokens of prompt.")
@click.option("--cached-input", "cached_input_nusd", type=PRICE, help="Dollars per million cached tokens of prompt.")
@click.option("--output", "output_nusd", type=PRICE, help="Dollars per million tokens of answer.")
@click.option("--request", "request_nusd", type=DOLLARS, help="Dollars for each request.")
@click.option("--gpu-second", "gpu_second_nusd", type=DOLLARS, help="Dollars for a second of a whole device.")
@click.option("--from", "from_ms", type=MOMENT, help="When it begins to hold, UTC; now unless given.")
@reporting
def price(console: Console, name: str, from_ms: int | None, **amounts: int | None) -> None:
    """Show a model's prices, or set a new one. What is not given stays as in the price in force.

    Prices are never changed, only followed by others: a request is billed at the price it was admitted with.
    """
    from cli.workspace import Workspace
    from registry.documents.models import price_document
    from registry.ids import now_ms
    from registry.ops import models, prices
    from registry.ops.money import usd

    given = {field: value for field, value in amounts.items() if value is not None}
    if from_ms is not None and not given:
        raise click.UsageError(
            "--from needs a price: give --input, --cached-input, --output, --request or --gpu-second"
        )

    def set_price(session: "Session", actor: str) -> None:
        model_id = models.resolve_name(session, name).id
        present = prices.price_at(session, model_id, now_ms())
        complete = {field: given.get(field, getattr(present, field)) for field in amounts}
        prices.set_price(session, actor, model_id, from_ms=from_ms, **complete)

    with Workspace(console) as here:
        if given:
            here.change(set_price)
        with here.read() as session:
            row = models.resolve_name(session, name)
            documents = [price_document(found) for found in prices.list_prices(session, row.id)]
    rows = [
        (
            moment(d["from_ms"]),
            usd(d["input_nusd"] * 10**6),
            usd(d["cached_input_nusd"] * 10**6),
            usd(d["output_nusd"] * 10**6),
            usd(d["request_nusd"]),
            usd(d["gpu_second_nusd"]),
        )
        for d in documents
    ]
    headings = ("FROM (UTC)", "INPUT/M", "CACHED/M", "OUTPUT/M", "REQUEST", "GPU-SECOND")
    console.show({"model": row.name, "prices": documents}, table(headings, rows, right="0....."))


@model.command(examples=["hydrant model warm qwen3-8b", "hydrant model warm qwen3-8b --minutes 240"])
@click.argument("name")
@click.option("--minutes", type=int, default=30, show_default=True, help="How long to keep a worker up: 1 to 1440.")
@reporting
def warm(console: Console, name: str, minutes: int) -> None:
    """Start a worker now if none runs, and keep at least one for a while."""

    def do(session: "Session", actor: str) -> "Model":
        from registry.ops import models

        return models.warm_now(session, actor, models.resolve_name(session, name).id, minutes)

    _change(console, do, f"{{name}} is kept warm for {minutes} min; hydrant status shows how it starts")


@model.command(examples=["hydrant model stop qwen3-8b"])
@click.argument("name")
@reporting
def stop(console: Console, name: str) -> None:
    """Drain what runs now. The next request starts the model again; to prevent that, disable it."""

    def do(session: "Session", actor: str) -> "Model":
        from registry.ops import models

        return models.stop_now(session, actor, models.resolve_name(session, name).id)

    _change(console, do, "{name} drains: running answers end, then its workers stop")


# --- shared -----------------------------------------------------------------------------------------------------------


def _idle(lane: str) -> str:
    return "at its provider" if lane == "hosted" else "scaled to zero"


def _compressed(manifest: "ManifestDoc") -> str:
    from registry.manifest import source_bytes

    taken = source_bytes(manifest)
    return f" ({size(taken)} compressed)" if any("codec" in tensor for tensor in manifest["tensors"]) else ""


def _saying(console: Console, what: str) -> Callable[[int, int], None]:
    """Says every few seconds how far work on a source has come."""
    said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _SILENCE_S:
            said = time.monotonic()
            console.note(f"{what}: {size(done)} of {size(total)}")

    return progress


def _set_enabled(console: Console, name: str, enabled: bool) -> None:
    def do(session: "Session", actor: str) -> "Model":
        from registry.ops import models

        return models.set_enabled(session, actor, models.resolve_name(session, name).id, enabled)

    _change(console, do, "{name} is offered" if enabled else "{name} is offered no more; what runs is drained")


def _change(console: Console, do: "Callable[[Session, str], Model]", done: str) -> None:
    """A change of one model that the controller should know of; `done` is what to say, with {name}."""
    from cli.workspace import Workspace

    with Workspace(console) as here:
        row = here.change(do, reconcile=True)
        document = _read_document(here, row.name)
    console.show({"model": document}, [done.format(name=row.name)])


def _read_document(here: "Workspace", name: str) -> "ModelDocument":
    from orchestrator.keep_alive import keep_alives_ms
    from registry.documents.models import model_document
    from registry.ops import models

    with here.read() as session:
        return model_document(session, models.resolve_name(session, name), keep_alives_ms)
