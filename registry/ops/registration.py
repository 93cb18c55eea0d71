"""What can be said of a registration before a byte of its weights is read, which may take many minutes."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from registry.ops import checks, model_fields, models, prices
from registry.settings_allowlist import validate_settings
from registry.sources import check_source

_ANY_LENGTH = 2**31


def check_registration(
    session: Session, *, name: str, source: str, settings: Mapping[str, Any] | None = None, **values: Any
) -> None:
    """Raises what `register_model` would raise for these arguments with any manifest: a bad or taken name, a source
    that is none, an unknown setting, a price or limit out of bounds. A context longer than the model's shows later."""
    checks.model_name("name", name)
    models.refuse_taken(session, name)
    check_source(source)
    validate_settings(settings or {}, max_context_length=_ANY_LENGTH)
    for field, value in values.items():
        if field in prices.AMOUNTS:
            if value is not None or field in prices.REQUIRED:
                prices.check_amount(field, value)
        elif not (field == "kv_reserve_bytes" and value is None):
            model_fields.checked(field, value)
