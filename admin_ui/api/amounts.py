"""Amounts of money in bodies: in nano-dollars or in dollars, one of the two."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from pydantic import model_validator

from admin_ui.api.management import Text
from admin_ui.api.operation import Body
from registry.errors import RegistryError
from registry.ops.money import parse_dollars


class AmountBody(Body):
    """An amount, in nano-dollars or as dollars ("12.50"): one of the two."""

    amount_nusd: int | None = None
    amount_usd: Text | None = None

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.amount_nusd is None) == (self.amount_usd is None):
            raise ValueError("give amount_nusd or amount_usd, one of the two")
        return self

    def nusd(self) -> int:
        """The amount in nano-dollars."""
        return parse_dollars(self.amount_usd, "amount_usd") if self.amount_usd is not None else self.amount_nusd or 0

    @contextmanager
    def named(self) -> Iterator[None]:
        """What the registry says of the amount names the field that was sent."""
        try:
            yield
        except RegistryError as error:
            if error.field == "amount":
                error.field = "amount_usd" if self.amount_usd is not None else "amount_nusd"
            raise
