"""The requests that the Anthropic provider sends, and how it reads answers and streams."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson
import pytest
from anthropic.types import message_create_params
from pydantic import TypeAdapter

from support.provider_server import serve_answer
from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Delta, Finish, Image, Message, Options, TextDelta, Tool, Usage
from tollkeeper.dialects import chat, messages
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers.anthropic import AnthropicProvider
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, StreamChunk, Wire

UNREACHABLE_URL = "http://127.0.0.1:1"
REQUEST = ChatRequest((Message("system", "Be brief."), Message("user", 'Say "hi"\n☃')), Options(temperature=0.5))
ANSWER = orjson.dumps(
    {
        "type": "message",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 9, "output_tokens": 2},
    }
)


def make(url: str = UNREACHABLE_URL) -> AnthropicProvider:
    return AnthropicProvider(api_key="sk-ant", base_url=url, timeout_s=5)


def model(provider: AnthropicProvider, **traits: Any) -> Model:
    return Model("our-claude", provider, upstream="claude-opus-5", **traits)


def prepared(call_input: CallInput, *, stream: bool = False, **traits: Any) -> PreparedCall:
    provider = make()
    return provider.prepare(model(provider, **traits), call_input, stream=stream)


def input_of(request: ChatRequest = REQUEST) -> CallInput:
    return CallInput(lambda: request)


def raw_input(wire: Wire = Wire.MESSAGES, **fields: Any) -> CallInput:
    raw = RawRequest(wire, {name: orjson.dumps(value) for name, value in fields.items()}, InputSize(7, images=2))
    return CallInput(lambda: REQUEST, raw)


def test_a_chat_request_is_written_with_the_output_limit_last() -> None:
    body = prepared(input_of()).body_with_limit(77)
    assert body.endswith(b',"max_tokens":77}')
    document = orjson.loads(body)
    assert document == {
        "model": "claude-opus-5",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": 'Say "hi"\n☃'}],
        "temperature": 0.5,
        "max_tokens": 77,
    }
    TypeAdapter(message_create_params.MessageCreateParamsNonStreaming).validate_python(document)


def test_a_request_of_the_same_wire_is_sent_unchanged() -> None:
    """Including fields without an equivalent in ChatRequest, and white space."""
    spaced = b'[ {"role": "user", "content": "hi"} ]'
    raw = RawRequest(Wire.MESSAGES, {"messages": spaced, "top_k": b"5"}, InputSize(7, images=2))
    call = prepared(CallInput(lambda: REQUEST, raw), stream=True)
    body = b'{"messages":' + spaced + b',"top_k":5,"model":"claude-opus-5","stream":true,"max_tokens":9}'
    assert call.body_with_limit(9) == body
    assert (call.raw, call.wire, call.input_size) == (True, Wire.MESSAGES, InputSize(7, images=2))


def test_a_request_of_another_wire_is_translated() -> None:
    call = prepared(raw_input(Wire.CHAT, messages=[{"role": "user", "content": "Every message is counted."}]))
    assert (call.raw, orjson.loads(call.body_with_limit(1))["system"]) == (False, "Be brief.")
    assert call.input_size == InputSize(2)
    assert call.texts() == ("Every message is counted.",)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled", "display": "enabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000, "display": "disabled"}}, True),
        ({"thinking": {"type": "adaptive"}}, True),
    ],
)
def test_the_type_of_thinking_alone_decides_whether_the_model_thinks(fields: dict[str, Any], expected: bool) -> None:
    assert prepared(raw_input(messages=[], **fields)).thinks is expected


@pytest.mark.parametrize(
    ("call_input", "parameter"),
    [
        (raw_input(Wire.EMBEDDINGS, input="a"), "model"),
        (CallInput(lambda: REQUEST, choices=2), "n"),
        (input_of(REQUEST._replace(options=Options(seed=1))), "seed"),
    ],
)
def test_embeddings_several_choices_and_a_seed_are_refused(call_input: CallInput, parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(call_input)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize("call_input", [input_of(), raw_input(messages=[], temperature=0.5)])
def test_a_sampling_parameter_that_the_model_does_not_accept_is_refused(call_input: CallInput) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(call_input, sampling=frozenset({"top_p"}))
    assert refused.value.parameter == "temperature"
    assert prepared(call_input, sampling=frozenset({"temperature"}))


async def test_an_api_key_is_sent_in_x_api_key_and_a_token_as_a_bearer() -> None:
    async with serve_answer(ANSWER) as upstream:
        for api_key, auth_token in (("sk-ant", ""), ("", "tok")):
            provider = AnthropicProvider(
                api_key=api_key, auth_token=auth_token, base_url=upstream.url + "/v1/", timeout_s=5
            )
            await provider.complete(provider.prepare(model(provider), input_of()), 5)
            await provider.close()
    (path, by_key, _), (_, by_token, _) = upstream.requests
    assert path == "/v1/messages"
    assert (by_key["x-api-key"], by_key["anthropic-version"]) == ("sk-ant", "2023-06-01")
    assert "authorization" not in by_key
    assert (by_token["authorization"], by_token["anthropic-version"]) == ("Bearer tok", "2023-06-01")
    assert "x-api-key" not in by_token


async def test_the_headers_of_a_raw_request_are_sent_whole_and_streamed_but_replace_none_of_ours() -> None:
    headers = {"anthropic-beta": "effort-2025-11-24", "x-api-key": "theirs"}
    async with serve_answer(ANSWER) as upstream:
        provider = make(upstream.url)
        call_input = raw_input(messages=[])
        assert call_input.raw is not None
        call_input.raw = call_input.raw._replace(headers=headers)
        await provider.complete(provider.prepare(model(provider), call_input), 5)
        async with aclosing(provider.stream(provider.prepare(model(provider), call_input, stream=True), 5)) as stream:
            await anext(aiter(stream))
        await provider.complete(provider.prepare(model(provider), input_of()), 5)
        await provider.close()
    sent = [(received.get("anthropic-beta"), received["x-api-key"]) for _, received, _ in upstream.requests]
    assert sent == [("effort-2025-11-24", "sk-ant")] * 2 + [(None, "sk-ant")]


async def test_an_answer_is_read_and_has_its_bytes_only_for_the_same_wire() -> None:
    async with serve_answer(ANSWER) as upstream:
        provider = make(upstream.url)
        ours = await provider.complete(provider.prepare(model(provider), input_of()), 5)
        raw = await provider.complete(provider.prepare(model(provider), raw_input(messages=[])), 5)
        await provider.close()
    assert (ours.text, ours.usage, ours.finish_reason, ours.raw) == ("hi", Usage(9, 2), "stop", None)
    assert raw == ours._replace(raw=ANSWER)


async def test_an_answer_in_another_format_is_a_bad_response() -> None:
    async with serve_answer(
        chat.write_answer(messages.read_answer(ANSWER), ResponseMeta("a", "b", 1), Usage(1, 1))
    ) as upstream:
        provider = make(upstream.url)
        with pytest.raises(errors.ProviderBadResponse):
            await provider.complete(provider.prepare(model(provider), input_of()), 5)
        await provider.close()


def stream_events() -> list[bytes]:
    writer = messages.StreamWriter(ResponseMeta("msg_1", "claude", 1))
    return [writer.write(TextDelta("h")), writer.write(TextDelta("i")), writer.end("stop", Usage(9, 2))]


@pytest.mark.parametrize("raw", [True, False])
async def test_a_stream_has_deltas_and_its_bytes_only_for_the_same_wire(raw: bool) -> None:
    whole = b"".join(stream_events())
    async with serve_answer(whole) as upstream:
        provider = make(upstream.url)
        call_input = raw_input(messages=[]) if raw else input_of()
        call = provider.prepare(model(provider), call_input, stream=True)
        chunks = [chunk async for chunk in provider.stream(call, 5)]
        await provider.close()
    assert upstream.requests[0][2]["stream"] is True
    assert b"".join(chunk.raw for chunk in chunks) == (whole if raw else b"")
    assert [delta for chunk in chunks for delta in chunk.deltas] == [
        TextDelta("h"),
        TextDelta("i"),
        Finish("stop"),
        Usage(9, 2),
    ]
    assert [chunk.last for chunk in chunks][-3:] == [False, True, True]


async def collect(chunks: AsyncIterator[StreamChunk], deltas: list[Delta]) -> None:
    async for chunk in chunks:
        deltas += chunk.deltas


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (b"", errors.ProviderInterrupted),
        (b"event: message_del", errors.ProviderInterrupted),
        (b"data: <html>\n\n", errors.ProviderBadResponse),
        (messages.write_stream_error("provider_error", "secret"), errors.ProviderFailed),
    ],
)
async def test_a_stream_that_is_cut_malformed_or_failed_raises_an_error(
    end: bytes, error: type[errors.ProviderError]
) -> None:
    async with serve_answer(b"".join(stream_events()[:2]) + end) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), input_of(), stream=True)
        deltas: list[Delta] = []
        with pytest.raises(error) as raised:
            await collect(provider.stream(call, 5), deltas)
        await provider.close()
    assert deltas == [TextDelta("h"), TextDelta("i")]
    assert "secret" not in str(raised.value)


async def test_a_stream_without_message_stop_is_complete() -> None:
    """The answer is complete without it."""
    whole = b"".join(stream_events())
    async with serve_answer(whole[: whole.index(b"event: message_stop")]) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), input_of(), stream=True)
        chunks = [chunk async for chunk in provider.stream(call, 5)]
        await provider.close()
    assert chunks[-1].deltas == (Finish("stop"), Usage(9, 2))


async def test_the_input_count_includes_the_chat_template_images_and_tools() -> None:
    provider = make()
    image_message = Message("user", ("hello", Image("data:image/png;base64," + "A" * 4000)))
    plain = await provider.count_input(
        provider.prepare(model(provider), input_of(ChatRequest((Message("user", "hello"),))))
    )
    with_image = await provider.count_input(
        provider.prepare(model(provider, image_tokens=1600), input_of(ChatRequest((image_message,))))
    )
    tools = Options(tools=(Tool("weather", "Returns the weather.", {"type": "object"}),))
    with_tools = await provider.count_input(
        provider.prepare(model(provider), input_of(ChatRequest((Message("user", "hello"),), tools)))
    )
    assert plain == 1 + 4 + 3
    assert with_image == plain + 1600
    assert with_tools > plain
    assert (await provider.count_output("hello"), await provider.truncate_output("hello world", 1)) == (1, "hello")
