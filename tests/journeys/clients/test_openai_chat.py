"""The `openai` client with its defaults: chat completions."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam, ChatCompletionToolParam

from journeys.clients.samples import ANSWER, CALL, CHUNKS, PIXEL, USAGE, WEATHER, Report, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.providers import tokenizer

MODEL = "gpt-4o-mini"
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Tells.", "parameters": WEATHER}}
]


def user_messages(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("credential", ["token", "API key"])
async def test_the_client_chats_streams_and_calls_tools_on_either_database(server: Server, credential: str) -> None:
    """With the synchronous client. Each call has one charge, which is settled when the answer arrives."""
    async with new_user(server) as caller:
        api_key = caller.token if credential == "token" else (await caller.with_api_key()).token

        def run_client() -> None:
            with OpenAI(base_url=f"{server.url}/v1", api_key=api_key) as client:
                prompt = scripted(caller.marker, chunks=CHUNKS, usage=USAGE)
                whole = client.chat.completions.create(model=MODEL, messages=user_messages(prompt))
                assert whole.choices[0].message.content == ANSWER
                assert whole.usage is not None
                assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (15, 9)
                pieces = client.chat.completions.create(model=MODEL, messages=user_messages(prompt), stream=True)
                assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == ANSWER
                prompt = scripted(caller.marker, tool_call=CALL, usage=USAGE)
                called = client.chat.completions.create(model=MODEL, messages=user_messages(prompt), tools=TOOLS)
                assert called.choices[0].message.tool_calls

        await asyncio.to_thread(run_client)
        assert await cost_of_all(caller, 3) == 72


async def test_the_provider_receives_the_request_except_for_the_fields_that_we_set(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream
) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": scripted(caller.marker, usage=USAGE)},
    ]
    await openai.chat.completions.create(
        model="at-openai",
        messages=messages,
        max_completion_tokens=50,
        temperature=0.5,
        top_p=0.9,
        stop=["END"],
        seed=7,
        user="someone",
        presence_penalty=0.1,
        logit_bias={"50256": -100},
        metadata={"a": "b"},
    )
    (request,) = upstream.requests(caller.marker)
    assert request["headers"]["authorization"] == "Bearer sk-of-the-operator"
    assert request["body"].pop("user") != "someone"
    assert request["body"] == {
        "messages": messages,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 7,
        "presence_penalty": 0.1,
        "logit_bias": {"50256": -100},
        "model": "gpt-4.1-mini",
        "max_tokens": 50,
    }


async def test_the_usage_of_a_stream_is_sent_if_requested(openai: AsyncOpenAI, caller: ApiUser) -> None:
    prompt = scripted(caller.marker, chunks=CHUNKS, usage=USAGE)
    with_usage = [
        chunk
        async for chunk in await openai.chat.completions.create(
            model=MODEL, messages=user_messages(prompt), stream=True, stream_options={"include_usage": True}
        )
    ]
    without = [
        chunk
        async for chunk in await openai.chat.completions.create(
            model=MODEL, messages=user_messages(prompt), stream=True
        )
    ]
    last = with_usage[-1]
    assert last.usage is not None
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], 15, 9)
    assert [chunk.usage for chunk in with_usage[:-1]] == [None] * (len(with_usage) - 1)
    assert [chunk.usage for chunk in without] == [None] * len(without)
    assert without[-1].choices[0].finish_reason == "stop"
    assert await cost_of_all(caller, 2) == 48


async def test_the_stream_helper_assembles_the_answer(openai: AsyncOpenAI, caller: ApiUser) -> None:
    prompt = scripted(caller.marker, chunks=CHUNKS, usage=USAGE)
    async with openai.chat.completions.stream(model=MODEL, messages=user_messages(prompt)) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    assert [event.delta for event in events if event.type == "content.delta" and event.delta] == CHUNKS
    assert [event.content for event in events if event.type == "content.done"] == [ANSWER]
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (ANSWER, "stop")
    assert await cost_of_all(caller, 1) == 24


async def test_the_raw_response_has_the_headers_of_charge_and_quota(openai: AsyncOpenAI, caller: ApiUser) -> None:
    raw = await openai.chat.completions.with_raw_response.create(
        model=MODEL, messages=user_messages(scripted(caller.marker, usage=USAGE))
    )
    (charge,) = await caller.charges()
    assert raw.headers["X-Charge-ID"] == charge["id"]
    assert int(raw.headers["X-Quota-Remaining"]) == (await caller.quota())["remaining"]
    assert raw.parse().choices[0].finish_reason == "stop"
    async with openai.chat.completions.with_streaming_response.create(
        model=MODEL, messages=user_messages(scripted(caller.marker, usage=USAGE)), stream=True
    ) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Charge-ID"] == (await caller.charges())[0]["id"]
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_a_tool_is_called_and_its_result_answered(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, model: str, *, streaming: bool
) -> None:
    """Also if the model's provider speaks Anthropic's wire format."""
    messages = user_messages(scripted(caller.marker, answer=ANSWER, tool_call=CALL, usage=USAGE))
    if streaming:
        async with openai.chat.completions.stream(model=model, messages=messages, tools=TOOLS) as stream:
            first: ChatCompletion = await stream.get_final_completion()
    else:
        first = await openai.chat.completions.create(model=model, messages=messages, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == (CALL["name"], CALL["arguments"])
    messages.append(message.model_dump(exclude_none=True))  # type: ignore[arg-type]
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "20 degrees"})
    second = await openai.chat.completions.create(model=model, messages=messages, tools=TOOLS)
    assert (second.choices[0].message.content, second.choices[0].finish_reason) == (ANSWER, "stop")
    second_body = json.dumps(upstream.requests(caller.marker)[1]["body"])
    assert call.id in second_body
    assert "20 degrees" in second_body
    assert await cost_of_all(caller, 2) == 48


async def test_several_tools_are_called_at_once(openai: AsyncOpenAI, caller: ApiUser) -> None:
    calls = [CALL, {"name": "get_weather", "arguments": {"city": "Rome"}}]
    messages = user_messages(scripted(caller.marker, tool_call=calls, usage=USAGE))
    async with openai.chat.completions.stream(
        model=MODEL, messages=messages, tools=TOOLS, tool_choice="required", parallel_tool_calls=True
    ) as stream:
        final = await stream.get_final_completion()
    made = final.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments)["city"] for call in made] == ["Oslo", "Rome"]
    assert len({call.id for call in made}) == 2


@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_an_answer_is_parsed_into_the_callers_own_type(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, model: str
) -> None:
    messages = user_messages(scripted(caller.marker, answer='{"city": "Oslo", "degrees": 20}', usage=USAGE))
    whole = await openai.chat.completions.parse(model=model, messages=messages, response_format=Report)
    assert whole.choices[0].message.parsed == Report(city="Oslo", degrees=20)
    async with openai.chat.completions.stream(model=model, messages=messages, response_format=Report) as stream:
        streamed = await stream.get_final_completion()
    assert streamed.choices[0].message.parsed == Report(city="Oslo", degrees=20)
    assert all('"degrees"' in json.dumps(request["body"]) for request in upstream.requests(caller.marker))
    assert await cost_of_all(caller, 2) == 48


async def test_a_refusal_is_returned_as_a_refusal(openai: AsyncOpenAI, caller: ApiUser) -> None:
    messages = user_messages(scripted(caller.marker, refusal="I will not.", usage=USAGE))
    parsed = await openai.chat.completions.parse(model=MODEL, messages=messages, response_format=Report)
    assert (parsed.choices[0].message.refusal, parsed.choices[0].message.parsed) == ("I will not.", None)


async def test_two_choices_have_two_answers_and_twice_the_hold(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream
) -> None:
    messages = user_messages(scripted(caller.marker, answer=ANSWER))
    whole = await openai.chat.completions.create(model=MODEL, messages=messages, n=2, max_tokens=30)
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(0, ANSWER), (1, ANSWER)]
    texts = {0: "", 1: ""}
    async for chunk in await openai.chat.completions.create(
        model=MODEL, messages=messages, n=2, max_tokens=30, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: ANSWER, 1: ANSWER}
    assert {charge["granted_output"] for charge in await caller.charges()} == {60}
    assert [request["body"]["max_tokens"] for request in upstream.requests(caller.marker)] == [30, 30]
    assert {charge["output_tokens"] for charge in await caller.charges()} == {8}


async def test_log_probabilities_are_returned(openai: AsyncOpenAI, caller: ApiUser) -> None:
    messages = user_messages(scripted(caller.marker, answer=ANSWER, usage=USAGE))
    whole = await openai.chat.completions.create(model=MODEL, messages=messages, logprobs=True, top_logprobs=2)
    found = whole.choices[0].logprobs
    assert found is not None
    assert [token.token for token in found.content or []] == ["The", " weather", " is", " fine."]
    assert {len(token.top_logprobs) for token in found.content or []} == {2}


@pytest.mark.parametrize("url", [PIXEL, "https://example.com/picture.png"])
@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_a_picture_is_passed_on(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, url: str, model: str
) -> None:
    content: Any = [
        {"type": "text", "text": scripted(caller.marker, answer=ANSWER, usage=USAGE)},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    whole = await openai.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    assert whole.choices[0].message.content == ANSWER
    (request,) = upstream.requests(caller.marker)
    if model == MODEL:
        assert request["body"]["messages"][0]["content"] == content
    else:
        (picture,) = [part for part in request["body"]["messages"][0]["content"] if part["type"] == "image"]
        wanted = {"type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}
        assert picture["source"] == (wanted if url == PIXEL else {"type": "url", "url": url})


@pytest.mark.parametrize("model", ["at-anthropic", "echo"])
async def test_models_of_other_providers_chat_and_stream_alike(
    openai: AsyncOpenAI, caller: ApiUser, model: str
) -> None:
    prompt = ANSWER if model == "echo" else scripted(caller.marker, chunks=CHUNKS)
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": "Be brief."}, *user_messages(prompt)]
    whole = await openai.chat.completions.create(model=model, messages=messages, max_tokens=50)
    chunks = [
        chunk
        async for chunk in await openai.chat.completions.create(
            model=model, messages=messages, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert (whole.model, whole.choices[0].message.content, whole.choices[0].finish_reason) == (model, ANSWER, "stop")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    assert {chunk.model for chunk in chunks} == {model}
    assert whole.usage is not None
    assert chunks[-1].usage == whole.usage
    assert await cost_of_all(caller, 2) == 2 * whole.usage.total_tokens


@pytest.mark.parametrize("model", [MODEL, "at-anthropic", "echo"])
async def test_an_answer_that_is_cut_has_the_finish_reason_length(
    openai: AsyncOpenAI, caller: ApiUser, model: str
) -> None:
    words = " ".join(["word"] * 40)
    messages = user_messages(words if model == "echo" else scripted(caller.marker, answer=words))
    whole = await openai.chat.completions.create(model=model, messages=messages, max_tokens=20)
    async with openai.chat.completions.stream(model=model, messages=messages, max_tokens=20) as stream:
        async for _ in stream:
            pass
        streamed = stream.current_completion_snapshot
    assert [one.choices[0].finish_reason for one in (whole, streamed)] == ["length", "length"]
    assert [charge["output_tokens"] for charge in await caller.charges()] == [20, 20]


async def test_a_client_that_closes_a_stream_pays_input_and_what_was_received(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream
) -> None:
    prompt = scripted(caller.marker, chunks=CHUNKS, gate_after=[1, caller.marker])
    with upstream.gate(caller.marker):
        stream = await openai.chat.completions.create(
            model=MODEL, messages=user_messages(prompt), stream=True, max_tokens=50
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        async with asyncio.timeout(TEST_DEADLINE_S):
            while (charge := (await caller.charges())[0])["state"] == "dispatched":
                await asyncio.sleep(0.02)
    received = await tokenizer.count(tokenizer.DEFAULT_ENCODING, (CHUNKS[0],))
    assert (charge["state"], charge["basis"], charge["output_tokens"]) == ("settled", "counted", received)
    assert 0 < charge["input_tokens"] < charge["held"]
    assert upstream.sent(caller.marker)[0].cancelled
