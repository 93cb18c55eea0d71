"""Management tokens and idempotent changes, on SQLite and Postgres."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select
from support.registry_rows import add_tenant

from registry.db import SessionFactory, session_scope
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import now_ms
from registry.models import Audit, IdempotentRequest, LedgerEntry, ManagementToken
from registry.ops import idempotency, money, tokens

PEPPER = "pepper"


def make(session_factory: SessionFactory, **options: int) -> tuple[str, str]:
    with session_scope(session_factory) as session:
        row, plaintext = tokens.create_token(session, "ada", PEPPER, name="ci", role="operator", **options)
        return row.id, plaintext


def known(session_factory: SessionFactory, plaintext: str, pepper: str = PEPPER) -> bool:
    with session_scope(session_factory) as session:
        return tokens.authenticate(session, pepper, plaintext) is not None


def test_a_token_is_stored_as_a_digest_and_known_by_it(session_factory: SessionFactory) -> None:
    token_id, plaintext = make(session_factory)
    with session_scope(session_factory) as session:
        row = session.get_one(ManagementToken, token_id)
        assert plaintext not in (row.digest, row.prefix, row.name)
        assert plaintext.startswith(f"hym-{row.prefix}-")
        (entry,) = session.scalars(select(Audit).where(Audit.action == "token.create"))
        assert plaintext[13:] not in str(entry.detail)
    assert known(session_factory, plaintext)
    assert not known(session_factory, plaintext, "another pepper")
    assert not known(session_factory, plaintext[:-1])
    assert not known(session_factory, plaintext.replace("hym-", "hyd-"))
    assert not known(session_factory, "")


def test_a_revoked_or_expired_token_is_not_known(session_factory: SessionFactory) -> None:
    token_id, plaintext = make(session_factory)
    for _ in range(2):
        with session_scope(session_factory) as session:
            tokens.revoke_token(session, "ada", token_id)
    assert not known(session_factory, plaintext)
    with session_scope(session_factory) as session:
        assert len(session.scalars(select(Audit).where(Audit.action == "token.revoke")).all()) == 1
    other_id, other = make(session_factory, expires_at_ms=now_ms() + 60_000)
    assert known(session_factory, other)
    with session_scope(session_factory) as session:
        session.get_one(ManagementToken, other_id).expires_at_ms = now_ms() - 1
    assert not known(session_factory, other)


def test_bad_tokens_are_not_made_and_not_found(session_factory: SessionFactory) -> None:
    with session_scope(session_factory) as session:
        for options, field in (
            ({"role": "emperor"}, "role"),
            ({"name": ""}, "name"),
            ({"expires_at_ms": 5}, "expires_at_ms"),
        ):
            with pytest.raises(InvalidError) as caught:
                tokens.create_token(session, "ada", PEPPER, **{"name": "x", "role": "viewer", **options})
            assert caught.value.field == field
        secret = "hym-abcdefgh-" + "s" * 43
        with pytest.raises(NotFoundError) as missing:
            tokens.find_token(session, secret)
        assert secret not in missing.value.message


def test_of_two_that_come_together_one_is_carried_out(session_factory: SessionFactory) -> None:
    token_id, _ = make(session_factory)
    with session_scope(session_factory) as session:
        tenant_id = add_tenant(session).id
    together = Barrier(2)

    def enter(_: int) -> object:
        together.wait(10)
        with session_scope(session_factory) as session:
            before = idempotency.begin(session, token_id, "k", "request")
            if before is not None:
                return dict(before)
            entry = money.top_up(session, "ada", tenant_id, 5, "invoice")
            idempotency.remember(session, token_id, "k", {"entry": entry.id})
            return {"entry": entry.id}

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(enter, range(2))
    assert one == two
    with session_scope(session_factory) as session:
        assert len(session.scalars(select(LedgerEntry)).all()) == 1
        with pytest.raises(ConflictError):
            idempotency.begin(session, token_id, "k", "another request")


def test_a_day_later_a_key_may_be_used_again(session_factory: SessionFactory) -> None:
    token_id, _ = make(session_factory)
    with session_scope(session_factory) as session:
        assert idempotency.begin(session, token_id, "k", "request") is None
        session.get_one(IdempotentRequest, (token_id, "k")).at_ms -= idempotency.KEPT_MS + 1000
    with session_scope(session_factory) as session:
        assert idempotency.begin(session, token_id, "k", "another") is None
