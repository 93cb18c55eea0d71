"""Changes that must not be made twice when a client sends them again, not knowing what became of the first."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.errors import ConflictError
from registry.ids import now_ms
from registry.models import IdempotentRequest

KEPT_MS = 24 * 3600 * 1000


def begin(session: Session, token_id: str, idempotency_key: str, request_digest: str) -> Mapping[str, Any] | None:
    """Claim `idempotency_key` (a digest) for this transaction's change; None: it is to be made now, and `remember` told
    of its answer. Else the answer of the same request, which was carried out before.

    Of two that come together the second waits for the first's commit. Raises ConflictError when the key was used for
    another request.
    """
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.at_ms < now_ms() - KEPT_MS))
    claim = IdempotentRequest(
        token_id=token_id,
        idempotency_key=idempotency_key,
        request_digest=request_digest,
        answer={},
        at_ms=now_ms(),
    )
    try:
        with session.begin_nested():
            session.add(claim)
    except IntegrityError:
        before = session.get_one(IdempotentRequest, (token_id, idempotency_key))
        if before.request_digest != request_digest:
            raise ConflictError(
                "this Idempotency-Key was used for another request; use a new one for each change", "Idempotency-Key"
            ) from None
        return before.answer
    return None


def remember(session: Session, token_id: str, idempotency_key: str, answer: Mapping[str, Any]) -> None:
    """Keep what the change was answered with, without secrets, in the change's own transaction."""
    session.get_one(IdempotentRequest, (token_id, idempotency_key)).answer = dict(answer)
