"""`langchain-openai` with its defaults."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import tiktoken
import tiktoken.registry
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import DefaultAsyncHttpxClient
from pydantic import SecretStr

from journeys.clients.samples import ANSWER, CHUNKS, USAGE, Report, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted

MODELS = ["gpt-4o-mini", "at-anthropic"]
CALL = {"name": "get_weather", "arguments": {"city": "Oslo"}}


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"20 degrees in {city}"


@pytest.fixture
def byte_vocabulary() -> Iterator[None]:
    """Replaces the vocabulary that the client fetches from the network by one in which each byte is a token."""
    ranks = {bytes([number]): number for number in range(256)}
    made = tiktoken.Encoding("cl100k_base", pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens={})
    before = dict(tiktoken.registry.ENCODINGS)
    tiktoken.registry.ENCODINGS["cl100k_base"] = made
    yield
    tiktoken.registry.ENCODINGS.clear()
    tiktoken.registry.ENCODINGS.update(before)


def chat(sdk_server: Server, caller: ApiUser, model: str = "gpt-4o-mini", **more: Any) -> ChatOpenAI:
    """The model, to be used from threads: its asynchronous connections would outlive the event loop of a test."""
    return ChatOpenAI(model=model, base_url=f"{sdk_server.url}/v1", api_key=SecretStr(caller.token), **more)


async def test_a_model_invokes_and_streams_on_either_database(server: Server) -> None:
    async with new_user(server) as caller, DefaultAsyncHttpxClient() as http:
        model = chat(server, caller, http_async_client=http)
        prompt = scripted(caller.marker, chunks=CHUNKS, usage=USAGE)
        whole = await model.ainvoke(prompt)
        pieces = [piece async for piece in model.astream(prompt)]
        assert (whole.content, "".join(str(piece.content) for piece in pieces)) == (ANSWER, ANSWER)
        assert whole.usage_metadata is not None
        assert (whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]) == (15, 9)
        assert await cost_of_all(caller, 2) == 48


@pytest.mark.parametrize("model", [*MODELS, "echo"])
async def test_a_model_invokes_and_streams(sdk_server: Server, caller: ApiUser, model: str) -> None:
    prompt = ANSWER if model == "echo" else scripted(caller.marker, chunks=CHUNKS)
    messages = [SystemMessage("Be brief."), HumanMessage(prompt)]
    plain = chat(sdk_server, caller, model, max_completion_tokens=50, temperature=0.5)
    whole = await asyncio.to_thread(plain.invoke, messages)
    streaming_model = chat(sdk_server, caller, model, stream_usage=True)
    summed: Any = None
    for piece in await asyncio.to_thread(lambda: list(streaming_model.stream(messages))):
        summed = piece if summed is None else summed + piece
    assert (whole.content, summed.content) == (ANSWER, ANSWER)
    assert whole.usage_metadata is not None
    assert summed.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]
    assert summed.response_metadata["finish_reason"] == "stop"
    assert await cost_of_all(caller, 2) == 2 * whole.usage_metadata["total_tokens"]


@pytest.mark.parametrize("over_responses", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_bound_tool_is_called_and_its_result_answered(
    sdk_server: Server, caller: ApiUser, upstream: Upstream, model: str, *, over_responses: bool
) -> None:
    bound = chat(sdk_server, caller, model, use_responses_api=over_responses).bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(scripted(caller.marker, answer=ANSWER, tool_call=CALL, usage=USAGE))]
    first = await asyncio.to_thread(bound.invoke, messages)
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    result = get_weather.invoke(call)
    second = await asyncio.to_thread(bound.invoke, [*messages, first, result])
    assert second.text == ANSWER
    assert "20 degrees in Oslo" in json.dumps(upstream.requests(caller.marker)[1]["body"])
    assert await cost_of_all(caller, 2) == 48


@pytest.mark.parametrize("model", MODELS)
async def test_a_model_streams_over_the_responses_endpoint(sdk_server: Server, caller: ApiUser, model: str) -> None:
    streaming_model = chat(sdk_server, caller, model, use_responses_api=True)
    prompt = scripted(caller.marker, chunks=CHUNKS)
    pieces = await asyncio.to_thread(lambda: list(streaming_model.stream(prompt)))
    assert "".join(piece.text for piece in pieces) == ANSWER


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("model", MODELS)
async def test_a_structured_answer_has_the_callers_own_type(
    sdk_server: Server, caller: ApiUser, model: str, method: Any
) -> None:
    report = {"city": "Oslo", "degrees": 20}
    script: dict[str, Any] = (
        {"tool_call": {"name": "Report", "arguments": report}} if method == "function_calling" else {}
    )
    prompt = scripted(caller.marker, **(script or {"answer": json.dumps(report)}))
    structured = chat(sdk_server, caller, model).with_structured_output(Report, method=method)
    assert await asyncio.to_thread(structured.invoke, prompt) == Report(city="Oslo", degrees=20)


async def test_a_batch_of_prompts_has_a_charge_for_each(sdk_server: Server, caller: ApiUser) -> None:
    prompts: list[Any] = [scripted(caller.marker, usage=USAGE, answer=f"Number {number}.") for number in range(4)]
    answers = await asyncio.to_thread(chat(sdk_server, caller).batch, prompts)
    assert [answer.content for answer in answers] == [f"Number {number}." for number in range(4)]
    assert await cost_of_all(caller, 4) == 96


@pytest.mark.usefixtures("byte_vocabulary")
async def test_embeddings_work_with_the_default_settings(
    sdk_server: Server, caller: ApiUser, upstream: Upstream
) -> None:
    """By default the client sends token ids, from a vocabulary that it fetches from the network."""
    made = embeddings(sdk_server, caller)
    before = upstream.requests_to("/v1/embeddings")
    first, second = await asyncio.to_thread(made.embed_documents, ["one", "three"])
    assert upstream.requests_to("/v1/embeddings") == before + 1
    assert first != second
    assert await asyncio.to_thread(made.embed_query, "one") == pytest.approx(first)
    assert await cost_of_all(caller, 2) == 11, "each letter is a token"


async def test_embeddings_of_texts_work_without_a_network(
    sdk_server: Server, caller: ApiUser, upstream: Upstream
) -> None:
    made = embeddings(sdk_server, caller, check_embedding_ctx_length=False)
    texts = [f"{caller.marker} one", f"{caller.marker} two"]
    vectors = await asyncio.to_thread(made.embed_documents, texts)
    assert [len(vector) for vector in vectors] == [8, 8]
    (request,) = upstream.requests(caller.marker)
    assert request["body"]["input"] == texts
    assert await cost_of_all(caller, 1) == 4


def embeddings(sdk_server: Server, caller: ApiUser, **more: Any) -> OpenAIEmbeddings:
    options: dict[str, Any] = {"base_url": f"{sdk_server.url}/v1", "api_key": SecretStr(caller.token)}
    return OpenAIEmbeddings(model="text-embedding-3-small", **options, **more)
