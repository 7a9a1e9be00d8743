"""The `openai` client with its defaults: embeddings and models."""

import base64
import struct
from typing import Any

import pytest
from openai import AsyncOpenAI

from journeys.clients.samples import cost_of_all
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream

MODEL = "text-embedding-3-small"


async def test_vectors_are_equal_as_numbers_and_in_base64(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream
) -> None:
    """By default the client requests base64, and decodes it."""
    texts = [f"{caller.marker} one", f"{caller.marker} two three"]
    packed = await openai.embeddings.create(model=MODEL, input=texts)
    numbers = await openai.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    requests = upstream.requests(caller.marker)
    assert [request["body"]["encoding_format"] for request in requests] == ["base64", "float"]
    assert requests[0]["body"] == {"input": texts, "model": MODEL, "encoding_format": "base64"}
    assert [one.embedding for one in packed.data] == [one.embedding for one in numbers.data]
    assert [one.index for one in packed.data] == [0, 1]
    assert packed.usage.prompt_tokens == 5
    assert await cost_of_all(caller, 2) == 10


async def test_vectors_requested_in_base64_are_returned_in_base64(openai: AsyncOpenAI, caller: ApiUser) -> None:
    answer = await openai.embeddings.create(model=MODEL, input=caller.marker, encoding_format="base64")
    packed: Any = answer.data[0].embedding
    assert isinstance(packed, str)
    assert len(struct.unpack("<8f", base64.b64decode(packed))) == 8


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
async def test_token_ids_can_be_embedded(openai: AsyncOpenAI, caller: ApiUser, tokens: Any) -> None:
    answer = await openai.embeddings.create(model=MODEL, input=tokens, dimensions=4)
    assert {len(one.embedding) for one in answer.data} == {4}
    assert len(answer.data) == (1 if isinstance(tokens[0], int) else 2)
    assert await cost_of_all(caller, 1) == 3


async def test_echo_returns_vectors(openai: AsyncOpenAI, caller: ApiUser) -> None:
    answer = await openai.embeddings.create(model="echo", input=["one two", "one two", "three"], dimensions=16)
    one, again, other = (one.embedding for one in answer.data)
    assert one == again != other
    assert len(one) == 16
    assert await cost_of_all(caller, 1) == 5


async def test_models_can_be_listed_and_retrieved(openai: AsyncOpenAI, caller: ApiUser) -> None:
    listed = [model async for model in openai.models.list()]
    names = [model.id for model in listed]
    assert {"gpt-4o-mini", "echo", "at-anthropic", "at-openai"} <= set(names)
    assert len(names) == len(set(names))
    assert {model.object for model in listed} == {"model"}
    found = await openai.models.retrieve("at-anthropic")
    assert (found.id, found.object) == ("at-anthropic", "model")
    assert await caller.charges() == []
