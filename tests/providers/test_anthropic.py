"""What the Anthropic adapter sends, and how it reads what comes back."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from anthropic.types import message_create_params
from provider_server import listening
from pydantic import TypeAdapter

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Delta, Finish, Image, Message, Options, TextDelta, Tool, Usage
from tollkeeper.dialects import chat, messages
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers.anthropic import AnthropicProvider
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, StreamChunk, Wire

NOWHERE = "http://127.0.0.1:1"
REQUEST = ChatRequest((Message("system", "Be brief."), Message("user", 'Say "hi"\n☃')), Options(temperature=0.5))
ANSWER = orjson.dumps(
    {
        "type": "message",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 9, "output_tokens": 2},
    }
)


def make(url: str = NOWHERE) -> AnthropicProvider:
    return AnthropicProvider(api_key="sk-ant", base_url=url, timeout_s=5)


def model(provider: AnthropicProvider, **facts: Any) -> Model:
    return Model("our-claude", provider, upstream="claude-opus-5", **facts)


def prepared(question: CallInput, *, stream: bool = False, **facts: Any) -> PreparedCall:
    provider = make()
    return provider.prepare(model(provider, **facts), question, stream=stream)


def asked(request: ChatRequest = REQUEST) -> CallInput:
    return CallInput(lambda: request)


def as_it_came(wire: Wire = Wire.MESSAGES, **fields: Any) -> CallInput:
    raw = RawRequest(wire, {name: orjson.dumps(value) for name, value in fields.items()}, InputSize(7, images=2))
    return CallInput(lambda: REQUEST, raw)


def test_a_question_of_ours_is_a_message_with_the_limit_last() -> None:
    body = prepared(asked()).body_with_limit(77)
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


def test_a_request_on_the_wire_goes_out_as_it_came() -> None:
    """Even what our nouns have no word for, and down to the spaces."""
    spaced = b'[ {"role": "user", "content": "hi"} ]'
    raw = RawRequest(Wire.MESSAGES, {"messages": spaced, "top_k": b"5"}, InputSize(7, images=2))
    call = prepared(CallInput(lambda: REQUEST, raw), stream=True)
    body = b'{"messages":' + spaced + b',"top_k":5,"model":"claude-opus-5","stream":true,"max_tokens":9}'
    assert call.body_with_limit(9) == body
    assert (call.raw, call.wire, call.input_size) == (True, Wire.MESSAGES, InputSize(7, images=2))


def test_a_request_on_another_wire_is_translated() -> None:
    call = prepared(as_it_came(Wire.CHAT, messages=[{"role": "user", "content": "All that came is counted."}]))
    assert (call.raw, orjson.loads(call.body_with_limit(1))["system"]) == (False, "Be brief.")
    assert call.input_size == InputSize(2)
    assert call.texts() == ("All that came is counted.",)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled", "display": "enabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000, "display": "disabled"}}, True),
        ({"thinking": {"type": "adaptive"}}, True),
    ],
)
def test_only_the_kind_of_thinking_says_whether_the_model_thinks(fields: dict[str, Any], expected: bool) -> None:
    assert prepared(as_it_came(messages=[], **fields)).thinks is expected


@pytest.mark.parametrize(
    ("question", "parameter"),
    [
        (as_it_came(Wire.EMBEDDINGS, input="a"), "model"),
        (CallInput(lambda: REQUEST, choices=2), "n"),
        (asked(REQUEST._replace(options=Options(seed=1))), "seed"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(question: CallInput, parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(question)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize("question", [asked(), as_it_came(messages=[], temperature=0.5)])
def test_a_model_without_sampling_takes_no_temperature(question: CallInput) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(question, sampling=frozenset({"top_p"}))
    assert refused.value.parameter == "temperature"
    assert prepared(question, sampling=frozenset({"temperature"}))


async def test_a_key_is_sent_as_a_key_and_a_token_as_a_bearer() -> None:
    async with listening(ANSWER) as upstream:
        for credentials in ({"api_key": "sk-ant"}, {"auth_token": "tok"}):
            provider = AnthropicProvider(**credentials, base_url=upstream.url + "/v1/", timeout_s=5)
            await provider.complete(provider.prepare(model(provider), asked()), 5)
            await provider.close()
    (path, by_key, _), (_, by_token, _) = upstream.asked
    assert path == "/v1/messages"
    assert (by_key["x-api-key"], by_key["anthropic-version"]) == ("sk-ant", "2023-06-01")
    assert "authorization" not in by_key
    assert (by_token["authorization"], by_token["anthropic-version"]) == ("Bearer tok", "2023-06-01")
    assert "x-api-key" not in by_token


async def test_an_answer_is_read_and_passed_on_where_the_caller_speaks_the_wire() -> None:
    async with listening(ANSWER) as upstream:
        provider = make(upstream.url)
        ours = await provider.complete(provider.prepare(model(provider), asked()), 5)
        raw = await provider.complete(provider.prepare(model(provider), as_it_came(messages=[])), 5)
        await provider.close()
    assert (ours.text, ours.usage, ours.finish_reason, ours.raw) == ("hi", Usage(9, 2), "stop", None)
    assert raw == ours._replace(raw=ANSWER)


async def test_an_answer_of_another_wire_is_a_bad_response() -> None:
    async with listening(
        chat.write_answer(messages.read_answer(ANSWER), ResponseMeta("a", "b", 1), Usage(1, 1))
    ) as upstream:
        provider = make(upstream.url)
        with pytest.raises(errors.ProviderBadResponse):
            await provider.complete(provider.prepare(model(provider), asked()), 5)
        await provider.close()


def a_stream() -> list[bytes]:
    writer = messages.StreamWriter(ResponseMeta("msg_1", "claude", 1))
    return [writer.write(TextDelta("h")), writer.write(TextDelta("i")), writer.end("stop", Usage(9, 2))]


@pytest.mark.parametrize("raw", [True, False])
async def test_a_stream_brings_deltas_and_for_the_wires_own_callers_its_bytes(raw: bool) -> None:
    whole = b"".join(a_stream())
    async with listening(whole) as upstream:
        provider = make(upstream.url)
        question = as_it_came(messages=[]) if raw else asked()
        call = provider.prepare(model(provider), question, stream=True)
        pieces = [piece async for piece in provider.stream(call, 5)]
        await provider.close()
    assert upstream.asked[0][2]["stream"] is True
    assert b"".join(piece.raw for piece in pieces) == (whole if raw else b"")
    assert [delta for piece in pieces for delta in piece.deltas] == [
        TextDelta("h"),
        TextDelta("i"),
        Finish("stop"),
        Usage(9, 2),
    ]
    assert [piece.last for piece in pieces][-3:] == [False, True, True]


async def drain(pieces: AsyncIterator[StreamChunk], seen: list[Delta]) -> None:
    async for piece in pieces:
        seen += piece.deltas


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (b"", errors.ProviderInterrupted),
        (b"event: message_del", errors.ProviderInterrupted),
        (b"data: <html>\n\n", errors.ProviderBadResponse),
        (messages.write_stream_error("provider_error", "secret"), errors.ProviderFailed),
    ],
)
async def test_a_stream_that_does_not_end_well_is_an_error(end: bytes, error: type[errors.ProviderError]) -> None:
    async with listening(b"".join(a_stream()[:2]) + end) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), asked(), stream=True)
        seen: list[Delta] = []
        with pytest.raises(error) as raised:
            await drain(provider.stream(call, 5), seen)
        await provider.close()
    assert seen == [TextDelta("h"), TextDelta("i")]
    assert "secret" not in str(raised.value)


async def test_a_missing_final_marker_is_no_fault() -> None:
    """The answer was whole before it."""
    whole = b"".join(a_stream())
    async with listening(whole[: whole.index(b"event: message_stop")]) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), asked(), stream=True)
        pieces = [piece async for piece in provider.stream(call, 5)]
        await provider.close()
    assert pieces[-1].deltas == (Finish("stop"), Usage(9, 2))


async def test_input_is_counted_with_what_the_template_and_pictures_take() -> None:
    provider = make()
    pictured = Message("user", ("hello", Image("data:image/png;base64," + "A" * 4000)))
    plain = await provider.count_input(
        provider.prepare(model(provider), asked(ChatRequest((Message("user", "hello"),))))
    )
    seen = await provider.count_input(
        provider.prepare(model(provider, image_tokens=1600), asked(ChatRequest((pictured,))))
    )
    tools = Options(tools=(Tool("weather", "tells the weather", {"type": "object"}),))
    equipped = await provider.count_input(
        provider.prepare(model(provider), asked(ChatRequest((Message("user", "hello"),), tools)))
    )
    assert plain == 1 + 4 + 3
    assert seen == plain + 1600
    assert equipped > plain
    assert (await provider.count_output("hello"), await provider.truncate_output("hello world", 1)) == (1, "hello")
