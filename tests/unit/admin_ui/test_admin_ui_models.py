"""Models: registering from a real directory, changing, pricing, aliases, and the buttons the controller acts on."""

import re
import time
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select
from support.admin_app import AdminApp, send
from support.admin_samples import Samples
from support.registry_rows import add_model
from support.safetensors_writer import write_model

from orchestrator.types import NoPlan, NoPlanReason
from registry.db import read_scope, session_scope
from registry.ids import now_ms
from registry.models import Calibration, ColdStart, ColdStartEvent, Device, Group, Model, ModelUse, Stage
from registry.ops import aliases, models, prices

SECONDS_TO_REGISTER = 20

SERVING = {
    "lane": "direct", "slo_ttft_ms": "7.5", "slo_tpot_ms": "", "keep_alive_s": "60", "keep_alive_mode": "fixed",
    "min_replicas": "0", "rpm": "30", "capacity": "4", "default_max_tokens": "256", "kv_reserve_bytes": "0.5",
    "context_length": "64", "dtype": "auto", "grammar_backend": "xgrammar", "tool_parser": "hermes",
    "reasoning_parser": "",
}  # fmt: skip
PRICES = {"input_nusd": "0.02", "cached_input_nusd": "", "output_nusd": "0.06", "request_nusd": ""}


def follow_registration(client: FlaskClient, path: str) -> str:
    deadline = time.monotonic() + SECONDS_TO_REGISTER
    while True:
        page = client.get(f"{path}/live").text
        if "To the model" in page or "Try again" in page:
            return page
        assert time.monotonic() < deadline, page
        time.sleep(0.02)


def test_a_model_is_registered_from_a_directory(admin: AdminApp, tmp_path: Path) -> None:
    source = write_model(tmp_path / "tiny")
    client = admin.signed_in("owner")
    answer = send(client, "/models/new", {"name": "tiny", "source": str(source), **SERVING, **PRICES})
    assert answer.status_code == 302
    assert "Registering tiny" in client.get(answer.location).text
    page = follow_registration(client, answer.location)
    with read_scope(admin.sessions) as session:
        model = models.resolve_name(session, "tiny")
        price = prices.list_prices(session, model.id)[0]
        assert f"/models/{model.id}" in page
        assert (model.slo_ttft_ms, model.slo_tpot_ms, model.keep_alive_s, model.capacity) == (7_500, None, 60, 4)
        assert (model.kv_reserve_bytes, model.default_max_tokens) == (500_000_000, 256)
        assert (model.rpm, model.tpm, model.parallel) == (30, None, None)
        assert (model.settings["context_length"], model.settings["tool_parser"]) == (64, "hermes")
        assert (price.input_nusd, price.cached_input_nusd, price.output_nusd, price.request_nusd) == (20, 20, 60, 0)
    assert "owner@example.org" in client.get(f"/audit?subject={model.id}").text
    assert client.get(f"/models/{model.id}").status_code == 200


def test_a_source_that_cannot_be_served_says_why(admin: AdminApp, tmp_path: Path) -> None:
    client = admin.signed_in("owner")
    missing = send(client, "/models/new", {"name": "x", "source": str(tmp_path / "none"), **SERVING, **PRICES})
    assert missing.status_code == 302
    page = follow_registration(client, missing.location)
    assert 'role="alert"' in page
    assert "Try again" in page
    unsupported = write_model(tmp_path / "odd", config_changes={"architectures": ["ParrotForCausalLM"]})
    answer = send(client, "/models/new", {"name": "x", "source": str(unsupported), **SERVING, **PRICES})
    assert "ParrotForCausalLM" in follow_registration(client, answer.location)
    with read_scope(admin.sessions) as session:
        assert models.list_models(session) == []


