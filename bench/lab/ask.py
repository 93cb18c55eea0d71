"""`python -m bench.lab.ask`: one streamed completion, and when its parts came. Standard library only.

Prints a line of JSON when the first token has come, and one at the end: the same object, later more of it. Times are in
seconds of CLOCK_MONOTONIC, which all namespaces share (`time.monotonic()` anywhere):

    {"asked_s": first try sent, "sent_s": answered try sent, "first_byte_s": its headers came,
     "first_token_s": its first token came, "token_s": [when each token came], "ended_s": the stream's end,
     "tries": 3, "text": "...", "error": null}

The first token is there with the first text, or with running usage that counts one: a token alone may be no text yet.
A refused connection and 503 are tried again until the deadline. With an error, times may be null and exit status is 1.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

RETRY_S = 0.02


class NotYet(Exception):
    """Nobody serves there yet; ask again."""


class Failed(Exception):
    """The answer is not what was asked for."""


def ask(url: str, body: dict[str, Any], key: str, deadline_s: float) -> dict[str, Any]:
    """POST `body` to `url` and follow the stream; what the module prints. Waits `deadline_s` seconds at most."""
    deadline = time.monotonic() + deadline_s
    seen: dict[str, Any] = dict.fromkeys(("asked_s", "sent_s", "first_byte_s", "first_token_s", "ended_s"))
    seen |= {"tries": 0, "text": "", "token_s": [], "error": None}
    while True:
        try:
            _try(url, body, key, deadline, seen)
            return seen
        except NotYet as error:
            if time.monotonic() + RETRY_S < deadline:
                time.sleep(RETRY_S)
                continue
            seen["error"] = f"not served within {deadline_s:g} s: {error}"
        except (Failed, OSError, http.client.HTTPException) as error:
            seen["error"] = f"{type(error).__name__}: {error}"
        return seen


def _try(url: str, body: dict[str, Any], key: str, deadline: float, seen: dict[str, Any]) -> None:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(
        place.hostname or "", place.port, timeout=max(0.1, deadline - time.monotonic())
    )
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    seen["tries"] += 1
    seen["sent_s"] = time.monotonic()
    seen["asked_s"] = seen["asked_s"] or seen["sent_s"]
    try:
        try:
            connection.request("POST", place.path, json.dumps(body), headers)
        except ConnectionRefusedError as error:
            raise NotYet(str(error)) from error
        response = connection.getresponse()
        if response.status == 503:
            raise NotYet(response.read(500).decode(errors="replace"))
        seen["first_byte_s"] = time.monotonic()
        if response.status != 200:
            raise Failed(f"{response.status} {response.read(500).decode(errors='replace')}")
        follow(response, deadline, seen)
    finally:
        connection.close()


def follow(lines: Iterable[bytes], deadline: float, seen: dict[str, Any]) -> None:
    """Read server-sent events until [DONE] into `seen`. Raises Failed at an error event, a cut stream, the deadline."""
    for line in lines:
        if time.monotonic() > deadline:
            raise Failed("the deadline came before the stream's end")
        # Comments, which keep a held stream alive, and empty lines say nothing.
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            seen["ended_s"] = time.monotonic()
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise Failed(json.dumps(chunk["error"]))
        text = "".join(_text(choice) for choice in chunk.get("choices", []))
        tokens = (chunk.get("usage") or {}).get("completion_tokens") or 0
        seen["text"] += text
        if text or (tokens and not seen["token_s"]):
            seen["token_s"].append(time.monotonic())
        if seen["token_s"] and seen["first_token_s"] is None:
            seen["first_token_s"] = seen["token_s"][0]
            print(json.dumps(seen), flush=True)
    raise Failed("the stream ended without [DONE]")


def _text(choice: dict[str, Any]) -> str:
    """What a chunk of a chat, or of a text completion, adds."""
    return choice["delta"].get("content") or "" if "delta" in choice else choice.get("text") or ""


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench.lab.ask", description="Time one streamed completion.")
    parser.add_argument("url", help="http://HOST:PORT/v1/chat/completions, or /v1/completions")
    parser.add_argument("--body", required=True, help="the request as JSON; `stream` is added")
    parser.add_argument("--key", default="none", help="API key")
    parser.add_argument("--deadline-s", type=float, default=300, help="seconds until it gives up")
    options = parser.parse_args()
    streamed = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    seen = ask(options.url, {**json.loads(options.body), **streamed}, options.key, options.deadline_s)
    print(json.dumps(seen))
    return 1 if seen["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
