"""JSON Schemas of the inference endpoints' bodies, from the bounds that parsing checks. Pure.

Exact where the gateway decides; whatever it passes on is described as far as clients need it, and more is allowed.
"""

from __future__ import annotations

from typing import Any

from gateway.body.media import ANTHROPIC_PARTS, ANTHROPIC_ROLES, ANTHROPIC_SOURCES, OPENAI_MEDIA
from gateway.body.parsing import ENGINE_FIELDS, MAX_ANSWERS, MAX_CHOICES, MAX_EMBEDDINGS, Endpoint
from gateway.body.responses_body import STATEFUL, TOOLS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _optional(kind: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], **more}


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required or properties)}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


_TOKENS = _optional("integer", minimum=1, description="Key, model and context may allow fewer.")
_COMMON: Schema = {
    "model": {"type": "string", "minLength": 1, "description": "A model's or alias' name: `GET /v1/models` has them."},
    "stream": _optional("boolean", description="Whether the answer comes as server-sent events."),
    "stream_options": _optional(
        "object",
        properties={
            "include_usage": _optional("boolean", description="A last event with the usage."),
            "continuous_usage_stats": _optional("boolean", description="The usage so far with each event."),
        },
    ),
    "n": _optional(
        "integer",
        minimum=1,
        maximum=MAX_CHOICES,
        description=f"Answers to each prompt, {MAX_ANSWERS} in all; without effect where the API has none.",
    ),
    "temperature": _optional("number", minimum=0, maximum=2),
    "top_p": _optional("number", minimum=0, maximum=1),
    "tools": _optional("array"),
    **{name: {"type": "null", "description": "Reserved for the operator."} for name in sorted(ENGINE_FIELDS)},
}
_BOUNDED = _COMMON | {"max_tokens": _TOKENS}
_IDS = _list(_COUNT, minItems=1)
_SOME_TEXT: Schema = {"type": "string", "minLength": 1}


def _texts(most: int) -> Schema:
    """One text, or its token ids, or a list of either."""
    several = {"minItems": 1, "maxItems": most}
    return {"anyOf": [_SOME_TEXT, _IDS, _list(_SOME_TEXT, **several), _list(_IDS, **several)]}


_INLINE: Schema = {"pattern": "^data:"}
_MEDIA = _INLINE | {"properties": {"url": _INLINE}, "description": "Media come inline; addresses are not fetched."}
_MESSAGE = _object(
    {
        "role": _TEXT,
        "content": {
            "anyOf": [
                {"type": ["string", "null"]},
                _list(
                    {
                        "anyOf": [
                            *(
                                _object({"type": {"const": kind}, kind: _MEDIA, "source": _MEDIA}, "type")
                                for kind in OPENAI_MEDIA
                            ),
                            _object({"type": {"type": "string", "not": {"enum": list(OPENAI_MEDIA)}}}),
                        ]
                    }
                ),
            ]
        },
    },
    "role",
)
_ANTHROPIC_SOURCE = _object(
    {"type": {"enum": list(ANTHROPIC_SOURCES)}, "media_type": _TEXT, "data": _TEXT, "url": False},
    "type", "media_type", "data",
)  # fmt: skip
_ANTHROPIC_TEXT = _object({"type": {"const": "text"}, "text": _TEXT})
_ANTHROPIC_MEDIA = _object({"type": {"enum": ["image", "document"]}, "source": _ANTHROPIC_SOURCE})
_TOOL_RESULT = _object(
    {
        "type": {"const": "tool_result"},
        "content": {"anyOf": [{"type": ["string", "null"]}, _list({"anyOf": [_ANTHROPIC_TEXT, _ANTHROPIC_MEDIA]})]},
    },
    "type",
)
_ANTHROPIC_OTHERS = [part for part in ANTHROPIC_PARTS if part not in ("text", "image", "document", "tool_result")]
_ANTHROPIC_PART = {
    "anyOf": [
        *(_ANTHROPIC_TEXT, _ANTHROPIC_MEDIA, _TOOL_RESULT),
        _object({"type": {"enum": _ANTHROPIC_OTHERS}}),
    ]
}
_RESPONSE_ITEM = {"type": "object", "properties": {"type": {"not": {"const": "item_reference"}}}}