def test_a_registration_that_nobody_knows_says_what_to_do(admin: AdminApp) -> None:
    assert admin.signed_in("owner").get("/models/registrations/reg_x").status_code == 404


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "Give the model a name"),
        ({"source": ""}, "Say where the weights are"),
        ({"input_nusd": ""}, "Fill this in."),
        ({"input_nusd": "0.0001"}, "multiple of $0.001 per million tokens"),
        ({"output_nusd": "-1"}, "must not be negative"),
        ({"output_nusd": "cheap"}, "must be an amount in dollars"),
        ({"slo_ttft_ms": "soon"}, "Enter a number"),
        ({"kv_reserve_bytes": "0.0000000001"}, "a byte is the finest"),
        ({"lane": "scenic"}, "Not a valid choice"),
        ({"tool_parser": "; rm -rf /"}, "Not a valid choice"),
        # What the registry alone knows is asked before gigabytes are read.
        ({"name": "no spaces"}, "must start with a letter or digit"),
        ({"name": "taken"}, "There is already a model named"),
        ({"source": "ftp://host/x"}, "Source must be a directory"),
        ({"source": "~nobody-has-this-name/x"}, "nobody here has that name"),
        ({"capacity": "0"}, "whole number from 1"),
        ({"request_nusd": "2000"}, "must be from $0.00 to $1000.00"),
    ],
)
def test_a_bad_registration_is_refused_at_once(admin: AdminApp, fields: dict[str, str], message: str) -> None:
    with session_scope(admin.sessions) as session:
        add_model(session, "taken")
    good = {"name": "tiny", "source": "/models/tiny", **SERVING, **PRICES}
    answer = send(admin.signed_in("owner"), "/models/new", {**good, **fields})
    assert answer.status_code == 422
    assert message in answer.text


def stored(admin: AdminApp, model_id: str) -> Model:
    with read_scope(admin.sessions) as session:
        return models.get_model(session, model_id)


