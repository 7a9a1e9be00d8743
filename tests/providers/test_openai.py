"""The requests that the OpenAI provider sends on each wire, and how it reads answers and streams."""

from typing import Any, get_type_hints

import orjson
import pytest
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

from support.provider_server import serve_answer
from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Finish, Image, Message, Options, TextDelta, Tool, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import InvalidRequest, UnsupportedParameter
from tollkeeper.providers.base import IMAGE_TOKENS, CallInput, Model, PreparedCall, RawRequest, StreamChunk, Wire
from tollkeeper.providers.openai import OpenAIProvider

COMPATIBLE = "http://127.0.0.1:1/v1"
REQUEST = ChatRequest((Message("system", "Be brief."), Message("user", 'Say "hi"\n☃')), Options(temperature=0.5))
HELLO = ChatRequest((Message("user", "hello"),))
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
]
STREAM = [*(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in CHUNKS), b"data: [DONE]\n\n"]


def make(base_url: str = COMPATIBLE, **settings: Any) -> OpenAIProvider:
    return OpenAIProvider(api_key="sk-test", base_url=base_url, timeout_s=5, **settings)


def prepared(
    call_input: CallInput, provider: OpenAIProvider | None = None, *, stream: bool = False, **traits: Any
) -> PreparedCall:
    provider = provider or make()
    return provider.prepare(Model(traits.pop("name", "gpt-4o-mini"), provider, **traits), call_input, stream=stream)


def input_of(request: ChatRequest = REQUEST) -> CallInput:
    return CallInput(lambda: request)


def raw_input(wire: Wire, **fields: Any) -> CallInput:
    raw = RawRequest(wire, {name: orjson.dumps(value) for name, value in fields.items()}, InputSize(7, images=2))
    return CallInput(lambda: REQUEST, raw)


def request_body(call: PreparedCall, limit: int = 77) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(call.body_with_limit(limit))
    return body


def test_the_request_is_a_chat_completion() -> None:
    assert request_body(prepared(input_of())) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "hi"\n☃'}],
        "temperature": 0.5,
        "max_tokens": 77,
    }


@pytest.mark.parametrize(
    ("base_url", "knows_store", "sent"),
    [
        (COMPATIBLE, None, False),
        (COMPATIBLE, True, True),
        ("https://api.openai.com/v1", None, True),
        ("https://eu.api.openai.com/v1", None, True),
        ("https://API.OpenAI.com/v1/", None, True),
        ("https://east.openai.azure.com/openai/v1", None, True),
        ("https://api.openai.com/v1", False, False),
        ("https://api.openai.com.example/v1", None, False),
        ("https://notapi.openai.com.example/v1", None, False),
        ("https://example.com/api.openai.com", None, False),
        ("https://generativelanguage.googleapis.com/v1beta/openai", None, False),
        ("https://api.mistral.ai/v1", None, False),
    ],
)
def test_the_field_store_is_sent_only_to_a_server_that_knows_it(
    base_url: str, knows_store: bool | None, sent: bool
) -> None:
    provider = make(base_url, knows_store=knows_store)
    for call_input in (input_of(), raw_input(Wire.CHAT, messages=[])):
        for stream in (False, True):
            body = request_body(prepared(call_input, provider, stream=stream))
            assert body.get("store", "absent") == (False if sent else "absent")


def test_a_response_is_never_stored_whatever_the_server() -> None:
    """A server with this wire stores by default."""
    for call_input in (input_of(), raw_input(Wire.RESPONSES, input="hi")):
        provider = make(wires=frozenset({Wire.RESPONSES}), wire=Wire.RESPONSES, knows_store=False)
        assert request_body(prepared(call_input, provider))["store"] is False


def test_a_stream_is_requested_with_its_usage() -> None:
    body = request_body(prepared(input_of(), stream=True))
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_a_server_that_does_not_know_stream_options_does_not_receive_them() -> None:
    for call_input in (input_of(), raw_input(Wire.CHAT, messages=[])):
        body = request_body(prepared(call_input, make(knows_stream_options=False), stream=True))
        assert (body["stream"], "stream_options" in body) == (True, False)


