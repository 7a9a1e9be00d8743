"""The offline provider is deterministic, keeps to its limits, and fails as it is told to."""

import asyncio
import math
import time
from contextlib import aclosing

import orjson
import pytest
from openai.types import CreateEmbeddingResponse

from tollkeeper.chat import ChatRequest, Completion, Finish, Message, TextDelta, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import ProviderRejected, UnsupportedParameter
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, Wire
from tollkeeper.providers.echo import (
    _FAILURES,
    DIMENSIONS,
    MAX_DIMENSIONS,
    MAX_VECTOR_NUMBERS,
    EchoFailure,
    EchoProvider,
)
from tollkeeper.quota.rules.meter import input_bound


def prepared(provider: EchoProvider, *texts: str, choices: int = 1) -> PreparedCall:
    request = ChatRequest(tuple(Message("user", text) for text in texts))
    return provider.prepare(Model("echo", provider), CallInput(lambda: request, choices=choices))


async def ask(provider: EchoProvider, *texts: str, max_output: int = 100) -> Completion:
    return await provider.complete(prepared(provider, *texts), max_output)


async def test_echo_says_the_last_message_back_one_word_a_token() -> None:
    assert await ask(EchoProvider(), "be kind", "one two  three") == Completion("one two three", "stop", Usage(5, 3))


async def test_echo_keeps_to_the_output_limit_and_says_so() -> None:
    assert await ask(EchoProvider(), "one two three", max_output=2) == Completion("one two", "length", Usage(3, 2))


async def test_echo_can_be_made_longer_than_its_prompt() -> None:
    assert await ask(EchoProvider(tokens=5), "one two") == Completion("one two one two one", "stop", Usage(2, 5))


async def test_echo_answers_silence_too() -> None:
    assert await ask(EchoProvider(), "  ") == Completion("(nothing)", "stop", Usage(1, 1))


async def test_echo_streams_the_same_answer_word_by_word() -> None:
    provider = EchoProvider()
    async with aclosing(provider.stream(prepared(provider, "one two three"), 2)) as stream:
        pieces = [piece async for piece in stream]
    said = [delta for piece in pieces for delta in piece.deltas]
    assert said == [TextDelta("one"), TextDelta(" two"), Finish("length"), Usage(3, 2)]
    assert [piece.last for piece in pieces] == [False, False, False, True]


async def test_echo_takes_the_time_it_is_told_to() -> None:
    started = time.monotonic()
    await asyncio.gather(ask(EchoProvider(delay_s=0.1), "x"), ask(EchoProvider(tokens_per_second=20), "one two"))
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("failure", _FAILURES)
async def test_echo_fails_as_it_is_told_to(failure: EchoFailure) -> None:
    provider = EchoProvider(failure=failure)
    with pytest.raises(_FAILURES[failure]):
        await ask(provider, "x")
    with pytest.raises(_FAILURES[failure]):
        await anext(provider.stream(prepared(provider, "x"), 10))


async def test_echo_can_leave_its_usage_out() -> None:
    provider = EchoProvider(failure="no_usage")
    assert (await ask(provider, "one two")).usage is None
    assert await provider.count_output("one two") == 2
    assert await provider.truncate_output("one two three", 2) == "one two"


def test_echo_has_one_answer_only() -> None:
    with pytest.raises(UnsupportedParameter):
        prepared(EchoProvider(), "x", choices=2)


async def test_the_bounds_are_never_below_what_echo_uses() -> None:
    provider = EchoProvider()
    for text in ("", "a", "a b c", "é è", " " * 50, "word " * 500):
        call = prepared(provider, text)
        used = await provider.count_input(call)
        assert used <= input_bound(used, call.input_size.messages, 0)
        assert used <= input_bound(len(call.body), call.input_size.messages, 0)


def embeddings(provider: EchoProvider, **fields: object) -> PreparedCall:
    raw = RawRequest(Wire.EMBEDDINGS, {name: orjson.dumps(value) for name, value in fields.items()}, InputSize(1))

    def read() -> ChatRequest:
        raise AssertionError("embeddings are not read as a conversation")

    return provider.prepare(Model("echo", provider), CallInput(read, raw))


async def test_echo_embeds_each_text_where_its_words_point() -> None:
    provider = EchoProvider()
    call = embeddings(provider, input=["red green", "green red", "blue"])
    completion = await provider.complete(call, 0)
    assert completion.raw is not None
    answer = CreateEmbeddingResponse.model_validate_json(completion.raw)
    red, same, blue = (one.embedding for one in answer.data)
    assert red == same != blue
    assert {len(vector) for vector in (red, blue)} == {DIMENSIONS}
    assert all(math.isclose(math.hypot(*vector), 1) for vector in (red, blue))
    assert (completion.usage, completion.text) == (Usage(2 + 2 + 1, 0), "")


async def test_echo_embeds_tokens_as_words() -> None:
    provider = EchoProvider()
    completion = await provider.complete(embeddings(provider, input=[[1, 2, 3], [4]]), 0)
    assert completion.usage == Usage(4, 0)


async def test_echo_embeds_in_as_many_dimensions_as_are_wanted() -> None:
    provider = EchoProvider()
    completion = await provider.complete(embeddings(provider, input="a", dimensions=7), 0)
    assert completion.raw is not None
    assert len(CreateEmbeddingResponse.model_validate_json(completion.raw).data[0].embedding) == 7


@pytest.mark.parametrize("dimensions", [0, -1, 4097, "7", True])
async def test_echo_rejects_dimensions_that_are_none(dimensions: object) -> None:
    provider = EchoProvider()
    with pytest.raises(ProviderRejected):
        await provider.complete(embeddings(provider, input="a", dimensions=dimensions), 0)


async def test_echo_makes_no_more_numbers_in_one_call_than_it_can_at_once() -> None:
    provider = EchoProvider()
    most = MAX_VECTOR_NUMBERS // MAX_DIMENSIONS
    completion = await provider.complete(embeddings(provider, input=["a"] * most, dimensions=MAX_DIMENSIONS), 0)
    assert completion.usage == Usage(most, 0)
    with pytest.raises(ProviderRejected):
        await provider.complete(embeddings(provider, input=["a"] * (most + 1), dimensions=MAX_DIMENSIONS), 0)


async def test_echo_streams_without_usage_when_it_leaves_that_out() -> None:
    provider = EchoProvider(failure="no_usage")
    pieces = [piece async for piece in provider.stream(prepared(provider, "one"), 5)]
    assert [delta for piece in pieces for delta in piece.deltas] == [TextDelta("one"), Finish("stop")]


async def test_echo_needs_no_closing() -> None:
    await EchoProvider().close()
    assert (await ask(EchoProvider(), "x")).text == "x"