def test_editing_shows_what_is_there_and_changes_what_is_sent(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    path = f"/models/{samples.model.id}/edit"
    page = client.get(path).text
    assert 'value="smollm2-135m-instruct"' in page
    assert re.search(r'name="slo_ttft_ms"[^>]* value="6"', page)
    assert send(client, path, {"name": "smollm2-135m-instruct", **SERVING}).status_code == 302
    model = stored(admin, samples.model.id)
    assert (model.slo_ttft_ms, model.keep_alive_s, model.keep_alive_mode) == (7_500, 60, "fixed")
    assert model.context_length == 64


def test_a_learned_keep_alive_beyond_the_set_one_is_shown_with_its_bound(admin: AdminApp, samples: Samples) -> None:
    path, bound = f"/models/{samples.model.id}", "no more than 30 % of all device memory"
    with session_scope(admin.sessions) as session:
        model = models.get_model(session, samples.model.id)
        model.keep_alive_mode, model.keep_alive_s = "learned", 60
        session.merge(ModelUse(model_id=model.id, busy_until_ms=1, pauses_ms=[20_000] * 8))
    assert bound not in admin.signed_in("operator").get(path).text
    with session_scope(admin.sessions) as session:
        session.get_one(ModelUse, samples.model.id).pauses_ms = [90_000] * 8
    assert bound in admin.signed_in("operator").get(path).text


def test_all_that_is_wrong_with_a_registration_is_told_at_once(admin: AdminApp) -> None:
    bad = {"name": "no spaces", "source": "ftp://host/x", **SERVING, **PRICES, "input_nusd": "0.0001"}
    page = send(admin.signed_in("owner"), "/models/new", bad).text
    for message in ("Name must start with", "Source must be a directory", "multiple of $0.001 per million tokens"):
        assert message in page


def test_the_kv_cache_is_shown_in_whole_megabytes_and_stays_as_it_was(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        session.get_one(Model, samples.model.id).kv_reserve_bytes = 188_743_680
    client, path = admin.signed_in("owner"), f"/models/{samples.model.id}/edit"
    assert re.search(r'<input[^>]*name="kv_reserve_bytes"[^>]*value="0.189"', client.get(path).text)
    sent = {"name": samples.model.name, **SERVING}
    assert send(client, path, {**sent, "kv_reserve_bytes": "0.189"}).status_code == 302
    assert stored(admin, samples.model.id).kv_reserve_bytes == 188_743_680
    assert send(client, path, {**sent, "kv_reserve_bytes": "0.19"}).status_code == 302
    assert stored(admin, samples.model.id).kv_reserve_bytes == 190_000_000


def test_the_keep_alive_in_force_is_shown_with_why(admin: AdminApp, samples: Samples) -> None:
    path = f"/models/{samples.model.id}"

    def shown(mode: str, pauses_ms: list[int], *, busy: bool = False) -> str:
        with session_scope(admin.sessions) as session:
            model = models.get_model(session, samples.model.id)
            model.keep_alive_mode, model.keep_alive_s = mode, 300
            session.merge(ModelUse(model_id=model.id, busy_until_ms=1, pauses_ms=pauses_ms))
            memory = session.scalars(select(func.sum(Device.memory_bytes))).one()
            for stage in session.scalars(select(Stage).where(Stage.state == "ready")):
                stage.reserved_bytes = memory if busy else 1
        return " ".join(admin.signed_in("operator").get(path).text.split())

    day_ms = 86_400_000
    assert "5 min after the last request, fixed<" in shown("fixed", [day_ms] * 3)
    assert "5 min after the last request, as set: there is no pause to learn from yet<" in shown("learned", [])
    learned = "% of all device memory is reserved), learned from 3 pauses (set: 5 min)<"
    plenty = shown("learned", [day_ms] * 3)
    assert f"1 min 15 s after the last request (1.00 s once more than 30 {learned}" in plenty
    short = shown("learned", [day_ms] * 3, busy=True)
    assert f"1.00 s after the last request (1 min 15 s while at most 30 {learned}" in short


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "renamed"}, "cannot be renamed while it runs"),
        ({"name": "old-llama"}, "cannot be renamed while it runs"),
        ({"name": "no spaces"}, "must start with a letter or digit"),
        ({"context_length": "9999999"}, "whole number from 1 to 4096"),
        ({"min_replicas": "-1"}, "whole number from 0"),
        ({"rpm": "0"}, "At least 1"),
        ({"capacity": "0"}, "whole number from 1"),
        ({"kv_reserve_bytes": ""}, "Fill this in."),
        ({"context_length": ""}, "Fill this in."),
    ],
)
def test_a_bad_edit_changes_nothing(admin: AdminApp, samples: Samples, fields: dict[str, str], message: str) -> None:
    before = stored(admin, samples.model.id)
    fields = {"name": before.name, **SERVING, **fields}
    answer = send(admin.signed_in("operator"), f"/models/{samples.model.id}/edit", fields)
    assert answer.status_code == 422
    assert message in answer.text
    after = stored(admin, samples.model.id)
    assert (after.name, after.slo_ttft_ms, after.settings) == (before.name, before.slo_ttft_ms, before.settings)