def test_every_field_of_a_request_is_one_of_the_sdk() -> None:
    known = get_type_hints(completion_create_params.CompletionCreateParamsStreaming)
    assert (
        request_body(prepared(input_of(), stream=True)).keys() | request_body(prepared(input_of(), name="gpt-5")).keys()
        <= known.keys()
    )
    known = get_type_hints(response_create_params.ResponseCreateParamsStreaming)
    assert request_body(prepared(input_of(), make(wire=Wire.RESPONSES), stream=True)).keys() <= known.keys()


def test_a_provider_can_use_the_responses_wire() -> None:
    body = request_body(prepared(input_of(), make(wire=Wire.RESPONSES)))
    assert (body["max_output_tokens"], body["store"], body["temperature"]) == (77, False, 0.5)
    assert "messages" not in body


def test_a_request_of_one_of_its_wires_is_sent_unchanged() -> None:
    """Including fields without an equivalent in ChatRequest, and white space."""
    spaced = b'[ {"role": "user", "content": "hi"} ]'
    raw = RawRequest(Wire.CHAT, {"messages": spaced, "logit_bias": b'{"1": 2}'}, InputSize(7, images=2))
    call = prepared(CallInput(lambda: REQUEST, raw), upstream="gpt-x")
    body = b'{"messages":' + spaced + b',"logit_bias":{"1": 2},"model":"gpt-x","max_tokens":9}'
    assert call.body_with_limit(9) == body
    assert (call.raw, call.wire, call.input_size) == (True, Wire.CHAT, InputSize(7, images=2))


def test_a_request_of_any_other_wire_is_translated() -> None:
    provider = make(wires=frozenset({Wire.CHAT}))
    call = prepared(raw_input(Wire.RESPONSES, input="hi"), provider)
    assert (call.raw, call.wire, call.input_size) == (False, Wire.CHAT, InputSize(2))
    assert request_body(call)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_request_for_embeddings_has_no_output_limit_and_no_store() -> None:
    call = prepared(raw_input(Wire.EMBEDDINGS, input="hi"), name="text-embedding-3-small")
    assert request_body(call) == {"input": "hi", "model": "text-embedding-3-small"}
    assert call.tail is None


