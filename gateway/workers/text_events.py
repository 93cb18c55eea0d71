"""Reads the events of which nearly all of a chat stream consists, many at a time, without parsing them. Pure.

SGLang writes one text delta like another: but for the text and its count even the same bytes. What is not exactly of
that form is left to the parser, so that both always agree.
"""

from __future__ import annotations

import re

from gateway.accounting.attempts import Usage

_PARTS = {
    b"count": rb"(?:0|[1-9]\d{0,14})",
    b"positive": rb"[1-9]\d{0,14}+",  # without alternatives it takes half as long
    b"text": rb'"[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+"',
}
# One event, and those after it that differ in their text and its count only: `re` compares what it has captured with
# what follows twice as fast as it compares a pattern. (Not possessively: before Python 3.11.5 `re` would take
# the beginning of an event that it fails on. The bound is for what it remembers of each instead.)
_RUN = re.compile(
    rb'(?P<head>data: \{"id":"[\w-]*","object":"chat\.completion\.chunk","created":%(count)b,'
    rb'"model":"[\w./:@+-]*","choices":\[\{"index":0,"delta":\{"reasoning_content":(?:null,"content":)?)%(text)b'
    rb'(?P<middle>\},"logprobs":null,"finish_reason":null,"matched_stop":null\}\]'
    rb'(?P<usage>,"usage":\{"prompt_tokens":(?P<prompt>%(count)b),"total_tokens":))%(count)b'
    rb'(?P<between>,"completion_tokens":)(?P<completion>%(count)b)'
    rb'(?P<tail>,"prompt_tokens_details":(?:null|\{"cached_tokens":(?P<cached>%(count)b)\}),'
    rb'"reasoning_tokens":%(count)b,"completion_tokens_details":(?:null|\{"reasoning_tokens":%(count)b\})\}\}\n\n)'
    rb"(?:(?P=head)%(text)b(?P=middle)%(positive)b(?P=between)%(positive)b(?P=tail)){0,1000}" % _PARTS
)
_USAGE_GROUP, _TAIL_GROUP = _RUN.groupindex["usage"], _RUN.groupindex["tail"]
_COMPLETION = b'"completion_tokens":'


def take_text_events(data: bytes, start: int, *, keep_usage: bool) -> tuple[int, list[bytes], Usage | None]:
    """Reads the text deltas from `start` on: where they end, the client's bytes, the last one's usage (None: none)."""
    out: list[bytes] = []
    at, last = start, None
    while (found := _RUN.match(data, at)) is not None:
        run, begin, at = found[0], at, found.end()
        if not _is_text(run):
            at = begin
            break
        last = found
        if keep_usage:
            out.append(run)
        elif at == found.end(_TAIL_GROUP):
            out += (data[begin : found.start(_USAGE_GROUP)], b"}\n\n")
        else:
            out.append(_without_usage(run))
    if last is None:
        return start, [], None
    prompt, completion, cached = last.group("prompt", "completion", "cached")
    if at != last.end(_TAIL_GROUP):
        # Only the count differs between the first of the run and its last one.
        count = data.rindex(_COMPLETION, start, at) + len(_COMPLETION)
        completion = data[count : data.index(b",", count)]
    return at, out, Usage(int(prompt), int(cached or 0), int(completion))


def _without_usage(run: bytes) -> bytes:
    """An event ends with its usage; in a text its quotes would be escaped."""
    return b"}\n\n".join([event.partition(b',"usage')[0] for event in run.split(b"\n\n")])


def _is_text(data: bytes) -> bool:
    """Whether it is UTF-8, which the parser insists on."""
    try:
        return data.isascii() or data.decode() is not None
    except UnicodeDecodeError:
        return False
