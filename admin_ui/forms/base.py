"""The base of every form, and fields for what people type here: money, prices, limits, sizes.

Each custom field's `.data` is what the registry takes (integers in base units); what the person typed is kept for
showing it again beside the error.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from flask_wtf import FlaskForm
from wtforms import StringField, TextAreaField
from wtforms.validators import ValidationError

from admin_ui.formats import sentence
from registry.errors import RegistryError
from registry.key_parameters import parse_assignments
from registry.ops.money import format_dollars, format_price_per_million, parse_dollars, parse_price_per_million

MAX_TYPED_NUMBER = Decimal(10) ** 12


class Form(FlaskForm):  # type: ignore[misc]
    """A form with a CSRF token. Errors of the registry land beside the field that they name."""

    def refuse(self, error: RegistryError) -> None:
        """Shows `error` beside its field, which it then calls as the page does, or above a form without that field."""
        field = self._fields.get(error.field)
        if field is None:
            self.form_errors.append(sentence(error.message))
            return
        field.errors = [*field.errors, _of_field(field, error)]


class AddressField(StringField):  # type: ignore[misc]
    """A directory or URL. One with a password or a query is refused, and what it carries is not shown again."""

    def _value(self) -> str:
        typed = self.data or ""
        return "" if re.search(r"://[^/]*@|\?", typed) else typed


class VariableField(StringField):  # type: ignore[misc]
    """A variable's name. What cannot be one may be the secret itself, in the wrong place: it is not shown again."""

    def _value(self) -> str:
        typed = self.data or ""
        return typed if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", typed) else ""


class TypedNumberField(StringField):  # type: ignore[misc]
    """A number in a unit that people use; `.data` is the integer in base units, or None when left empty."""

    unit = ""
    base_units = Decimal(1)
    finer_than_base = "Enter a whole number."
    data: Any

    def __init__(
        self, label: str, validators: Any = None, *, placeholder: str = "", unit: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(label, validators, **kwargs)
        self.placeholder = placeholder
        self.unit = self.unit if unit is None else unit
        self.typed: str | None = None

    def process_formdata(self, valuelist: list[str]) -> None:
        self.typed = (valuelist[0] if valuelist else "").strip()
        self.data = None
        if self.typed:
            self.data = self.parse(self.typed)

    def parse(self, typed: str) -> int:
        """The integer that `typed` means; ValueError with words for a person."""
        try:
            value = Decimal(typed.replace("_", ""))
        except InvalidOperation:
            raise ValueError("Enter a number, with a point for decimals: 1500 or 1.5.") from None
        if not value.is_finite() or abs(value) > MAX_TYPED_NUMBER:
            raise ValueError("This number is too large.")
        scaled = value * self.base_units
        if scaled != scaled.to_integral_value():
            raise ValueError(self.finer_than_base)
        return int(scaled)

    def _value(self) -> str:
        if self.typed is not None:
            return self.typed
        return "" if self.data is None else self.render(self.data)

    def render(self, value: int) -> str:
        """`value` as a person would type it."""
        text = f"{Decimal(value) / self.base_units:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text


class WholeNumberField(TypedNumberField):
    """A whole number."""


class SecondsField(TypedNumberField):
    """Seconds; `.data` in milliseconds."""

    unit = "s"
    base_units = Decimal(1000)
    finer_than_base = "At most three decimals: a millisecond is the finest."


class MillisecondsField(TypedNumberField):
    """Milliseconds."""

    unit = "ms"


class GigabytesField(TypedNumberField):
    """Gigabytes (1e9 bytes); `.data` in bytes."""

    unit = "GB"
    base_units = Decimal(1_000_000_000)
    finer_than_base = "At most nine decimals: a byte is the finest."

    def parse(self, typed: str) -> int:
        # It is shown rounded; sent back as it was shown, it means what it was.
        if isinstance(self.object_data, int) and typed == self.render(self.object_data):
            return self.object_data
        return super().parse(typed)

    def render(self, value: int) -> str:
        return super().render(round(value, -6) or value)


class DollarsField(TypedNumberField):
    """Dollars; `.data` in nano-dollars."""

    unit = "$"

    def parse(self, typed: str) -> int:
        return _in_words(parse_dollars, typed, self.label.text)

    def render(self, value: int) -> str:
        return format_dollars(value)


class PerMillionField(TypedNumberField):
    """A price in dollars per million tokens; `.data` in nano-dollars per token."""

    unit = "$ / M tokens"

    def parse(self, typed: str) -> int:
        return _in_words(parse_price_per_million, typed, self.label.text)

    def render(self, value: int) -> str:
        return format_price_per_million(value)


class AssignmentsField(TextAreaField):  # type: ignore[misc]
    """Lines of `name = value`; `.data` is a dict, what was typed is kept for showing it again."""

    data: Any

    def __init__(self, label: str, **kwargs: Any) -> None:
        super().__init__(label, render_kw={"rows": 3, "spellcheck": "false"}, **kwargs)
        self.typed = ""

    def process_formdata(self, valuelist: list[str]) -> None:
        self.typed = valuelist[0] if valuelist else ""
        self.data = {}
        try:
            self.data = parse_assignments(self.typed.splitlines(), self.name)
        except RegistryError as error:
            raise ValueError(sentence(error.message)) from None

    def _value(self) -> str:
        return self.typed or "\n".join(f"{name} = {value}" for name, value in (self.data or {}).items())


def _of_field(field: Any, error: RegistryError) -> str:
    """`error` with the field called as the page calls it."""
    begins, _, rest = error.message.partition(" ")
    return sentence(f"{field.label.text} {rest}" if begins == error.field else error.message)


def _in_words(parse: Callable[[str, str], int], typed: str, label: str) -> int:
    try:
        return parse(typed, label)
    except RegistryError as error:
        raise ValueError(sentence(error.message)) from None


class Required:
    """The field must be filled in. (WTForms' own validators look at the typed text or at zero; this looks at None.)"""

    field_flags = {"required": True}  # noqa: RUF012 - read by WTForms

    def __call__(self, _form: Form, field: Any) -> None:
        if field.data is None and not field.errors:
            raise ValidationError("Fill this in.")


class AtLeast:
    """The number, in base units, must be at least this."""

    def __init__(self, least: int, message: str) -> None:
        self.least = least
        self.message = message

    def __call__(self, _form: Form, field: Any) -> None:
        if field.data is not None and field.data < self.least:
            raise ValidationError(self.message)


class Checked:
    """The registry's own check of a field (its name, its value), so that it is told with what is wrong with others."""

    def __init__(self, check: Callable[[str, Any], object]) -> None:
        self.check = check

    def __call__(self, _form: Form, field: Any) -> None:
        try:
            self.check(field.name, field.data)
        except RegistryError as error:
            raise ValidationError(_of_field(field, error)) from None