@pytest.mark.parametrize(
    ("call_input", "parameter"),
    [
        (raw_input(Wire.EMBEDDINGS, input="a"), "model"),
        (CallInput(lambda: REQUEST, choices=2), "n"),
    ],
)
def test_a_wire_that_it_does_not_have_and_several_choices_are_refused(call_input: CallInput, parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(call_input, make(wires=frozenset({Wire.RESPONSES})))
    assert refused.value.parameter == parameter


@pytest.mark.parametrize("call_input", [input_of(), raw_input(Wire.CHAT, messages=[], temperature=0.5)])
def test_a_sampling_parameter_that_the_model_does_not_accept_is_refused(call_input: CallInput) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(call_input, sampling=frozenset({"seed"}))
    assert refused.value.parameter == "temperature"
    assert prepared(call_input, sampling=frozenset({"temperature"}))


@pytest.mark.parametrize(
    ("model", "base_url", "name"),
    [
        ("gpt-4o-mini", "https://api.openai.com/v1", "max_tokens"),
        ("gpt-3.5-turbo", "https://api.openai.com/v1", "max_tokens"),
        ("gpt-5", "https://api.openai.com/v1", "max_completion_tokens"),
        ("o3-mini", "https://api.openai.com/v1/", "max_completion_tokens"),
        ("something-newer", "https://api.openai.com/v1", "max_completion_tokens"),
        ("o3-mini", COMPATIBLE, "max_completion_tokens"),
        ("llama-3", COMPATIBLE, "max_tokens"),
        ("openhermes", COMPATIBLE, "max_tokens"),
    ],
)
def test_the_output_limit_has_the_name_that_the_model_accepts(model: str, base_url: str, name: str) -> None:
    for call_input in (input_of(HELLO), raw_input(Wire.CHAT, messages=[])):
        body = request_body(prepared(call_input, make(base_url), name="ours", upstream=model))
        assert [key for key in body if key.startswith("max_")] == [name]
        assert body[name] == 77


def test_the_catalog_may_name_the_field_of_the_output_limit() -> None:
    assert request_body(prepared(input_of(), limit_name="max_new_tokens"))["max_new_tokens"] == 77


def test_the_bytes_of_the_body_include_the_whole_input() -> None:
    call = prepared(input_of(ChatRequest((Message("user", "é" * 1000),))))
    assert len(call.body) > 2000
    assert call.input_size == InputSize(1)


async def test_the_input_count_includes_the_chat_template_and_images_and_the_output_count_does_not() -> None:
    provider = make()
    twice = ChatRequest((Message("system", "hello world"), Message("user", "hello world")))
    assert await provider.count_input(prepared(input_of(twice), name="gpt-4o")) == 2 * 2 + 2 * 4 + 3
    with_image = ChatRequest((Message("user", ("hello world", Image("https://example.com/a.png"))),))
    assert await provider.count_input(prepared(input_of(with_image), name="gpt-4o")) == 2 + 4 + 3 + IMAGE_TOKENS
    assert await provider.count_output("hello world") == 2
    assert await provider.count_output("<|endoftext|>") > 0
    assert await provider.truncate_output("hello world again", 2) == "hello world"
    assert await provider.truncate_output("hello", 5) == "hello"


async def test_every_field_of_a_request_that_cannot_be_translated_is_counted() -> None:
    def read() -> ChatRequest:
        raise InvalidRequest

    raw = RawRequest(Wire.CHAT, {"messages": b'"hello world"', "functions": b'"hello world"'}, InputSize(1))
    call = prepared(CallInput(read, raw))
    assert "".join(call.texts()).count("hello world") == 2
    assert await make().count_input(call) >= 2 * 2 + 4 + 3


async def test_tools_are_part_of_the_input_count() -> None:
    tool = Tool("weather", "Returns the weather", {"type": "object", "properties": {"city": {"type": "string"}}})
    provider = make()
    without = await provider.count_input(prepared(input_of(HELLO)))
    assert await provider.count_input(prepared(input_of(HELLO._replace(options=Options(tools=(tool,)))))) > without + 10


async def test_truncated_output_never_ends_within_a_character() -> None:
    provider, text = make(), "🤖🧬𓀀 ᚠᛇᚻ ꙮ"
    whole = await provider.count_output(text)
    cuts = [await provider.truncate_output(text, tokens) for tokens in range(whole + 1)]
    assert all(text.startswith(cut) for cut in cuts)
    assert cuts[0] == ""
    assert cuts[-1] == text
    assert sorted(cuts, key=len) == cuts


def answer(**changes: Any) -> bytes:
    whole = {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    return orjson.dumps(whole | changes)


async def complete(call_input: CallInput, body: bytes, status: int = 200, **settings: Any) -> Completion:
    async with serve_answer(body, status) as upstream:
        provider = make(upstream.url + "/v1/", **settings)
        try:
            completion = await provider.complete(prepared(call_input, provider), 5)
        finally:
            await provider.close()
        [(path, headers, _)] = upstream.requests
        assert path == f"/v1/{prepared(call_input, provider).wire}"
        assert (headers["authorization"], headers["content-type"]) == ("Bearer sk-test", "application/json")
        return completion


async def test_an_answer_is_read_and_has_its_bytes_only_for_the_same_wire() -> None:
    assert await complete(input_of(), answer()) == Completion("Hi", "stop", Usage(9, 2, 4))
    raw = await complete(raw_input(Wire.CHAT, messages=[]), answer())
    assert (raw.text, raw.usage, raw.raw) == ("Hi", Usage(9, 2, 4), answer())


async def test_embeddings_are_read_for_their_usage() -> None:
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 3}}
    completion = await complete(raw_input(Wire.EMBEDDINGS, input="a"), orjson.dumps(vectors))
    assert (completion.usage, completion.raw) == (Usage(3, 0), orjson.dumps(vectors))


