"""Reads the events of which nearly all of a chat stream consists, many at a time, without parsing them. Pure.

SGLang writes one text delta like another: until `reasoning_content` even the same bytes. What is not exactly of that
form is left to the parser, so that both always agree.
"""

from __future__ import annotations

import re

from gateway.attempts import Usage

_PARTS = {
    b"count": rb"(?:0|[1-9]\d{0,14})",
    b"text": rb'"[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+"',
}
_HEAD = re.compile(
    rb'data: \{"id":"[\w-]*","object":"chat\.completion\.chunk","created":%(count)b,"model":"[\w./:@+-]*",'
    rb'"choices":\[\{"index":0,"delta":\{"reasoning_content":' % _PARTS
)
_REST = re.compile(
    rb'(?:null,"content":)?%(text)b\},"logprobs":null,"finish_reason":null,"matched_stop":null\}\]'
    rb'(,"usage":\{"prompt_tokens":(%(count)b),"total_tokens":%(count)b,"completion_tokens":(%(count)b),'
    rb'"prompt_tokens_details":(?:null|\{"cached_tokens":(%(count)b)\}),'
    rb'"reasoning_tokens":%(count)b,"completion_tokens_details":(?:null|\{"reasoning_tokens":%(count)b\})\})\}\n\n'
    % _PARTS
)


def learn_head(event: bytes) -> bytes | None:
    """What a stream's next text deltas begin with, by one of its events; None when it is of another form."""
    found = _HEAD.match(event)
    return None if found is None else found[0]


def take_text_events(
    data: bytes, start: int, head: bytes, *, keep_usage: bool
) -> tuple[int, list[bytes], Usage | None]:
    """Reads the text deltas from `start` on: where they end, the client's bytes, the last one's usage (None: none)."""
    out: list[bytes] = []
    at, length, last = start, len(head), None
    while data.startswith(head, at):
        found = _REST.match(data, at + length)
        if found is None:
            break
        if not keep_usage:
            out.append(data[at : found.start(1)])
            out.append(b"}\n\n")
        at, last = found.end(), found
    if last is None or not _is_text(data[start:at]):
        return start, [], None
    if keep_usage:
        out.append(data[start:at])
    prompt, completion, cached = last.group(2, 3, 4)
    return at, out, Usage(int(prompt), int(cached or 0), int(completion))


def _is_text(data: bytes) -> bool:
    """Whether it is UTF-8, which the parser insists on."""
    try:
        return data.isascii() or data.decode() is not None
    except UnicodeDecodeError:
        return False
