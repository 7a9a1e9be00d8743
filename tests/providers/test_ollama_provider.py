"""The requests that the Ollama provider sends, and how it reads answers and streams."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from support.provider_server import serve_answer
from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Delta, Finish, Message, Options, TextDelta, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, StreamChunk, Wire
from tollkeeper.providers.ollama import OllamaProvider

UNREACHABLE_URL = "http://127.0.0.1:1"
REQUEST = ChatRequest((Message("system", "Be brief."), Message("user", "Say hi")))
END = {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 2}


def make(url: str = UNREACHABLE_URL) -> OllamaProvider:
    return OllamaProvider(base_url=url, timeout_s=5)


def model(provider: OllamaProvider, **traits: Any) -> Model:
    return Model("our-llama", provider, upstream="llama3.2:3b", **traits)


def prepared(options: Options, *, stream: bool = False, **traits: Any) -> PreparedCall:
    provider = make()
    call_input = CallInput(lambda: REQUEST._replace(options=options))
    return provider.prepare(model(provider, **traits), call_input, stream=stream)


def line(text: str, **fields: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    return orjson.dumps({"model": "llama3.2:3b", "message": message, "done": False, **fields}) + b"\n"


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (Options(), {}),
        (Options(temperature=0.5), {"temperature": 0.5}),
        (Options(stop=("}}", '"options":{'), seed=1), {"stop": ["}}", '"options":{'], "seed": 1}),
    ],
)
def test_the_output_limit_is_the_last_of_the_options(options: Options, written: dict[str, Any]) -> None:
    body = prepared(options).body_with_limit(77)
    assert body.endswith(b'"num_predict":77}}')
    assert orjson.loads(body) == {
        "stream": False,
        "model": "llama3.2:3b",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi"}],
        "options": written | {"num_predict": 77},
    }


def test_a_request_of_any_wire_is_translated() -> None:
    provider = make()
    raw = RawRequest(Wire.CHAT, {"messages": b'[{"role":"user","content":"Every message is counted."}]'}, InputSize(9))
    call = provider.prepare(model(provider), CallInput(lambda: REQUEST, raw))
    assert (call.raw, call.wire, call.input_size) == (False, None, InputSize(2))
    assert call.texts() == ("Every message is counted.",)


@pytest.mark.parametrize(
    ("call_input", "parameter"),
    [
        (CallInput(lambda: REQUEST, RawRequest(Wire.EMBEDDINGS, {"input": b'"a"'}, InputSize(0))), "model"),
        (CallInput(lambda: REQUEST, choices=2), "n"),
    ],
)
def test_embeddings_and_several_choices_are_refused(call_input: CallInput, parameter: str) -> None:
    provider = make()
    with pytest.raises(UnsupportedParameter) as refused:
        provider.prepare(model(provider), call_input)
    assert refused.value.parameter == parameter


def test_a_sampling_parameter_that_the_model_does_not_accept_is_refused() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(Options(stop=("a",), seed=1), sampling=frozenset({"temperature"}))
    assert refused.value.parameter == "seed"
    assert prepared(Options(stop=("a",), temperature=1), sampling=frozenset({"temperature"}))


@pytest.mark.parametrize("key", ["", "guarded"])
async def test_an_answer_is_read_with_or_without_an_api_key(key: str) -> None:
    async with serve_answer(line("hi", **END)) as upstream:
        provider = OllamaProvider(base_url=upstream.url + "/", timeout_s=5, api_key=key)
        completion = await provider.complete(provider.prepare(model(provider), CallInput(lambda: REQUEST)), 5)
        await provider.close()
    path, headers, _ = upstream.requests[0]
    assert (path, headers.get("authorization")) == ("/api/chat", f"Bearer {key}" if key else None)
    assert (completion.text, completion.usage, completion.finish_reason) == ("hi", Usage(9, 2), "stop")
    assert completion.raw is None


async def test_the_lines_of_a_stream_that_arrive_together_are_a_chunk_and_the_last_is_another() -> None:
    async with serve_answer(line("h") + line("i") + line("", **END)) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), CallInput(lambda: REQUEST), stream=True)
        chunks = [chunk async for chunk in provider.stream(call, 5)]
        await provider.close()
    assert upstream.requests[0][2]["stream"] is True
    assert [chunk.deltas for chunk in chunks] == [(TextDelta("h"), TextDelta("i")), (Finish("stop"), Usage(9, 2))]
    assert [chunk.last for chunk in chunks] == [False, True]


async def test_the_last_line_of_a_stream_needs_no_newline() -> None:
    async with serve_answer(line("h") + line("", **END).rstrip()) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), CallInput(lambda: REQUEST), stream=True)
        chunks = [chunk async for chunk in provider.stream(call, 5)]
        await provider.close()
    assert chunks[-1].deltas == (Finish("stop"), Usage(9, 2))


async def collect(chunks: AsyncIterator[StreamChunk], deltas: list[Delta]) -> None:
    async for chunk in chunks:
        deltas += chunk.deltas


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (b"", errors.ProviderInterrupted),
        (b"<html>\n", errors.ProviderBadResponse),
        (b'{"done": tr', errors.ProviderBadResponse),
        (b'{"error":"secret"}\n', errors.ProviderFailed),
    ],
)
async def test_a_stream_that_is_cut_malformed_or_failed_raises_an_error(
    end: bytes, error: type[errors.ProviderError]
) -> None:
    async with serve_answer(line("h") + end) as upstream:
        provider = make(upstream.url)
        call = provider.prepare(model(provider), CallInput(lambda: REQUEST), stream=True)
        deltas: list[Delta] = []
        with pytest.raises(error) as raised:
            await collect(provider.stream(call, 5), deltas)
        await provider.close()
    assert deltas == [TextDelta("h")]
    assert "secret" not in str(raised.value)


async def test_the_input_count_includes_the_chat_template() -> None:
    provider = make()
    request = ChatRequest((Message("user", "hello"),))
    call = provider.prepare(model(provider), CallInput(lambda: request))
    assert await provider.count_input(call) == 1 + 4 + 3
    assert (await provider.count_output("hello"), await provider.truncate_output("hello world", 1)) == (1, "hello")