async def test_an_answer_on_the_responses_wire_is_read() -> None:
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    body = {"status": "completed", "output": [message], "usage": {"input_tokens": 9, "output_tokens": 2}}
    completion = await complete(input_of(), orjson.dumps(body), wire=Wire.RESPONSES)
    assert (completion.text, completion.finish_reason, completion.usage) == ("Hi", "stop", Usage(9, 2))


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", answer(choices=[], usage=None), answer()[:-5], b"[" * 100_000]
)
async def test_a_malformed_answer_counts_as_billed(body: bytes) -> None:
    with pytest.raises(errors.ProviderBadResponse) as raised:
        await complete(input_of(), body)
    assert raised.value.billed


async def stream_chunks(call_input: CallInput, body: bytes) -> list[StreamChunk]:
    async with serve_answer(body) as upstream:
        provider = make(upstream.url)
        try:
            return [chunk async for chunk in provider.stream(prepared(call_input, provider, stream=True), 5)]
        finally:
            await provider.close()


async def test_the_last_events_of_a_stream_are_chunks_of_their_own_and_are_marked() -> None:
    chunks = await stream_chunks(input_of(), b"".join(STREAM))
    assert [chunk.deltas for chunk in chunks] == [(TextDelta("Hi"), Finish("stop")), (Usage(9, 2),), ()]
    assert [chunk.last for chunk in chunks] == [False, True, True]
    assert {chunk.raw for chunk in chunks} == {b""}


async def test_a_stream_of_the_same_wire_has_its_bytes() -> None:
    chunks = await stream_chunks(raw_input(Wire.CHAT, messages=[]), b": hello\n\n" + b"".join(STREAM))
    assert [chunk.raw for chunk in chunks] == [STREAM[0] + STREAM[1], *STREAM[2:]]


@pytest.mark.parametrize("events", [[], STREAM[:1], [STREAM[0], STREAM[3]], [*STREAM[:2], STREAM[2][:-1]]])
async def test_a_stream_without_a_finish_reason_or_cut_within_an_event_is_interrupted(events: list[bytes]) -> None:
    with pytest.raises(errors.ProviderInterrupted):
        await stream_chunks(input_of(), b"".join(events))


async def test_a_stream_without_usage_and_done_is_complete() -> None:
    [chunk] = await stream_chunks(input_of(), b"".join(STREAM[:2]))
    assert chunk.deltas == (TextDelta("Hi"), Finish("stop"))


async def test_a_malformed_event_is_a_bad_response_and_an_error_event_raises_without_its_text() -> None:
    with pytest.raises(errors.ProviderBadResponse):
        await stream_chunks(input_of(), STREAM[0] + b"data: {\n\n")
    with pytest.raises(errors.ProviderFailed) as raised:
        await stream_chunks(input_of(), b'data: {"error": {"message": "SECRET"}}\n\n')
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None


async def test_an_unreachable_server_is_unavailable_and_not_billed() -> None:
    provider = make()
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await provider.complete(prepared(input_of(), provider), 5)
    with pytest.raises(errors.ProviderUnavailable):
        await anext(provider.stream(prepared(input_of(), provider, stream=True), 5))
    await provider.close()
    assert not raised.value.billed


async def test_the_models_of_the_api_key_are_listed() -> None:
    models = [{"id": name, "object": "model", "created": 1, "owned_by": "x"} for name in ("b", "a")]
    async with serve_answer(orjson.dumps({"object": "list", "data": models})) as upstream:
        assert await make(upstream.url).list_models() == ["a", "b"]


async def test_listing_models_raises_the_errors_of_a_call() -> None:
    with pytest.raises(errors.ProviderUnavailable):
        await make().list_models()
    async with serve_answer(b"{}", 401) as upstream:
        with pytest.raises(errors.ProviderAuthFailed):
            await make(upstream.url).list_models()
