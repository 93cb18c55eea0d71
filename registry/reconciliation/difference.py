"""What two sides of the books say differently, and when that is believed. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One thing on which two sides do not agree, and a sentence for a person.

    `mark` is what stays the same as long as nothing happens to it: a difference that moves is a request under way.
    """

    kind: str
    subject: str  # an attempt, tenant, budget's window or cold start
    mark: str
    sentence: str

    def to_json(self) -> dict[str, str]:
        """As it is stored and shown."""
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> "Difference":
        """What `to_json` has made."""
        return Difference(**document)


def confirmed(first: Collection[Difference], second: Sequence[Difference]) -> list[Difference]:
    """Those of the second look that the first has seen just so: requests that were under way have moved since."""
    seen = {(one.kind, one.subject, one.mark) for one in first}
    return [one for one in second if (one.kind, one.subject, one.mark) in seen]
