"""Checks the messages of a body, above all that no part makes the worker fetch an address inside the cluster. Pure.

Both APIs let content be a list of typed parts, some with media by URL. Here media come inline or not at all.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.errors import invalid_request

OPENAI_MEDIA = ("image_url", "video_url", "audio_url", "input_audio", "image")
_ADDRESS = re.compile(r"\s*(?!data:)([a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
ANTHROPIC_ROLES = ("user", "assistant")
# Whatever is not on this list is refused, not passed over: litellm may turn a part that is new to us into an address.
ANTHROPIC_PARTS = ("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking")
ANTHROPIC_SOURCES = ("base64", "text")


def openai_message(message: object, param: str) -> bool:
    """Whether a chat message carries media. Raises `ApiError` 400 for a wrong shape or for media by address."""
    checked = _with_role(message, param)
    content = checked.get("content")
    if content is None or isinstance(content, str):
        return False
    return sum([_openai_part(part, kind, f"{param}.content") for part, kind in parts(content, f"{param}.content")]) > 0


def anthropic_message(message: object, param: str) -> bool:
    """Whether a Messages message carries media. Raises `ApiError` 400 for a wrong shape or for media by address."""
    checked = _with_role(message, param)
    if checked["role"] not in ANTHROPIC_ROLES:
        raise invalid_request(f"`{param}.role` must be `user` or `assistant`.", f"{param}.role")
    return _anthropic_content(checked.get("content"), f"{param}.content", ANTHROPIC_PARTS)


def check_system(system: object) -> None:
    """Raises `ApiError` 400 when an Anthropic `system` is neither text nor a list of text parts."""
    if system is not None:
        _anthropic_content(system, "system", ("text",))


def _with_role(message: object, param: str) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise invalid_request(f"`{param}` must be an object with a `role`.", param)
    return message


def parts(content: object, param: str) -> list[tuple[dict[str, Any], str]]:
    """The parts of a content list, each with its type."""
    if not isinstance(content, list):
        raise invalid_request(f"`{param}` must be a string or a list of parts.", param)
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
        raise invalid_request(f"`{param}` must hold objects with a `type`.", param)
    return [(part, part["type"]) for part in content]


def _openai_part(part: dict[str, Any], kind: str, param: str) -> bool:
    if kind == "tool_result" and isinstance(part.get("content"), list):  # Anthropic's: it holds parts of its own
        return sum([_openai_part(inner, its, param) for inner, its in parts(part["content"], param)]) > 0
    if kind in ("text", "refusal"):
        return False
    if kind not in OPENAI_MEDIA:
        _refuse_addresses(part, param)
        return False
    for source in (part.get(kind), part.get("source")):
        require_inline(source.get("url") if isinstance(source, dict) else source, param)
    return True


def _refuse_addresses(value: object, param: str) -> None:
    """Raises `ApiError` 400 for an address anywhere in a part that is unknown here: litellm may know it, and have the
    worker fetch it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _refuse_addresses(item, param)
    elif isinstance(value, str) and _ADDRESS.match(value) is not None:
        require_inline(value, param)


def require_inline(url: object, param: str) -> None:
    """Raises `ApiError` 400 for an address, which the worker would fetch from inside the cluster."""
    if isinstance(url, str) and not url.startswith("data:"):
        raise invalid_request("Media must be sent inline as a `data:` URL; addresses are not fetched.", param)


def _anthropic_content(content: object, param: str, allowed: tuple[str, ...]) -> bool:
    if isinstance(content, str):
        return False
    return sum([_anthropic_part(part, kind, param, allowed) for part, kind in parts(content, param)]) > 0


def _anthropic_part(part: dict[str, Any], kind: str, param: str, allowed: tuple[str, ...]) -> bool:
    if kind not in allowed:
        raise invalid_request(f"`{param}` may not hold a part of type `{kind[:40]}` here.", param)
    if kind == "text" and not isinstance(part.get("text"), str):
        raise invalid_request(f"A `text` part of `{param}` must have a string `text`.", param)
    if kind == "tool_result":
        return part.get("content") is not None and _anthropic_content(
            part["content"], param, ("text", "image", "document")
        )
    if kind not in ("image", "document"):
        return False
    source = part.get("source")
    if not isinstance(source, dict) or source.get("type") not in ANTHROPIC_SOURCES or "url" in source:
        raise invalid_request(
            "Media must be sent inline, with a `source` of type `base64`; addresses are not fetched.", param
        )
    if not isinstance(source.get("data"), str) or not isinstance(source.get("media_type"), str):
        raise invalid_request(f"A `source` in `{param}` must have a string `media_type` and `data`.", param)
    return True