REQUESTS: dict[Endpoint, Schema] = {
    Endpoint.CHAT: _object(
        _BOUNDED | {"messages": _list(_MESSAGE, minItems=1), "max_completion_tokens": _TOKENS}, "model", "messages"
    ),
    Endpoint.COMPLETIONS: _object(_BOUNDED | {"prompt": _texts(MAX_ANSWERS)}, "model", "prompt"),
    Endpoint.EMBEDDINGS: _object(
        _BOUNDED
        | {
            "input": _texts(MAX_EMBEDDINGS),
            "encoding_format": {"enum": ["float", "base64", None]},
            "dimensions": _optional("integer", minimum=1),
        },
        "model",
        "input",
    ),
    Endpoint.RESPONSES: _object(
        _COMMON
        | {
            "input": {"anyOf": [_SOME_TEXT, _list(_RESPONSE_ITEM, minItems=1)]},
            "max_output_tokens": _TOKENS,
            "tools": _optional("array", items=_object({"type": {"enum": list(TOOLS)}})),
            "store": _optional("boolean", description="Nothing is stored, whatever this says."),
            "background": {"enum": [False, None]},
            "request_id": {"type": "null"},
            **{name: {"type": "null", "description": "Nothing is stored."} for name in STATEFUL},
        },
        "model",
        "input",
    ),
    Endpoint.MESSAGES: _object(
        _COMMON
        | {
            "max_tokens": {"type": "integer", "minimum": 1},
            "messages": _list(
                _object(
                    {
                        "role": {"enum": list(ANTHROPIC_ROLES)},
                        "content": {"anyOf": [_TEXT, _list(_ANTHROPIC_PART)]},
                    }
                ),
                minItems=1,
            ),
            "system": {"anyOf": [{"type": ["string", "null"]}, _list(_ANTHROPIC_TEXT)]},
        },
        "model", "messages", "max_tokens",
    ),
}  # fmt: skip
"""Of each endpoint's body."""

_USAGE = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_USED = _object({"input_tokens": _COUNT, "output_tokens": _COUNT})
_REASON = {"type": "string", "not": {"const": "abort"}}


def _completion(kind: str, choice: Schema) -> Schema:
    choices = _list(_object({"index": _COUNT, "finish_reason": _REASON} | choice), minItems=1)
    head = {"id": _TEXT, "object": {"const": kind}, "created": {"type": "integer"}, "model": _TEXT}
    return _object(head | {"choices": choices, "usage": _USAGE})


_VECTOR = _object(
    {
        "object": {"const": "embedding"},
        "index": _COUNT,
        "embedding": {"anyOf": [_list({"type": "number"}), {"type": "string", "description": "base64: float32, LE"}]},
    }
)
ANSWERS: dict[Endpoint, Schema] = {
    Endpoint.CHAT: _completion("chat.completion", {"message": _object({"role": _TEXT})}),
    Endpoint.COMPLETIONS: _completion("text_completion", {"text": _TEXT}),
    Endpoint.EMBEDDINGS: _object(
        {
            "object": {"const": "list"},
            "data": _list(_VECTOR, minItems=1),
            "model": _TEXT,
            "usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}),
        }
    ),
    Endpoint.RESPONSES: _object(
        {
            "id": _TEXT,
            "object": {"const": "response"},
            "status": {"enum": ["completed", "incomplete"]},
            "model": _TEXT,
            "output": _list({"type": "object"}),
            "store": {"const": False},
            "usage": _USED,
        }
    ),
    Endpoint.MESSAGES: _object(
        {
            "id": _TEXT,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": _TEXT,
            "content": _list(_object({"type": _TEXT})),
            "stop_reason": _TEXT,
            "usage": _USED,
        }
    ),
}
"""Of each endpoint's whole answer."""

MODEL = _object(
    {"id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": {"const": "hydrant"}}
)
MODELS = _object({"object": {"const": "list"}, "data": _list(MODEL)})
ERROR = {
    "type": "object",
    "properties": {
        "error": _object({"message": _TEXT, "type": _TEXT, "param": _optional("string"), "code": _optional("string")})
    },
    "required": ["error"],
    "additionalProperties": False,
}
"""OpenAI's; of a status the codes are known (gateway/openapi.py)."""
ANTHROPIC_ERROR = _object({"type": {"const": "error"}, "error": _object({"type": _TEXT, "message": _TEXT})})
