"""What a field of the registry is called on the command line, in what a person is told of it."""

import re
from collections.abc import Mapping, Sequence

import click

_ALSO: Mapping[str, Sequence[str]] = {
    "alert_percent": ("alerts",),
    "cached_input_nusd": ("cached_input_price",),
    "expires_at_ms": ("expires_at",),
    "fallback_model_id": ("fallback",),
    "gpu_second_nusd": ("gpu_second_price",),
    "input_nusd": ("input_price",),
    "name": ("new_name",),
    "output_nusd": ("output_price",),
    "overlap_s": ("overlap",),
    "request_nusd": ("request_price",),
}
"""Parameters of commands that are not called as the field that they become."""


def in_options(message: str, field: str | None, command: click.Command) -> str:
    """`message` with the option of `command` in place of `field`, as it is typed; as it is where there is none.

    A field that is a word of its own is replaced only where the message begins with it: "there is no model" is prose.
    """
    option = None if field is None else _option(field, command)
    if field is None or option is None:
        return message
    if "_" not in field:
        return re.sub(rf"^{field}\b", option, message)
    said = re.sub(rf"\b{field}\b", option, message)
    return said if option in said else f"{option}: {message}"


def _option(field: str, command: click.Command) -> str | None:
    names = (field, *_ALSO.get(field, ()))
    for param in command.params:
        if isinstance(param, click.Option) and param.name in names:
            return param.opts[0]
    return None
