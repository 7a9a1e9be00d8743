"""What the Ollama adapter sends, and how it reads what comes back."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from provider_server import listening

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Delta, Finish, Message, Options, TextDelta, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, StreamChunk, Wire
from tollkeeper.providers.ollama import OllamaProvider

NOWHERE = "http://127.0.0.1:1"
REQUEST = ChatRequest((Message("system", "Be brief."), Message("user", "Say hi")))
END = {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 2}


def make(url: str = NOWHERE) -> OllamaProvider:
    return OllamaProvider(base_url=url, timeout_s=5)


def model(provider: OllamaProvider, **facts: Any) -> Model:
    return Model("our-llama", provider, upstream="llama3.2:3b", **facts)


def prepared(options: Options, *, stream: bool = False, **facts: Any) -> PreparedCall:
    provider = make()
    question = CallInput(lambda: REQUEST._replace(options=options))
    return provider.prepare(model(provider, **facts), question, stream=stream)


def line(text: str, **fields: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    return orjson.dumps({"model": "llama3.2:3b", "message": message, "done": False, **fields}) + b"\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(), {}),
        (Options(temperature=0.5), {"temperature": 0.5}),
        (Options(stop=("}}", '"options":{'), seed=1), {"stop": ["}}", '"options":{'], "seed": 1}),
    ],
)
def test_the_limit_is_the_last_of_the_options(options: Options, said: dict[str, Any]) -> None:
    body = prepared(options).body_with_limit(77)
    assert body.endswith(b'"num_predict":77}}')
    assert orjson.loads(body) == {
        "stream": False,
        "model": "llama3.2:3b",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi"}],
        "options": said | {"num_predict": 77},
    }


def test_a_call_is_translated_whatever_wire_it_came_on() -> None:
    provider = make()
    raw = RawRequest(Wire.CHAT, {"messages": b'[{"role":"user","content":"All that came is counted."}]'}, InputSize(9))
    call = provider.prepare(model(provider), CallInput(lambda: REQUEST, raw))
    assert (call.raw, call.wire, call.input_size) == (False, None, InputSize(2))
    assert call.texts() == ("All that came is counted.",)


@pytest.mark.parametrize(
    ("question", "parameter"),
    [
        (CallInput(lambda: REQUEST, RawRequest(Wire.EMBEDDINGS, {"input": b'"a"'}, InputSize(0))), "model"),
        (CallInput(lambda: REQUEST, choices=2), "n"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(question: CallInput, parameter: str) -> None:
    provider = make()
    with pytest.raises(UnsupportedParameter) as refused:
        provider.prepare(model(provider), question)
    assert refused.value.parameter == parameter


def test_a_model_takes_only_its_own_sampling_parameters() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(Options(stop=("a",), seed=1), sampling=frozenset({"temperature"}))
    assert refused.value.parameter == "seed"
    assert prepared(Options(stop=("a",), temperature=1), sampling=frozenset({"temperature"}))


@pytest.mark.parametrize("key", ["", "guarded"])
async def test_an_answer_is_read_and_no_key_is_needed(key: str) -> None:
    async with listening(line("hi", **END)) as upstream:
        provider = OllamaProvider(base_url=upstream.url + "/", timeout_s=5, api_key=key)
        completion = await provider.complete(provider.prepare(model(provider), CallInput(lambda: REQUEST)), 5)
        await provider.close()
    path, headers, _ = upstream.asked[0]
    assert (path, headers.get("authorization")) == ("/api/chat", f"Bearer {key}" if key else None)
    assert (completion.text, completion.usage, completion.finish_reason) == ("hi", Usage(9, 2), "stop")
    assert completion.raw is None


async def test_a_stream_is_read_line_by_line() -> None:
    async with listening(line("h") + line("i") + line("", **END)) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), CallInput(lambda: REQUEST), stream=True)
        pieces = [piece async for piece in provider.stream(call, 5)]
        await provider.close()
    assert upstream.asked[0][2]["stream"] is True
    assert [piece.deltas for piece in pieces] == [
        (TextDelta("h"),),
        (TextDelta("i"),),
        (Finish("stop"), Usage(9, 2)),
    ]
    assert [piece.last for piece in pieces] == [False, False, True]


async def test_the_last_line_of_a_stream_needs_no_end() -> None:
    async with listening(line("h") + line("", **END).rstrip()) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), CallInput(lambda: REQUEST), stream=True)
        pieces = [piece async for piece in provider.stream(call, 5)]
        await provider.close()
    assert pieces[-1].deltas == (Finish("stop"), Usage(9, 2))


async def drain(pieces: AsyncIterator[StreamChunk], seen: list[Delta]) -> None:
    async for piece in pieces:
        seen += piece.deltas


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (b"", errors.ProviderInterrupted),
        (b"<html>\n", errors.ProviderBadResponse),
        (b'{"done": tr', errors.ProviderBadResponse),
        (b'{"error":"secret"}\n', errors.ProviderFailed),
    ],
)
async def test_a_stream_that_does_not_end_well_is_an_error(end: bytes, error: type[errors.ProviderError]) -> None:
    async with listening(line("h") + end) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), CallInput(lambda: REQUEST), stream=True)
        seen: list[Delta] = []
        with pytest.raises(error) as raised:
            await drain(provider.stream(call, 5), seen)
        await provider.close()
    assert seen == [TextDelta("h")]
    assert "secret" not in str(raised.value)


async def test_tokens_are_counted_with_what_the_template_takes() -> None:
    provider = make()
    request = ChatRequest((Message("user", "hello"),))
    call = provider.prepare(model(provider), CallInput(lambda: request))
    assert await provider.count_input(call) == 1 + 4 + 3
    assert (await provider.count_output("hello"), await provider.truncate_output("hello world", 1)) == (1, "hello")