def test_a_new_price_is_added_and_the_old_one_kept(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("owner")
    path = f"/models/{samples.model.id}/price"
    assert 'value="0.005"' in client.get(path).text
    sent = {"input_nusd": "1.25", "cached_input_nusd": "0.1", "output_nusd": "10", "request_nusd": "0.01"}
    sent["gpu_second_nusd"] = "0.0008"
    assert send(client, path, sent).status_code == 302
    with read_scope(admin.sessions) as session:
        new, old = prices.list_prices(session, samples.model.id)
    assert (new.input_nusd, new.cached_input_nusd, new.output_nusd) == (1_250, 100, 10_000)
    assert (new.request_nusd, new.gpu_second_nusd) == (10_000_000, 800_000)
    assert old.input_nusd == 20
    page = client.get(f"/models/{samples.model.id}").text
    assert "$1.25 / M tokens" in page
    assert "$0.0008" in page
    assert "All 2 prices" in page
    refused = send(client, path, {**sent, "input_nusd": "-1"})
    assert refused.status_code == 422
    assert "$1.25 / M tokens" in refused.text, "the price that would be replaced"


def test_the_price_form_begins_with_the_price_in_force_and_not_with_one_to_come(
    admin: AdminApp, samples: Samples
) -> None:
    with session_scope(admin.sessions) as session:
        later = now_ms() + 86_400_000
        prices.set_price(session, "test", samples.model.id, input_nusd=777_000, output_nusd=1, from_ms=later)
    page = admin.signed_in("owner").get(f"/models/{samples.model.id}/price").text
    assert 'value="0.02"' in page
    assert "777" not in page


def test_warm_and_stop(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    path = f"/models/{samples.model.id}"
    assert send(client, f"{path}/warm", {"minutes": "60"}).status_code == 302
    warm_until = stored(admin, samples.model.id).warm_until_ms
    assert warm_until is not None
    assert warm_until > now_ms() + 59 * 60_000
    assert "kept up until" in client.get(path).text
    assert send(client, f"{path}/warm", {"minutes": "100000"}).status_code == 422
    send(client, f"{path}/stop")
    model = stored(admin, samples.model.id)
    assert model.warm_until_ms is None
    assert model.stop_requested_at_ms is not None


def test_a_disabled_model_cannot_be_warmed_and_says_so(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    send(client, f"/models/{samples.model.id}/disable")
    answer = send(client, f"/models/{samples.model.id}/warm", {"minutes": "60"})
    assert answer.status_code == 422
    assert "enable it first" in answer.text
    send(client, f"/models/{samples.model.id}/enable")
    assert stored(admin, samples.model.id).enabled


def test_a_refused_button_says_why_on_the_next_page(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    with session_scope(admin.sessions) as session:
        models.set_min_replicas(session, "test", samples.model.id, 2)
    answer = send(client, f"/models/{samples.model.id}/stop")
    assert "minimum of 2 replica(s); set it to 0 first" in client.get(answer.location).text
    assert stored(admin, samples.model.id).stop_requested_at_ms is None


def test_aliases_come_and_go(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    path = f"/models/{samples.model.id}/aliases"
    assert send(client, path, {"alias": "team/default"}).status_code == 302
    assert send(client, path, {"alias": "team/default"}).status_code == 422
    assert "must start with" in send(client, path, {"alias": "spaces in it"}).text
    assert send(client, f"{path}/team/default/remove").status_code == 302
    assert send(client, f"{path}/team/default/remove").status_code == 404
    with read_scope(admin.sessions) as session:
        assert [alias.name for alias in aliases.list_aliases(session, samples.model.id)] == ["small"]


def test_an_alias_is_split_between_models(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    with session_scope(admin.sessions) as session:
        add_model(session, "canary")
    name = samples.model.name
    assert f"{name} = 1" in client.get("/aliases/small").text
    refused = send(client, "/aliases/small", {"weights": f"{name} = 95\ncanary = many"})
    assert refused.status_code == 422
    assert "weight of canary" in refused.text
    assert "canary = many" in refused.text
    assert send(client, "/aliases/small", {"weights": f"{name} = 95\ncanary = 5"}).status_code == 302
    assert "canary 5.0 %" in client.get(f"/models/{samples.model.id}").text
    assert client.get("/aliases/nobody").status_code == 404


def test_a_deleted_model_leaves_its_history(admin: AdminApp, samples: Samples) -> None:
    client = admin.signed_in("operator")
    assert send(client, f"/models/{samples.model.id}/delete").location == "/models"
    assert client.get(f"/models/{samples.model.id}").status_code == 404
    assert client.get(f"/models/cold-starts/{samples.cold_start.id}").status_code == 200
    assert "smollm2-135m-instruct" in client.get("/usage").text
    assert client.get("/").status_code == 200


def test_why_shows_reasons_stages_and_every_candidate(admin: AdminApp, samples: Samples) -> None:
    page = admin.signed_in("viewer").get(f"/models/{samples.model.id}/why").text
    assert "the smallest pipeline that meets the service level" in page
    assert "first token too late" in page
    assert ">chosen<" in page
    assert "node-b" in page


def test_a_plan_of_another_version_does_not_break_the_page(admin: AdminApp, samples: Samples) -> None:
    with session_scope(admin.sessions) as session:
        session.get_one(ColdStart, samples.cold_start.id).plan = {"stages": "many", "s": "two"}
    client = admin.signed_in("viewer")
    for path in (f"/models/{samples.model.id}/why", f"/models/cold-starts/{samples.cold_start.id}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "stored by another version" in answer.text


def test_a_start_that_could_not_be_planned_says_why(admin: AdminApp, samples: Samples) -> None:
    refusal = NoPlan(samples.model.name, NoPlanReason.NO_NODES, {"cordoned": 2}, (), None)
    with session_scope(admin.sessions) as session:
        session.add(
            ColdStart(
                id="cst_refused",
                model_id=samples.model.id,
                cause="demand",
                plan=refusal.to_json(),
                requested_at_ms=now_ms(),
                failed_at_ms=now_ms(),
                reason="No node that reports can take anything (2 cordoned).",
            )
        )
    client = admin.signed_in("viewer")
    for path in (
        "/",
        f"/models/{samples.model.id}",
        f"/models/{samples.model.id}/why",
        "/models/cold-starts/cst_refused",
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "No node that reports can take anything (2 cordoned" in answer.text


def test_the_waterfall_has_every_stage_and_both_times(admin: AdminApp, samples: Samples) -> None:
    page = admin.signed_in("viewer").get(f"/models/cold-starts/{samples.cold_start.id}").text
    for text in ("rank 0 on node-a", "rank 1 on node-b", "fetching weights", "runtime starts", "4.52 s", "4.14 s"):
        assert text in page


def test_a_stopped_start_is_told_below_the_waterfall(admin: AdminApp, samples: Samples) -> None:
    start = samples.cold_start
    with session_scope(admin.sessions) as session:
        session.add(
            ColdStartEvent(cold_start_id=start.id, stage_id="", kind="stopped", at_ms=start.requested_at_ms + 209_000)
        )
    page = admin.signed_in("viewer").get(f"/models/cold-starts/{start.id}").text
    assert "It stopped 3 min 29 s after it was asked for." in page
    labels = re.findall(r'<text x="([0-9.]+)%" y="12" text-anchor="(\w+)">([0-9.]+) s</text>', page)
    assert labels[0][1] == "start"
    assert all(float(x) <= 92 or anchor == "end" for x, anchor, _at in labels)
    assert float(labels[-1][2]) < 10


def test_what_starts_have_taken_is_shown(admin: AdminApp, samples: Samples) -> None:
    client, path = admin.signed_in("viewer"), f"/models/{samples.model.id}"
    assert "Nothing yet: until three starts" in client.get(path).text
    fields = {"runtime_floor_ms": 1_310, "per_stage_floor_ms": 240, "tail_ms": 420}
    row = Calibration(
        kind="cpu", model_id=samples.model.id, profile=fields, starts=5, error_permille=83, updated_at_ms=1
    )
    with session_scope(admin.sessions) as session:
        session.add(row)
    page = client.get(path).text
    for text in ("1.31 s", "240 ms", "420 ms", "8.3 %"):
        assert text in page


def test_a_workers_secret_is_on_no_page(admin: AdminApp, samples: Samples) -> None:
    with read_scope(admin.sessions) as session:
        secrets = {group.api_key for group in session.query(Group)}
    client = admin.signed_in("owner")
    pages = ("/", f"/models/{samples.model.id}", f"/models/{samples.model.id}/why", "/nodes/node-a")
    text = "".join(client.get(path).text for path in pages)
    assert secrets
    assert not any(secret in text for secret in secrets)


def test_a_groups_reason_is_not_told_twice(admin: AdminApp, samples: Samples) -> None:
    said = "ended when its node was stopped"
    with session_scope(admin.sessions) as session:
        group = session.scalars(select(Group)).one()
        group.state, group.reason = "stopped", f"stage 0 on node-a: {said}"
        first, second = group.stages
        first.state, first.reason, second.reason = "gone", said, "its own"
    page = admin.signed_in("viewer").get(f"/models/{samples.model.id}/live").text
    assert page.count(said) == 1
    assert '</span> <span class="reason">its own</span>' in page
