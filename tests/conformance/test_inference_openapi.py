"""Requests made from the inference API's own OpenAPI document, good ones and bad, to a gateway process: no 5xx, no
status, content type, header or body that the document does not tell of, and what it forbids is refused.

`make conformance` makes more of them than the suite does, and asks a real SGLang too.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.gateway_process import KEY
from support.inference_site import EMBEDDING, GENERATING, inference_site
from support.real_service import BRIEF_KEY, CHAT_MODEL, EMBEDDING_MODEL, RealService

from gateway.body.parsing import Endpoint
from gateway.openapi import openapi_document

load_all_checks()
EXAMPLES = int(os.environ.get("HYDRANT_CONFORMANCE_EXAMPLES", "0"))


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The gateway's base URL."""
    with inference_site() as url:
        yield url


def document_of(generating: tuple[str, ...], embedding: tuple[str, ...]) -> dict[str, Any]:
    """The document, with the names of models that there are and one way to send the key: others are all alike."""
    document = deepcopy(openapi_document())
    document["security"].remove({"x-api-key": []})
    for endpoint in Endpoint:
        schema = document["components"]["schemas"][f"{endpoint.name.capitalize()}Request"]
        names = embedding if endpoint is Endpoint.EMBEDDINGS else generating
        schema["properties"] = schema["properties"] | {"model": {"enum": list(names)}}
    return document


def requests_from(document: dict[str, Any]) -> Any:
    """schemathesis' schema; streams are read to their end."""
    made = schemathesis.openapi.from_dict(document)
    made.config.max_stream_events = 1_000_000
    return made


def whole_stream(context: Any, response: Any, case: Any) -> None:
    """A stream ends with its API's last event, not with an error; nothing of what is for the gateway alone is in it."""
    if response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        events = response.content.decode().removesuffix("\n\n").split("\n\n")
        ends = ("data: [DONE]", "event: message_stop", "event: response.completed", "event: response.incomplete")
        assert events[-1].startswith(ends), events[-1]
        assert not any("hydrant-usage" in event for event in events)


# HTTP's own, which OpenAPI leaves out or the server sets by itself.
_HTTPS = {"content-type", "content-length", "transfer-encoding", "connection", "date"}


def headers_are_listed(context: Any, response: Any, case: Any) -> None:
    """No header comes that the document does not list for this operation and status."""
    if case.method.lower() != case.operation.method:
        return  # another method, of which the document says nothing
    document = openapi_document()
    told = document["paths"][case.operation.path][case.operation.method]["responses"][str(response.status_code)]
    if "$ref" in told:
        told = document["components"]["responses"][told["$ref"].rpartition("/")[2]]
    assert set(response.headers) - set(told.get("headers", ())) <= _HTTPS


CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    whole_stream,
    headers_are_listed,
]


def many(examples: int, *, boundaries: bool) -> Any:
    """So many requests of each operation, the same ones each time; `boundaries`: and every boundary of every field."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate] if boundaries else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


schema = requests_from(document_of(GENERATING, EMBEDDING))


@schema.parametrize()
@many(EXAMPLES or 15, boundaries=bool(EXAMPLES))
def test_every_operation_keeps_to_the_document(case: Any, site: str) -> None:
    case.call_and_validate(base_url=site, headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS)


if EXAMPLES:
    real_schema = requests_from(document_of((CHAT_MODEL,), (EMBEDDING_MODEL,))).include(method="POST")

    @real_schema.parametrize()
    @many(EXAMPLES // 10, boundaries=False)
    def test_every_operation_keeps_to_the_document_on_sglang(case: Any, service: RealService) -> None:
        case.call_and_validate(
            base_url=service.url, headers={"Authorization": f"Bearer {BRIEF_KEY}"}, checks=CHECKS, timeout=300
        )


def test_the_gateway_serves_its_document_to_everybody(site: str) -> None:
    with urllib.request.urlopen(site + "/openapi.json") as answer:
        assert json.load(answer) == openapi_document()
