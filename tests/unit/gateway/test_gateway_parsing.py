"""Bounds of a request, which reservations rest on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body.parsing import MAX_ANSWERS, TEMPLATE_TOKENS, Endpoint, InferenceRequest, parse_request
from gateway.errors import ApiError

MESSAGES = [{"role": "user", "content": "hi"}]


def parse(endpoint: Endpoint = Endpoint.CHAT, **body: Any) -> InferenceRequest:
    body.setdefault("model", "m")
    if endpoint is Endpoint.COMPLETIONS:
        body.setdefault("prompt", "hi")
    elif endpoint in (Endpoint.EMBEDDINGS, Endpoint.RESPONSES):
        body.setdefault("input", "hi")
    else:
        body.setdefault("messages", MESSAGES)
    return parse_request(endpoint, json.dumps(body).encode())


@given(st.text(max_size=300))
def test_the_prompt_bound_is_at_least_its_utf8_bytes(text: str) -> None:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
    try:
        encoded = raw.encode()
    except UnicodeEncodeError:  # lone surrogates are no UTF-8: such a body cannot be sent
        return
    assert parse_request(Endpoint.CHAT, encoded).prompt_bound(10**6) >= len(text.encode()) + TEMPLATE_TOKENS


def test_the_prompt_bound_never_exceeds_the_context() -> None:
    assert parse(user="x" * 5000).prompt_bound(2048) == 2048
    assert parse(Endpoint.COMPLETIONS, prompt=["x" * 5000, "y"]).prompt_bound(2048) == 4096


def test_media_count_as_a_whole_context() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert parse(messages=[{"role": "user", "content": [part]}]).prompt_bound(2048) == 2048


@pytest.mark.parametrize("url", ["http://10.0.0.1/x", "https://x", "file:///etc/passwd", "//x", " data:,x"])
def test_media_by_address_is_refused_wherever_it_stands(url: str) -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": url}}]},
    ):
        with pytest.raises(ApiError):
            parse(messages=[{"role": "user", "content": [part]}])


@pytest.mark.parametrize("extra", [[], [{"type": "text", "text": "x"}], "x", None])
def test_a_part_cannot_hide_its_address_behind_other_content(extra: Any) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}, "content": extra}
    with pytest.raises(ApiError):
        parse(messages=[{"role": "user", "content": [part]}])


def converse(*parts: Any, **body: Any) -> InferenceRequest:
    """A Messages body whose one message has these parts."""
    return parse(Endpoint.MESSAGES, max_tokens=5, messages=[{"role": "user", "content": list(parts)}], **body)


INLINE = {"type": "base64", "media_type": "image/png", "data": "AA=="}


@pytest.mark.parametrize(
    "source",
    [
        {"type": "url", "url": "http://10.0.0.1/"},
        {"type": "file", "file_id": "f"},
        INLINE | {"url": "http://10.0.0.1/"},
        INLINE | {"data": 5},
        {"type": "base64"},
        "http://10.0.0.1/",
        5,
        None,
        [],
    ],
)
@pytest.mark.parametrize("kind", ["image", "document"])
def test_a_messages_source_is_inline_or_refused(kind: str, source: Any) -> None:
    part = {"type": kind, "source": source}
    for parts in ([part], [{"type": "tool_result", "tool_use_id": "t", "content": [part]}]):
        with pytest.raises(ApiError) as caught:
            converse({"type": "text", "text": "x"}, *parts)
        assert caught.value.status == 400
    assert converse({"type": kind, "source": INLINE}).has_media


@pytest.mark.parametrize(
    "kind",
    ["image_url", "video_url", "search_result", "container_upload", "server_tool_use", "mcp_tool_use", "", "new"],
)
def test_a_messages_part_of_unlisted_type_is_refused(kind: str) -> None:
    with pytest.raises(ApiError):
        converse({"type": kind, "image_url": {"url": "http://10.0.0.1/"}})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": 5}]}]}, "messages[0].content"),
        ({"system": 5}, "system"),
        ({"system": {"type": "text"}}, "system"),
        ({"system": [{"type": "image", "source": INLINE}]}, "system"),
    ],
)
def test_wrong_types_in_messages_are_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(Endpoint.MESSAGES, max_tokens=5, **body)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_messages_of_the_allowed_types_pass() -> None:
    request = parse(
        Endpoint.MESSAGES,
        max_tokens=5,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "d"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t"},
                {"type": "tool_result", "tool_use_id": "t", "content": "done"},
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "done"}]},
            ]},
        ],
    )  # fmt: skip
    assert not request.has_media


@pytest.mark.parametrize("levels", [300, 2000])
def test_a_body_nested_too_deeply_is_refused(levels: int) -> None:
    raw = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "metadata": ' + b"[" * levels + b"]" * levels
    with pytest.raises(ApiError) as caught:
        parse_request(Endpoint.CHAT, raw + b"}")
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_messages_have_one_answer() -> None:
    assert parse(Endpoint.MESSAGES, max_tokens=5, n=2).choices == 1


def test_the_answers_of_one_request_are_bounded() -> None:
    assert parse(Endpoint.COMPLETIONS, prompt=["x"] * MAX_ANSWERS).choices == MAX_ANSWERS
    for body in ({"prompt": ["x"] * (MAX_ANSWERS + 1)}, {"prompt": ["x"] * (MAX_ANSWERS // 2 + 1), "n": 2}):
        with pytest.raises(ApiError) as caught:
            parse(Endpoint.COMPLETIONS, **body)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ({}, 100),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 10**9}, 2048),
    ],
)
def test_the_answer_is_bounded(body: dict[str, Any], bound: int) -> None:
    assert parse(**body).output_bound(2048, 100) == bound


def test_a_completion_without_max_tokens_has_openais_default() -> None:
    assert parse(Endpoint.COMPLETIONS).output_bound(2048, 100) == 16


@pytest.mark.parametrize(("prompt", "prompts"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)])
def test_prompts_and_answers_are_counted(prompt: Any, prompts: int) -> None:
    request = parse(Endpoint.COMPLETIONS, prompt=prompt, n=3)
    assert (request.prompts, request.choices) == (prompts, prompts * 3)


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], [1, "a"], [True], 5, {"a": 1}, [["a"]]])
def test_a_prompt_of_no_known_form_is_refused(prompt: Any) -> None:
    with pytest.raises(ApiError) as caught:
        parse(Endpoint.COMPLETIONS, prompt=prompt)
    assert caught.value.param == "prompt"


def test_messages_need_max_tokens() -> None:
    with pytest.raises(ApiError) as caught:
        parse(Endpoint.MESSAGES)
    assert caught.value.param == "max_tokens"
    assert parse(Endpoint.MESSAGES, max_tokens=5).max_tokens == 5


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["model", "messages", "role", "content", "type", "max_tokens", "n", "stream",
                                         "stream_options", "prompt", "tools", "image_url", "source", "url"]),
                        inner, max_size=6), max_leaves=12), st.sampled_from(Endpoint))  # fmt: skip
def test_any_json_is_parsed_or_refused_with_400(document: Any, endpoint: Endpoint) -> None:
    try:
        raw = json.dumps(document).encode()
    except UnicodeEncodeError:
        return
    refused = None
    try:
        parse_request(endpoint, raw)
    except ApiError as error:
        refused = error.status
    assert refused in (None, 400)


@given(
    st.one_of(
        st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1), st.lists(st.integers(0, 10**6), min_size=1)
    )
)
def test_embeddings_reserve_their_prompt_and_no_answer(given_input: Any) -> None:
    try:
        request = parse(Endpoint.EMBEDDINGS, input=given_input)
    except ApiError:  # a lone surrogate is no UTF-8
        assert "\\ud" in json.dumps(given_input)
        return
    texts = given_input if isinstance(given_input, list) else [given_input]
    tokens = sum(len(text.encode()) if isinstance(text, str) else 1 for text in texts)
    assert tokens <= request.prompt_bound(10**6)
    assert request.output_bound(2048, 100) == 0


def test_responses_are_bounded_like_chats() -> None:
    assert parse(Endpoint.RESPONSES).output_bound(2048, 100) == 100
    assert parse(Endpoint.RESPONSES, max_output_tokens=7).output_bound(2048, 100) == 7
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    assert parse(Endpoint.RESPONSES, input=[{"role": "user", "content": [image]}]).prompt_bound(2048) == 2048
    assert parse(Endpoint.RESPONSES, input=[{"type": "reasoning", "summary": []}]).choices == 1
