"""What the OpenAI adapter sends, on each of the wires, and how it reads what comes back."""

from typing import Any, get_type_hints

import orjson
import pytest
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params
from provider_server import listening

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


def make(base_url: str = COMPATIBLE, **how: Any) -> OpenAIProvider:
    return OpenAIProvider(api_key="sk-test", base_url=base_url, timeout_s=5, **how)


def prepared(
    question: CallInput, provider: OpenAIProvider | None = None, *, stream: bool = False, **facts: Any
) -> PreparedCall:
    provider = provider or make()
    return provider.prepare(Model(facts.pop("name", "gpt-4o-mini"), provider, **facts), question, stream=stream)


def asked(request: ChatRequest = REQUEST) -> CallInput:
    return CallInput(lambda: request)


def as_it_came(wire: Wire, **fields: Any) -> CallInput:
    raw = RawRequest(wire, {name: orjson.dumps(value) for name, value in fields.items()}, InputSize(7, images=2))
    return CallInput(lambda: REQUEST, raw)


def sent(call: PreparedCall, limit: int = 77) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(call.body_with_limit(limit))
    return body


def test_the_body_is_a_chat_completion_that_is_never_stored() -> None:
    assert sent(prepared(asked())) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "hi"\n☃'}],
        "temperature": 0.5,
        "store": False,
        "max_tokens": 77,
    }


def test_a_stream_is_asked_for_with_its_usage() -> None:
    body = sent(prepared(asked(), stream=True))
    assert (body["stream"], body["stream_options"], body["store"]) == (True, {"include_usage": True}, False)


def test_every_field_sent_is_one_that_openai_knows() -> None:
    known = get_type_hints(completion_create_params.CompletionCreateParamsStreaming)
    assert sent(prepared(asked(), stream=True)).keys() | sent(prepared(asked(), name="gpt-5")).keys() <= known.keys()
    known = get_type_hints(response_create_params.ResponseCreateParamsStreaming)
    assert sent(prepared(asked(), make(wire=Wire.RESPONSES), stream=True)).keys() <= known.keys()


def test_a_provider_can_be_asked_on_the_responses_wire() -> None:
    body = sent(prepared(asked(), make(wire=Wire.RESPONSES)))
    assert (body["max_output_tokens"], body["store"], body["temperature"]) == (77, False, 0.5)
    assert "messages" not in body


def test_a_request_on_one_of_its_wires_goes_out_as_it_came() -> None:
    """Even what our nouns have no word for, and down to the spaces."""
    spaced = b'[ {"role": "user", "content": "hi"} ]'
    raw = RawRequest(Wire.CHAT, {"messages": spaced, "logit_bias": b'{"1": 2}'}, InputSize(7, images=2))
    call = prepared(CallInput(lambda: REQUEST, raw), upstream="gpt-x")
    body = b'{"messages":' + spaced + b',"logit_bias":{"1": 2},"model":"gpt-x","store":false,"max_tokens":9}'
    assert call.body_with_limit(9) == body
    assert (call.raw, call.wire, call.input_size) == (True, Wire.CHAT, InputSize(7, images=2))


def test_a_request_on_a_wire_that_it_does_not_speak_is_translated() -> None:
    provider = make(wires=frozenset({Wire.CHAT}))
    call = prepared(as_it_came(Wire.RESPONSES, input="hi"), provider)
    assert (call.raw, call.wire, call.input_size) == (False, Wire.CHAT, InputSize(2))
    assert sent(call)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_embeddings_have_no_limit_and_are_not_told_what_they_do_not_know() -> None:
    call = prepared(as_it_came(Wire.EMBEDDINGS, input="hi"), name="text-embedding-3-small")
    assert sent(call) == {"input": "hi", "model": "text-embedding-3-small"}
    assert call.tail is None


