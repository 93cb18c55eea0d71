"""What a body for `/v1/responses` may ask for here: everything that needs nothing kept between requests. Pure.

Nothing of a conversation is stored: it would have to outlive workers that scale to zero, and be known to every gateway.
"""

from __future__ import annotations

from typing import Any

from gateway.body import fields, media
from gateway.errors import invalid_request

STATEFUL = ("previous_response_id", "conversation", "prompt")
TOOLS = ("function", "custom")
# Whatever is not on these lists is refused, not passed over: SGLang hands parts that it does not know on as they are.
_TEXT_PARTS = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
_IMAGE_PARTS = ("input_image", "image_url")


def check(body: dict[str, Any]) -> bool:
    """Whether the input carries media. Raises `ApiError` 400 for what is not served here, or has a wrong shape."""
    for name in STATEFUL:
        if body.get(name) is not None:
            raise invalid_request(
                f"`{name}` is not served: nothing is stored. Send the whole conversation as `input`.", name
            )
    if fields.boolean(body, "background"):
        raise invalid_request("`background` is not served: nothing is stored. Stream the answer instead.", "background")
    fields.boolean(body, "store")
    if body.get("request_id") is not None:
        raise invalid_request("`request_id` cannot be set by a request; send the header `X-Request-Id`.", "request_id")
    for position, tool in enumerate(fields.array(body, "tools")):
        if not isinstance(tool, dict) or tool.get("type") not in TOOLS:
            raise invalid_request(
                "Only tools of type `function` and `custom` are served, which the caller runs.", f"tools[{position}]"
            )
    given = body.get("input")
    if isinstance(given, str) and given:
        return False
    if not isinstance(given, list) or not given:
        raise invalid_request("`input` must be a non-empty string or list of items.", "input")
    # Every item is checked, also after the first one with media.
    return sum([_item(item, f"input[{position}]") for position, item in enumerate(given)]) > 0


def _item(item: object, param: str) -> bool:
    if not isinstance(item, dict):
        raise invalid_request(f"`{param}` must be an object.", param)
    if item.get("type") == "item_reference":
        raise invalid_request("An `item_reference` is not served: nothing is stored. Send the item itself.", param)
    return sum([_content(item.get(name), f"{param}.{name}") for name in ("content", "output", "summary")]) > 0


def _content(content: object, param: str) -> bool:
    if content is None or isinstance(content, str):
        return False
    return sum([_part(part, kind, param) for part, kind in media.parts(content, param)]) > 0


def _part(part: dict[str, Any], kind: str, param: str) -> bool:
    if kind in _TEXT_PARTS:
        return False
    if kind not in _IMAGE_PARTS:
        raise invalid_request(f"`{param}` may not hold a part of type `{kind[:40]}` here.", param)
    source = part.get("image_url")
    url = source.get("url") if isinstance(source, dict) else source
    if not isinstance(url, str):
        raise invalid_request(f"An image in `{param}` must have an `image_url` with a `data:` URL.", param)
    media.require_inline(url, param)
    return True
