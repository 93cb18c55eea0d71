"""Following and stripping streams. `sglang_chunks.json` was written by SGLang 0.5.23's own classes: each kind of chunk
without usage, with it, and with the cache report's nested objects."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.attempts import Usage
from gateway.workers.stream import USAGE_COMMENT, AnthropicStream, OpenAIStream, cut_usage, split_last_event
from gateway.workers.text_events import take_text_events

CHUNKS: dict[str, list[str]] = json.loads((Path(__file__).parent / "sglang_chunks.json").read_text())
PAIRS = {name: chunks for name, chunks in CHUNKS.items() if len(chunks) == 3}
DONE = b"data: [DONE]\n\n"


def reader(*, choices: int = 1, prompts: int = 1, usage: bool = False, running: bool = False) -> OpenAIStream:
    return OpenAIStream(choices=choices, prompts=prompts, wants_usage=usage, wants_running_usage=running)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("with_usage", [1, 2])
def test_cutting_restores_what_sglang_writes_without_the_option(name: str, with_usage: int) -> None:
    assert cut_usage(PAIRS[name][with_usage].encode()) == PAIRS[name][0].encode()


@pytest.mark.parametrize("name", PAIRS)
def test_a_chunk_without_usage_is_left_alone(name: str) -> None:
    assert cut_usage(PAIRS[name][0].encode()) == PAIRS[name][0].encode()


@given(st.data())
def test_a_stream_cut_anywhere_comes_out_the_same(data: st.DataObject) -> None:
    kinds = ["role", "chat text", "chat reasoning", "chat tool call", "chat logprobs"]
    asked = b"".join(CHUNKS[kind][-1].encode() for kind in kinds) + CHUNKS["finish"][0].encode()
    asked += CHUNKS["final chat"][0].encode() + DONE
    plain = b"".join(CHUNKS[kind][0].encode() for kind in kinds) + CHUNKS["finish"][0].encode() + DONE
    cuts = sorted(data.draw(st.lists(st.integers(0, len(asked)), max_size=8)))
    stream, out, start = reader(), b"", 0
    for cut in [*cuts, len(asked)]:
        out += stream.feed(asked[start:cut])
        start = cut
    assert out == plain
    assert stream.done
    assert stream.finished
    assert stream.usage == Usage(7, 4, 3)


class Parsing(OpenAIStream):
    """Parses every event."""

    def _quick(self, data: bytes, at: int, out: list[bytes]) -> int:
        return at


TEXT_EVENTS = [chunk.encode() for name in ("chat text", "chat reasoning") for chunk in CHUNKS[name]]
OTHER_EVENTS = [chunk.encode() for chunks in CHUNKS.values() for chunk in chunks] + [DONE, b": ping\n\n"]
ODD_PIECES = [
    b'"',
    b"\\",
    b"\\u00e9",
    b"\\ud800",
    b"\xe9",
    b"\x01",
    b"\n",
    b"}",
    b"0",
    b"01",
    b"-1",
    b"abort",
    b"null",
    b" ",
]


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """Mostly text deltas of one stream; now and then with bytes of them changed, so that they may be no JSON."""
    event = draw(st.sampled_from(TEXT_EVENTS * 3 + OTHER_EVENTS))
    event = event.replace(b"say", draw(st.text(max_size=6)).encode("utf-8", "replace").replace(b'"', b'\\"'))
    event = event.replace(b'completion_tokens":3', b'completion_tokens":%d' % draw(st.integers(0, 10**16)))
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(event)))
        event = event[:at] + draw(st.sampled_from(ODD_PIECES)) + event[at + draw(st.integers(0, 2)) :]
    return event


@given(st.lists(events(), max_size=12), st.booleans(), st.booleans(), st.data())
def test_events_that_are_not_parsed_are_read_as_the_parser_reads_them(
    parts: list[bytes], usage: bool, running: bool, data: st.DataObject
) -> None:
    asked = b"".join([TEXT_EVENTS[1], *parts])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(asked)), max_size=6)))
    options = {"choices": 1, "prompts": 1, "wants_usage": usage, "wants_running_usage": running}
    quick, parsing = OpenAIStream(**options), Parsing(**options)
    for start, end in itertools.pairwise(
        [0, len(TEXT_EVENTS[1]), *(max(cut, len(TEXT_EVENTS[1])) for cut in cuts), len(asked)]
    ):
        assert quick.feed(asked[start:end]) == parsing.feed(asked[start:end])
        for name in ("usage", "failed", "done", "finished", "error"):
            assert getattr(quick, name) == getattr(parsing, name)


def test_a_read_may_end_anywhere_in_an_event() -> None:
    # Python before 3.11.5, Debian's among them, took a part of an event for the whole where a pattern was possessive.
    text = TEXT_EVENTS[1] * 3
    whole = reader().feed(text)
    for cut in range(len(text)):
        stream = reader()
        assert stream.feed(text[:cut]) + stream.feed(text[cut:]) == whole
        assert (stream.usage.completion_tokens, stream.failed) == (3, False)


@pytest.mark.parametrize("event", [TEXT_EVENTS[1], TEXT_EVENTS[2], TEXT_EVENTS[4], TEXT_EVENTS[5]])
def test_text_deltas_need_no_parsing(event: bytes) -> None:
    length, out, usage = take_text_events(event * 3 + b"data: ", 0, keep_usage=False)
    assert (length, b"".join(out)) == (3 * len(event), 3 * cut_usage(event))
    assert usage == Usage(7, 4 if b"cached" in event else 0, 3)


def test_the_final_usage_chunk_is_kept_when_asked_for() -> None:
    final = CHUNKS["final chat"][0].encode()
    assert reader().feed(final) == b""
    assert reader(usage=True).feed(final) == final


def test_running_usage_is_kept_when_asked_for() -> None:
    chunk = CHUNKS["chat text"][1].encode()
    assert reader(running=True).feed(chunk) == chunk
    assert reader(usage=True).feed(chunk) == CHUNKS["chat text"][0].encode()


def test_running_usage_of_several_answers_counts_the_prompt_once() -> None:
    stream = reader(choices=4, prompts=2)
    for index, tokens in ((0, 2), (1, 3), (2, 4), (3, 1)):
        chunk = json.loads(CHUNKS["completion"][1].removeprefix("data: "))
        chunk["choices"][0]["index"] = index
        chunk["usage"] |= {"completion_tokens": tokens, "prompt_tokens": 7 if index < 2 else 9}
        stream.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    assert stream.usage == Usage(16, 0, 10)
    assert not stream.finished


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error": {"message": "out of memory", "code": 500}}\n\n',
        b"data: {not json\n\n",
        CHUNKS["finish"][0].replace('"stop"', '"abort"').encode(),
    ],
)
def test_a_failure_is_withheld_and_ends_everything(event: bytes) -> None:
    stream = reader()
    first = CHUNKS["chat text"][0].encode()
    assert stream.feed(first + event + first + DONE) == first
    assert stream.failed
    assert not stream.finished
    assert not stream.done


@pytest.mark.parametrize("payload", ["[]", "5", '{"choices": [5]}', '{"choices": [{"finish_reason": "stop"}]}',
                                     '{"choices": [], "usage": 5}', '{"choices": [], "usage": {"prompt_tokens": "x"}}',
                                     '{"choices": [], "usage": {"prompt_tokens_details": 5}}'])  # fmt: skip
def test_what_no_worker_writes_is_a_failure(payload: str) -> None:
    stream = reader()
    assert stream.feed(f"data: {payload}\n\n".encode()) == b""
    assert stream.failed


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_running_sums_equal_the_sum_of_the_latest(prompts: int, n: int, data: st.DataObject) -> None:
    """Against SGLang's own rule: completions of all answers, the prompt of each prompt's first answer."""
    stream = reader(choices=prompts * n, prompts=prompts)
    latest: dict[int, tuple[int, int]] = {}
    # SGLang sends the first chunk of each prompt's first answer before the others'.
    order = data.draw(st.lists(st.integers(0, prompts * n - 1), max_size=20))
    for index in [*range(prompts * n), *order]:
        latest[index] = (10 + index // n, latest.get(index, (0, 0))[1] + data.draw(st.integers(0, 3)))
        chunk = {"choices": [{"index": index}], "usage": {"prompt_tokens": latest[index][0],
                 "completion_tokens": latest[index][1], "prompt_tokens_details": {"cached_tokens": 2}}}  # fmt: skip
        stream.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    prompt_tokens = sum(latest[prompt * n][0] for prompt in range(prompts))
    assert stream.usage == Usage(prompt_tokens, 2 * prompts, sum(tokens for _, tokens in latest.values()))


def test_the_hosted_process_error_ends_a_messages_stream() -> None:
    stream = AnthropicStream()
    assert stream.feed(b'data: {"error": {"message": "x", "code": "worker_lost"}}\n\n') == b""
    assert stream.failed
    assert stream.error == {"message": "x", "code": "worker_lost"}


def test_an_end_mark_without_a_finish_reason_is_no_success() -> None:
    stream = reader()
    stream.feed(CHUNKS["chat text"][0].encode() + DONE)
    assert stream.done
    assert not stream.finished


def test_usage_comments_of_the_hosted_process_are_read_and_dropped() -> None:
    comment = USAGE_COMMENT + b'{"prompt_tokens": 5, "completion_tokens": 2}\n\n'
    for stream in (reader(), AnthropicStream()):
        assert stream.feed(comment) == b""
        assert stream.usage == Usage(5, 0, 2)
    assert reader().feed(b": another comment\n\n") == b": another comment\n\n"


def test_a_messages_stream_succeeds_with_its_stop_reason_and_end() -> None:
    stream = AnthropicStream()
    start = b'event: message_start\ndata: {"type": "message_start"}\n\n'
    delta = b'event: message_delta\ndata: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}\n\n'
    stop = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    assert stream.feed(start + delta) == start + delta
    assert not stream.done
    assert stream.feed(stop) == stop
    assert stream.finished
    assert stream.done
    failing = AnthropicStream()
    assert failing.feed(b'event: error\ndata: {"type": "error"}\n\n' + stop) == b""
    assert failing.failed


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (b"", (b"", b"")),
        (b"data: [DONE]\n\n", (b"", b"data: [DONE]\n\n")),
        (b"data: 1\n\ndata: [DONE]\n\n", (b"data: 1\n\n", b"data: [DONE]\n\n")),
        (b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n", (b"data: 1\n\ndata: 2\n\n", b"data: [DONE]\n\n")),
    ],
)
def test_the_end_mark_is_told_from_what_comes_before_it(events: bytes, expected: tuple[bytes, bytes]) -> None:
    assert split_last_event(events) == expected