@pytest.mark.parametrize(
    ("question", "parameter"),
    [
        (as_it_came(Wire.EMBEDDINGS, input="a"), "model"),
        (CallInput(lambda: REQUEST, choices=2), "n"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(question: CallInput, parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(question, make(wires=frozenset({Wire.RESPONSES})))
    assert refused.value.parameter == parameter


@pytest.mark.parametrize("question", [asked(), as_it_came(Wire.CHAT, messages=[], temperature=0.5)])
def test_a_model_without_sampling_takes_no_temperature(question: CallInput) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(question, sampling=frozenset({"seed"}))
    assert refused.value.parameter == "temperature"
    assert prepared(question, sampling=frozenset({"temperature"}))


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
    for question in (asked(HELLO), as_it_came(Wire.CHAT, messages=[])):
        body = sent(prepared(question, make(base_url), name="ours", upstream=model))
        assert [key for key in body if key.startswith("max_")] == [name]
        assert body[name] == 77


def test_the_operator_may_say_how_the_limit_is_called() -> None:
    assert sent(prepared(asked(), limit_name="max_new_tokens"))["max_new_tokens"] == 77


def test_the_bytes_that_bound_the_input_cover_the_whole_body() -> None:
    call = prepared(asked(ChatRequest((Message("user", "é" * 1000),))))
    assert len(call.body) > 2000
    assert call.input_size == InputSize(1)


async def test_input_is_counted_with_the_template_and_its_pictures_and_output_without() -> None:
    provider = make()
    twice = ChatRequest((Message("system", "hello world"), Message("user", "hello world")))
    assert await provider.count_input(prepared(asked(twice), name="gpt-4o")) == 2 * 2 + 2 * 4 + 3
    seen = ChatRequest((Message("user", ("hello world", Image("https://example.com/a.png"))),))
    assert await provider.count_input(prepared(asked(seen), name="gpt-4o")) == 2 + 4 + 3 + IMAGE_TOKENS
    assert await provider.count_output("hello world") == 2
    assert await provider.count_output("<|endoftext|>") > 0
    assert await provider.truncate_output("hello world again", 2) == "hello world"
    assert await provider.truncate_output("hello", 5) == "hello"


async def test_of_what_our_nouns_cannot_hold_every_field_is_counted() -> None:
    def read() -> ChatRequest:
        raise InvalidRequest

    raw = RawRequest(Wire.CHAT, {"messages": b'"hello world"', "functions": b'"hello world"'}, InputSize(1))
    call = prepared(CallInput(read, raw))
    assert "".join(call.texts()).count("hello world") == 2
    assert await make().count_input(call) >= 2 * 2 + 4 + 3


async def test_tools_are_counted_as_text() -> None:
    tool = Tool("weather", "Tells the weather", {"type": "object", "properties": {"city": {"type": "string"}}})
    provider = make()
    without = await provider.count_input(prepared(asked(HELLO)))
    assert await provider.count_input(prepared(asked(HELLO._replace(options=Options(tools=(tool,)))))) > without + 10


async def test_a_cut_never_leaves_half_a_character() -> None:
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


async def complete(question: CallInput, body: bytes, status: int = 200, **how: Any) -> Completion:
    async with listening(body, status) as upstream:
        provider = make(upstream.url + "/v1/", **how)
        try:
            completion = await provider.complete(prepared(question, provider), 5)
        finally:
            await provider.close()
        [(path, headers, _)] = upstream.asked
        assert path == f"/v1/{prepared(question, provider).wire}"
        assert (headers["authorization"], headers["content-type"]) == ("Bearer sk-test", "application/json")
        return completion


async def test_an_answer_in_our_nouns_is_read_and_one_as_it_came_is_passed_on_too() -> None:
    assert await complete(asked(), answer()) == Completion("Hi", "stop", Usage(9, 2, 4))
    raw = await complete(as_it_came(Wire.CHAT, messages=[]), answer())
    assert (raw.text, raw.usage, raw.raw) == ("Hi", Usage(9, 2, 4), answer())


async def test_embeddings_are_read_for_their_usage() -> None:
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 3}}
    completion = await complete(as_it_came(Wire.EMBEDDINGS, input="a"), orjson.dumps(vectors))
    assert (completion.usage, completion.raw) == (Usage(3, 0), orjson.dumps(vectors))


async def test_a_response_is_read() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    body = {"status": "completed", "output": [said], "usage": {"input_tokens": 9, "output_tokens": 2}}
    completion = await complete(asked(), orjson.dumps(body), wire=Wire.RESPONSES)
    assert (completion.text, completion.finish_reason, completion.usage) == ("Hi", "stop", Usage(9, 2))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", answer(choices=[]), answer()[:-5], b"[" * 100_000])
async def test_an_unreadable_answer_may_have_been_billed(body: bytes) -> None:
    with pytest.raises(errors.ProviderBadResponse) as raised:
        await complete(asked(), body)
    assert raised.value.billed


async def heard(question: CallInput, body: bytes) -> list[StreamChunk]:
    async with listening(body) as upstream:
        provider = make(upstream.url)
        try:
            return [piece async for piece in provider.stream(prepared(question, provider, stream=True), 5)]
        finally:
            await provider.close()


async def test_a_stream_comes_event_by_event_its_end_marked() -> None:
    pieces = await heard(asked(), b"".join(STREAM))
    assert [piece.deltas for piece in pieces] == [(TextDelta("Hi"),), (Finish("stop"),), (Usage(9, 2),), ()]
    assert [piece.last for piece in pieces] == [False, False, True, True]
    assert {piece.raw for piece in pieces} == {b""}


async def test_a_stream_on_the_callers_wire_is_passed_on_byte_by_byte() -> None:
    pieces = await heard(as_it_came(Wire.CHAT, messages=[]), b": hello\n\n" + b"".join(STREAM))
    assert [piece.raw for piece in pieces] == STREAM


@pytest.mark.parametrize("kept", [[], STREAM[:1], [STREAM[0], STREAM[3]], [*STREAM[:2], STREAM[2][:-1]]])
async def test_a_stream_that_ends_before_its_end_was_interrupted(kept: list[bytes]) -> None:
    with pytest.raises(errors.ProviderInterrupted):
        await heard(asked(), b"".join(kept))


async def test_a_stream_that_only_leaves_out_the_last_word_is_whole() -> None:
    assert len(await heard(asked(), b"".join(STREAM[:2]))) == 2


async def test_an_event_that_is_none_may_have_been_billed_and_an_error_is_not_shown() -> None:
    with pytest.raises(errors.ProviderBadResponse):
        await heard(asked(), STREAM[0] + b"data: {\n\n")
    with pytest.raises(errors.ProviderFailed) as raised:
        await heard(asked(), b'data: {"error": {"message": "SECRET"}}\n\n')
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None


async def test_nobody_there_is_unavailable_and_not_billed() -> None:
    provider = make()
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await provider.complete(prepared(asked(), provider), 5)
    with pytest.raises(errors.ProviderUnavailable):
        await anext(provider.stream(prepared(asked(), provider, stream=True), 5))
    await provider.close()
    assert not raised.value.billed


async def test_the_models_of_a_key_are_listed() -> None:
    models = [{"id": name, "object": "model", "created": 1, "owned_by": "x"} for name in ("b", "a")]
    async with listening(orjson.dumps({"object": "list", "data": models})) as upstream:
        assert await make(upstream.url).list_models() == ["a", "b"]


async def test_listing_models_fails_as_a_call_does() -> None:
    with pytest.raises(errors.ProviderUnavailable):
        await make().list_models()
    async with listening(b"{}", 401) as upstream:
        with pytest.raises(errors.ProviderAuthFailed):
            await make(upstream.url).list_models()
