"""Usage events that could not be billed: as documents, and settled again."""

import json
from typing import Any

from sqlalchemy import select

from cli.errors import Failure
from cli.workspace import Workspace
from registry.models import RejectedUsage
from registry.ops.ledger import retry_rejected


def rejected_document(row: RejectedUsage) -> dict[str, Any]:
    """One event with the reason why it is not billed."""
    event = json.loads(row.event)
    return {
        "digest": row.digest,
        "reason": row.reason,
        "at_ms": row.at_ms,
        "attempt_id": event.get("attempt_id") if isinstance(event, dict) else None,
        "event": event,
    }


def retry(here: Workspace, beginning: str) -> list[str]:
    """Settle the event whose digest begins so; the attempts billed now. Raises Failure when it is refused again."""
    with here.read() as session:
        query = select(RejectedUsage.digest).where(
            RejectedUsage.digest.startswith(beginning, autoescape=True), RejectedUsage.resolved_at_ms.is_(None)
        )
        found = session.scalars(query.limit(2)).all()
    if len(found) != 1:
        problem = "several events have" if found else "no event that waits has"
        raise Failure(f"{problem} a digest that begins with {beginning!r}; see: hydrant usage rejected --json", "retry")
    result = here.change(
        lambda session, actor: retry_rejected(session, actor, found[0]),
        publish=False,
        balances=lambda settlement: settlement.tenant_ids,
    )
    if result.rejected:
        raise Failure(f"it cannot be billed yet: {result.rejected[0].reason}; mend that, then retry", "retry")
    return result.settled
