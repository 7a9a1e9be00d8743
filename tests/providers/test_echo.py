"""The echo provider: answers, streams, embeddings, limits and configured failures."""

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
    SLICE_CHARACTERS,
    EchoFailure,
    EchoProvider,
)
from tollkeeper.quota.rules.meter import input_bound


def prepared(provider: EchoProvider, *texts: str, choices: int = 1) -> PreparedCall:
    request = ChatRequest(tuple(Message("user", text) for text in texts))
    return provider.prepare(Model("echo", provider), CallInput(lambda: request, choices=choices))


async def complete(provider: EchoProvider, *texts: str, max_output: int = 100) -> Completion:
    return await provider.complete(prepared(provider, *texts), max_output)


async def test_echo_returns_the_last_message_with_one_token_per_word() -> None:
    assert await complete(EchoProvider(), "be kind", "one two  three") == Completion(
        "one two three", "stop", Usage(5, 3)
    )


async def test_echo_is_cut_at_the_output_limit_with_finish_reason_length() -> None:
    assert await complete(EchoProvider(), "one two three", max_output=2) == Completion("one two", "length", Usage(3, 2))


async def test_echo_can_have_more_tokens_than_its_prompt() -> None:
    assert await complete(EchoProvider(tokens=5), "one two") == Completion("one two one two one", "stop", Usage(2, 5))


async def test_echo_answers_an_empty_prompt() -> None:
    assert await complete(EchoProvider(), "  ") == Completion("(nothing)", "stop", Usage(1, 1))


async def test_echo_streams_the_same_answer_in_words() -> None:
    provider = EchoProvider()
    async with aclosing(provider.stream(prepared(provider, "one two three"), 2)) as stream:
        chunks = [chunk async for chunk in stream]
    deltas = [delta for chunk in chunks for delta in chunk.deltas]
    assert deltas == [TextDelta("one"), TextDelta(" two"), Finish("length"), Usage(3, 2)]
    assert [chunk.last for chunk in chunks] == [False, False, False, True]


async def test_echo_takes_the_configured_time() -> None:
    started = time.monotonic()
    await asyncio.gather(
        complete(EchoProvider(delay_s=0.1), "x"), complete(EchoProvider(tokens_per_second=20), "one two")
    )
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("failure", _FAILURES)
async def test_echo_fails_as_configured(failure: EchoFailure) -> None:
    provider = EchoProvider(failure=failure)
    with pytest.raises(_FAILURES[failure]):
        await complete(provider, "x")
    with pytest.raises(_FAILURES[failure]):
        await anext(provider.stream(prepared(provider, "x"), 10))


async def test_echo_can_omit_its_usage_report() -> None:
    provider = EchoProvider(failure="no_usage")
    assert (await complete(provider, "one two")).usage is None
    assert await provider.count_output("one two") == 2
    assert await provider.truncate_output("one two three", 2) == "one two"


def test_echo_refuses_several_choices() -> None:
    with pytest.raises(UnsupportedParameter):
        prepared(EchoProvider(), "x", choices=2)


async def test_the_input_bounds_are_never_below_the_usage_of_echo() -> None:
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


async def test_echo_embeds_texts_with_the_same_words_as_the_same_vector() -> None:
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


async def test_echo_counts_embedded_tokens_as_words() -> None:
    provider = EchoProvider()
    completion = await provider.complete(embeddings(provider, input=[[1, 2, 3], [4]]), 0)
    assert completion.usage == Usage(4, 0)


async def test_echo_embeds_in_the_requested_number_of_dimensions() -> None:
    provider = EchoProvider()
    completion = await provider.complete(embeddings(provider, input="a", dimensions=7), 0)
    assert completion.raw is not None
    assert len(CreateEmbeddingResponse.model_validate_json(completion.raw).data[0].embedding) == 7


@pytest.mark.parametrize("dimensions", [0, -1, 4097, "7", True])
async def test_echo_rejects_invalid_dimensions(dimensions: object) -> None:
    provider = EchoProvider()
    with pytest.raises(ProviderRejected):
        await provider.complete(embeddings(provider, input="a", dimensions=dimensions), 0)


async def test_echo_limits_the_numbers_of_all_vectors_of_a_call() -> None:
    provider = EchoProvider()
    max_inputs = MAX_VECTOR_NUMBERS // MAX_DIMENSIONS
    completion = await provider.complete(embeddings(provider, input=["a"] * max_inputs, dimensions=MAX_DIMENSIONS), 0)
    assert completion.usage == Usage(max_inputs, 0)
    with pytest.raises(ProviderRejected):
        await provider.complete(embeddings(provider, input=["a"] * (max_inputs + 1), dimensions=MAX_DIMENSIONS), 0)


async def test_echo_can_stream_without_a_usage_report() -> None:
    provider = EchoProvider(failure="no_usage")
    chunks = [chunk async for chunk in provider.stream(prepared(provider, "one"), 5)]
    assert [delta for chunk in chunks for delta in chunk.deltas] == [TextDelta("one"), Finish("stop")]


async def test_echo_can_be_used_after_close() -> None:
    await EchoProvider().close()
    assert (await complete(EchoProvider(), "x")).text == "x"


@pytest.mark.parametrize("around", range(-3, 4))
async def test_the_words_of_a_long_text_are_counted_across_slices(around: int) -> None:
    """Words and spaces of all lengths lie across the border of two slices."""
    provider = EchoProvider()
    for word, space in (("word", " "), ("w", "\n\u2003"), ("words", "   ")):
        text = "x" * (SLICE_CHARACTERS + around) + space + (word + space) * SLICE_CHARACTERS
        assert await provider.count_input(prepared(provider, text)) == len(text.split())
