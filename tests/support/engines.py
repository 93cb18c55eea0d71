"""What end-to-end tests ask of a real engine over HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

from support.manifest import API_KEY, MODEL_NAME

TIMEOUT_S = 180.0


def call(port: int, path: str, body: dict[str, Any] | None = None, key: str = API_KEY) -> tuple[int, dict[str, Any]]:
    """(status, JSON answer) of one request to the engine at `port`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        _send(connection, path, body, key)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def greedy_ids(port: int, prompt: str, tokens: int) -> list[int]:
    """Ids of the `tokens` greedy tokens after `prompt`."""
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
    status, answer = call(port, "/generate", {"text": prompt, "sampling_params": sampling})
    assert status == 200, answer
    return list(answer["output_ids"])


def chat(question: str, **options: Any) -> dict[str, Any]:
    """Body of a greedy chat request."""
    return {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 24,
        **options,
    }


def stream(port: int, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed chat answer; ends after [DONE], and raises when the stream ends without it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        _send(connection, "/v1/chat/completions", {**body, "stream": True}, API_KEY)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            data = line.decode().strip().removeprefix("data: ")
            if data == "[DONE]":
                return
            if data:
                yield json.loads(data)
        raise AssertionError("the stream ended without [DONE]")
    finally:
        connection.close()


def _send(connection: http.client.HTTPConnection, path: str, body: dict[str, Any] | None, key: str) -> None:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
