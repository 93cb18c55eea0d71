"""Changes by people: each validated, audited in its own transaction, refused with a reason."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.registry_rows import add_model, add_tenant
from support.safetensors_writer import write_model

from registry.db import SessionFactory, session_scope
from registry.errors import ConflictError, InvalidError, NotFoundError, SourceError
from registry.ids import new_id, now_ms
from registry.models import Audit, Group, Model, Node
from registry.ops import admins, aliases, audit, keys, models, nodes, prices, tenants
from registry.snapshot import key_digest

PEPPER = "pepper"
PASSWORD = "correct horse battery"


def add_group(session: Any, model: Model, state: str) -> None:
    session.add(
        Group(id=new_id("grp"), model_id=model.id, state=state, plan={}, api_key="k", created_at_ms=1, deadline_ms=0)
    )
    session.flush()


# --- tenants and keys -------------------------------------------------------------------------------------------------


def test_a_tenant_changes_only_in_what_is_given(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        tenant = tenants.create_tenant(session, "ada", name=" acme ", rpm=5, tpm=6, parallel=7)
        tenants.update_tenant(session, "ada", tenant.id, rpm=None, parallel=9)
        assert (tenant.name, tenant.rpm, tenant.tpm, tenant.parallel) == ("acme", None, 6, 9)
        entries = audit.list_entries(session, subject=tenant.id)
        assert [entry.action for entry in entries] == ["tenant.update", "tenant.create"]
        assert entries[0].detail == {"rpm": None, "parallel": 9}
        assert tenants.find_tenant(session, "acme") is tenants.find_tenant(session, tenant.id) is tenant


def test_names_of_tenants_are_unique_and_a_refusal_keeps_the_transaction(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        add_tenant(session)
        other = add_tenant(session, "other")
        with pytest.raises(ConflictError, match="acme"):
            add_tenant(session)
        with pytest.raises(ConflictError, match="acme"):
            tenants.update_tenant(session, "ada", other.id, name="acme")
    with session_scope(session_factory) as session:
        assert [tenant.name for tenant in tenants.list_tenants(session)] == ["acme", "other"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", ""), ("name", "x" * 121), ("name", "nul \0"), ("rpm", 0), ("tpm", -1), ("parallel", 1.5), ("rpm", True)],
)
def test_bad_fields_are_named(session_factory: SessionFactory, field: str, value: Any) -> None:
    with pytest.raises(InvalidError) as caught, session_scope(session_factory) as session:
        tenants.create_tenant(session, "ada", **{"name": "acme", field: value})
    assert caught.value.field == field


def test_a_key_is_shown_once_and_stored_as_a_digest(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        key, plaintext = keys.create_key(session, "ada", PEPPER, tenant_id=add_tenant(session).id, name="ci")
        session.flush()
        assert key.digest == key_digest(PEPPER, plaintext)
        assert plaintext.startswith(f"hyd-{key.prefix}-")
        secret = plaintext.split("-", 2)[2]
        assert all(secret not in str(entry.detail) for entry in session.scalars(select(Audit)))


def test_a_key_ends_once_and_rotation_keeps_what_it_may(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        add_model(session)
        tenant = add_tenant(session)
        old, _ = keys.create_key(session, "ada", PEPPER, tenant_id=tenant.id, name="k", models=["smol"], rpm=3)
        new, plaintext = keys.rotate_key(session, "ada", PEPPER, old.id, overlap_s=60)
        assert (new.models, new.rpm, new.name, new.revoked_at_ms) == (["smol"], 3, "k", None)
        assert new.digest == key_digest(PEPPER, plaintext)
        assert old.revoked_at_ms is None
        assert old.expires_at_ms is not None
        assert old.expires_at_ms > now_ms()
        assert new.expires_at_ms is None

        newest, _ = keys.rotate_key(session, "ada", PEPPER, new.id)
        assert new.revoked_at_ms is not None
        revoked_at_ms = keys.revoke_key(session, "ada", newest.id).revoked_at_ms
        assert keys.revoke_key(session, "ada", newest.id).revoked_at_ms == revoked_at_ms
        with pytest.raises(ConflictError, match="ended"):
            keys.rotate_key(session, "ada", PEPPER, newest.id)
        assert len(keys.list_keys(session, tenant.id)) == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"models": []}, InvalidError),
        ({"models": "smol"}, InvalidError),
        ({"models": ["absent"]}, NotFoundError),
        ({"expires_at_ms": 1}, InvalidError),
        ({"tenant_id": "ten_absent"}, NotFoundError),
    ],
)
def test_impossible_keys_are_refused(
    session_factory: SessionFactory, options: dict[str, Any], error: type[Exception]
) -> None:
    with session_scope(session_factory) as session:
        tenant = add_tenant(session)
        with pytest.raises(error):
            keys.create_key(session, "ada", PEPPER, **{"tenant_id": tenant.id, "name": "k", **options})


# --- models -----------------------------------------------------------------------------------------------------------


def test_registering_reads_the_source(session_factory: SessionFactory, tmp_path: Path) -> None:
    write_model(tmp_path, tied=True)
    with session_scope(session_factory) as session:
        model = models.register_model(
            session, "ada", name="tiny", source=str(tmp_path), input_nusd=1, output_nusd=2, lane="litellm",
            settings={"dtype": "float32"}, capacity=2,
        )  # fmt: skip
        assert (model.architecture, model.layers, model.tied_embeddings) == ("LlamaForCausalLM", 4, True)
        assert (model.source, model.lane, model.context_length) == (tmp_path.as_uri(), "litellm", 128)
        # 64 bytes a token at fp16, twice that at fp32; two requests of 1024 tokens
        assert model.kv_reserve_bytes == 2 * 1024 * 128
        price = prices.price_at(session, model.id, now_ms())
        assert (price.input_nusd, price.cached_input_nusd, price.output_nusd) == (1, 1, 2)


def test_a_bad_source_registers_nothing(session_factory: SessionFactory, tmp_path: Path) -> None:
    with session_scope(session_factory) as session:
        with pytest.raises(SourceError, match="not a directory"):
            models.register_model(
                session, "ada", name="tiny", source=str(tmp_path / "absent"), input_nusd=1, output_nusd=2
            )
        assert models.list_models(session) == []
        assert audit.list_entries(session) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a b"),
        ("name", "<script>"),
        ("name", ""),
        ("lane", "express"),
        ("capacity", 0),
        ("default_max_tokens", 0),
        ("keep_alive_s", -1),
        ("min_replicas", -1),
        ("slo_ttft_ms", 0),
        ("slo_tpot_ms", 0),
        ("kv_reserve_bytes", 0),
        ("input_nusd", -1),
        ("output_nusd", 0.5),
        ("request_nusd", 10**13),
        ("gpu_second_nusd", -1),
        ("gpu_second_nusd", 10**10 + 1),
        ("charge_cold_starts", "yes"),
    ],
)
def test_bad_fields_of_a_model_are_named(session_factory: SessionFactory, field: str, value: Any) -> None:
    with pytest.raises(InvalidError) as caught, session_scope(session_factory) as session:
        add_model(session, **{field: value})
    assert caught.value.field == field


def test_an_update_is_partial_and_checked(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        model = add_model(session, settings={"tool_parser": "qwen25"})
        models.update_model(session, "ada", model.id, name="big", settings={"context_length": 100}, keep_alive_s=0)
        assert (model.name, model.context_length, model.keep_alive_s) == ("big", 100, 0)
        assert model.settings["tool_parser"] == "qwen25"
        for field in ("id", "manifest", "weight_bytes", "nonsense"):
            with pytest.raises(InvalidError, match=field):
                models.update_model(session, "ada", model.id, **{field: 1})
        with pytest.raises(InvalidError, match="tool_parser"):
            models.update_model(session, "ada", model.id, settings={"tool_parser": "x"})


def test_an_embedding_model_runs_on_one_worker(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        model = add_model(session)
        assert model.max_stages == 4
        models.update_model(session, "ada", model.id, settings={"embedding": True})
        assert model.max_stages == 1
        models.update_model(session, "ada", model.id, settings={"embedding": False})
        assert model.max_stages == 4


def test_names_and_aliases_share_one_space(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        smol, big = add_model(session), add_model(session, "big")
        aliases.add_alias(session, "ada", smol.id, "chat")
        assert models.resolve_name(session, "chat") is smol
        for name in ("chat", "big"):
            with pytest.raises(ConflictError, match=name):
                aliases.add_alias(session, "ada", smol.id, name)
        with pytest.raises(ConflictError, match="chat"):
            add_model(session, "chat")
        with pytest.raises(ConflictError, match="chat"):
            models.update_model(session, "ada", big.id, name="chat")
        assert [alias.name for alias in aliases.list_aliases(session, smol.id)] == ["chat"]
        aliases.remove_alias(session, "ada", "chat")
        with pytest.raises(NotFoundError):
            aliases.remove_alias(session, "ada", "chat")
        with pytest.raises(NotFoundError):
            models.resolve_name(session, "chat")


def test_one_name_is_registered_once_by_racing_people(session_factory: SessionFactory) -> None:
    def register(_number: int) -> bool:
        try:
            with session_scope(session_factory) as session:
                add_model(session)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(register, range(6))) == [False] * 5 + [True]


def test_deleting_waits_for_running_groups_unless_told(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        model = add_model(session, min_replicas=1)
        add_group(session, model, "standalone")
        add_group(session, model, "stopped")
        with pytest.raises(ConflictError, match="1 running"):
            models.delete_model(session, "ada", model.id)
        models.delete_model(session, "ada", model.id, stop=True)
        assert model.stop_requested_at_ms is not None
        assert (model.enabled, model.min_replicas) == (False, 0)
        with pytest.raises(NotFoundError):
            models.get_model(session, model.id)
        # Its workers still drain under that name.
        with pytest.raises(ConflictError, match="drain"):
            add_model(session)
        for group in session.scalars(select(Group)):
            group.state = "stopped"
        assert add_model(session).id != model.id


def test_warm_and_stop(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        model = add_model(session)
        models.warm_now(session, "ada", model.id, 5)
        assert model.warm_until_ms is not None
        assert model.warm_until_ms > now_ms()
        models.stop_now(session, "ada", model.id)
        assert model.warm_until_ms is None
        assert model.stop_requested_at_ms is not None
        models.set_min_replicas(session, "ada", model.id, 1)
        with pytest.raises(ConflictError, match="minimum"):
            models.stop_now(session, "ada", model.id)
        models.set_enabled(session, "ada", model.id, False)
        with pytest.raises(ConflictError, match="disabled"):
            models.warm_now(session, "ada", model.id, 5)
        with pytest.raises(InvalidError, match="minutes"):
            models.warm_now(session, "ada", models.set_enabled(session, "ada", model.id, True).id, 0)


def test_a_price_never_changes_the_past(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        model = add_model(session)
        with pytest.raises(InvalidError, match="past"):
            prices.set_price(session, "ada", model.id, input_nusd=1, output_nusd=1, from_ms=now_ms() - 1000)
        with pytest.raises(NotFoundError):
            prices.price_at(session, model.id, model.created_at_ms - 1)
        later = prices.set_price(session, "ada", model.id, input_nusd=1, output_nusd=1, from_ms=now_ms() + 60_000)
        assert prices.list_prices(session, model.id)[0].id == later.id
        assert prices.price_at(session, model.id, now_ms()).input_nusd == 20


# --- nodes ------------------------------------------------------------------------------------------------------------


def report(**changes: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "node": "node-a",
        "boot_id": "boot-1",
        "seq": 5,
        "at_ms": 1,
        "devices": [
            {"index": 0, "kind": "cpu", "name": "cores 0", "memory_bytes": 10**9, "cores": [0]},
            {"index": 1, "kind": "cuda", "name": "A10", "memory_bytes": 24 * 10**9},
        ],
        "address": "127.0.0.1",
        "ports": [31000, 31099],
        "link_bps": 50_000_000,
        "stages": [],
        **changes,
    }


def test_a_report_makes_and_updates_a_node(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        nodes.upsert_from_report(session, report(), 100)
        nodes.cordon(session, "ada", "node-a")
    with session_scope(session_factory) as session:
        node = nodes.upsert_from_report(session, report(seq=6, devices=report()["devices"][:1], link_bps=7), 200)
        assert (node.cordoned, node.link_bps, node.report_seq, node.seen_at_ms) == (True, 7, 6, 200)
        assert [(device.idx, device.kind) for device in node.devices] == [(0, "cpu")]
        assert node.report["seq"] == 6


def test_an_older_report_changes_nothing_but_a_reboot_counts_anew(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        nodes.upsert_from_report(session, report(), 100)
        assert nodes.upsert_from_report(session, report(seq=4, link_bps=7), 200).link_bps == 50_000_000
        assert nodes.upsert_from_report(session, report(seq=1, link_bps=7, boot_id="boot-2"), 300).link_bps == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", None),
        ("boot_id", ""),
        ("seq", "5"),
        ("ports", [1]),
        ("ports", [0, 70_000]),
        ("devices", None),
        ("devices", [7]),
        ("devices", [{"index": 0, "kind": "tpu", "memory_bytes": 1}]),
        ("devices", [{"index": 0, "kind": "cpu", "memory_bytes": 1}] * 2),
        ("link_bps", 0),
        ("address", 7),
    ],
)
def test_a_bad_report_is_refused_whole(session_factory: SessionFactory, field: str, value: Any) -> None:
    with session_scope(session_factory) as session:
        with pytest.raises(InvalidError, match=field):
            nodes.upsert_from_report(session, report(**{field: value}), 100)
        assert session.scalars(select(Node)).all() == []


def test_cordon_drain_uncordon(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        nodes.upsert_from_report(session, report(), 100)
        node = nodes.drain(session, "ada", "node-a")
        assert (node.cordoned, node.draining) == (True, True)
        node = nodes.uncordon(session, "ada", "node-a")
        assert (node.cordoned, node.draining) == (False, False)
        with pytest.raises(NotFoundError, match="node-b"):
            nodes.cordon(session, "ada", "node-b")


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_person_logs_in_with_the_right_password_only(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        user, generated = admins.create_admin(
            session, "setup", email=" Ada@Example.org", role="owner", password=PASSWORD
        )
        assert generated is None
        assert PASSWORD not in user.password_hash
        assert admins.authenticate(session, "ADA@example.org ", PASSWORD) is user
        assert user.last_login_at_ms is not None
        for email, password in (
            ("ada@example.org", PASSWORD + "!"),
            ("ada@example.org", ""),
            ("eve@example.org", PASSWORD),
            ("ada@example.org", "x" * 100_000),
            ("ada@example.org\0", PASSWORD),
            ("ada@example.org", "\ud800"),
        ):
            assert admins.authenticate(session, email, password) is None


def test_a_one_time_password_must_be_changed_and_ends_sessions(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        user, generated = admins.create_admin(session, "setup", email="ada@example.org", role="owner")
        assert generated is not None
        assert user.must_change
        assert admins.authenticate(session, user.email, generated) is user
        epoch = user.session_epoch
        admins.set_password(session, "ada", user.id, PASSWORD)
        assert not user.must_change
        assert user.session_epoch > epoch
        assert admins.authenticate(session, user.email, generated) is None
        assert all(generated not in str(entry.detail) for entry in session.scalars(select(Audit)))
        _, reset = admins.set_password(session, "ada", user.id)
        assert reset is not None
        assert user.must_change


def test_a_disabled_person_cannot_log_in(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        admins.create_admin(session, "setup", email="ada@example.org", role="owner", password=PASSWORD)
        bob, _ = admins.create_admin(session, "ada", email="bob@example.org", role="viewer", password=PASSWORD)
        admins.set_disabled(session, "ada", bob.id, True)
        assert admins.authenticate(session, bob.email, PASSWORD) is None
        admins.set_disabled(session, "ada", bob.id, False)
        assert admins.authenticate(session, bob.email, PASSWORD) is bob


def test_the_last_owner_stays(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        ada, _ = admins.create_admin(session, "setup", email="ada@example.org", role="owner", password=PASSWORD)
        bob, _ = admins.create_admin(session, "ada", email="bob@example.org", role="owner", password=PASSWORD)
        admins.set_role(session, "ada", bob.id, "viewer")
        with pytest.raises(ConflictError, match="last owner"):
            admins.set_role(session, "ada", ada.id, "operator")
        with pytest.raises(ConflictError, match="last owner"):
            admins.set_disabled(session, "ada", ada.id, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "ada"),
        ("email", "a b@c.d"),
        ("email", "@"),
        ("role", "root"),
        ("password", "short"),
        ("password", "\ud800" * 20),
    ],
)
def test_bad_accounts_are_refused(session_factory: SessionFactory, field: str, value: str) -> None:
    good = {"email": "ada@example.org", "role": "owner", "password": PASSWORD}
    with pytest.raises(InvalidError, match=field), session_scope(session_factory) as session:
        admins.create_admin(session, "setup", **{**good, field: value})


def test_an_account_exists_once(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        admins.create_admin(session, "setup", email="ada@example.org", role="owner", password=PASSWORD)
        with pytest.raises(ConflictError, match="already"):
            admins.create_admin(session, "setup", email="ADA@example.org", role="viewer", password=PASSWORD)
        assert admins.count_admins(session) == 1
