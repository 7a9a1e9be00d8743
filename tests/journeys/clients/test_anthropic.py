"""The `anthropic` client with its defaults, on models of Anthropic, of OpenAI, and on `echo`."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic as sdk
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from journeys.clients.samples import ANSWER, CALL, CHUNKS, PIXEL, USAGE, WEATHER, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.providers import tokenizer

AT_ANTHROPIC, AT_OPENAI = "at-anthropic", "gpt-4o-mini"
MODELS = [AT_ANTHROPIC, AT_OPENAI, "echo"]
TOOLS: list[ToolParam] = [{"name": "get_weather", "description": "Tells.", "input_schema": WEATHER}]


@pytest.fixture
async def anthropic(sdk_server: Server, caller: ApiUser) -> AsyncIterator[AsyncAnthropic]:
    """The client of `caller`, with no option but the server's URL and the credential."""
    async with AsyncAnthropic(base_url=sdk_server.url, api_key=caller.token) as client:
        yield client


def user_messages(prompt: str) -> list[MessageParam]:
    return [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("credential", ["token", "API key"])
async def test_the_client_chats_streams_and_calls_tools_on_either_database(server: Server, credential: str) -> None:
    """With the synchronous client. Each call has one charge, which is settled when the answer arrives."""
    async with new_user(server) as caller:
        api_key = caller.token if credential == "token" else (await caller.with_api_key()).token

        def run_client() -> None:
            with Anthropic(base_url=server.url, api_key=api_key) as client:
                prompt = scripted(caller.marker, chunks=CHUNKS, usage=USAGE)
                whole = client.messages.create(model=AT_OPENAI, max_tokens=50, messages=user_messages(prompt))
                assert [block.text for block in whole.content if block.type == "text"] == [ANSWER]
                with client.messages.stream(model=AT_OPENAI, max_tokens=50, messages=user_messages(prompt)) as stream:
                    assert "".join(stream.text_stream) == ANSWER
                prompt = scripted(caller.marker, tool_call=CALL, usage=USAGE)
                called = client.messages.create(
                    model=AT_OPENAI, max_tokens=50, messages=user_messages(prompt), tools=TOOLS
                )
                assert called.stop_reason == "tool_use"

        await asyncio.to_thread(run_client)
        assert await cost_of_all(caller, 3) == 72


@pytest.mark.parametrize("model", MODELS)
async def test_a_message_is_returned_whole_and_as_events(
    anthropic: AsyncAnthropic, caller: ApiUser, model: str
) -> None:
    prompt = ANSWER if model == "echo" else scripted(caller.marker, chunks=CHUNKS)
    whole = await anthropic.messages.create(
        model=model, max_tokens=50, system="Be brief.", messages=user_messages(prompt)
    )
    async with anthropic.messages.stream(
        model=model, max_tokens=50, system="Be brief.", messages=user_messages(prompt)
    ) as stream:
        pieces = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 1
    for message in (whole, final):
        assert [(block.type, block.text) for block in message.content if block.type == "text"] == [("text", ANSWER)]
        assert (message.role, message.stop_reason, message.type) == ("assistant", "end_turn", "message")
        assert message.usage.output_tokens == 4
    assert whole.usage.input_tokens == final.usage.input_tokens > 0
    assert await cost_of_all(caller, 2) == 2 * (whole.usage.input_tokens + whole.usage.output_tokens)


async def test_on_anthropics_wire_the_request_is_passed_on_unchanged(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream
) -> None:
    fields: dict[str, Any] = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": user_messages(scripted(caller.marker, usage=USAGE)),
        "stop_sequences": ["END"],
        "metadata": {"user_id": "someone"},
    }
    await anthropic.messages.create(model="claude", max_tokens=50, **fields)
    (request,) = upstream.requests(caller.marker)
    assert request["headers"]["x-api-key"] == "sk-ant-of-the-operator"
    assert caller.token not in json.dumps(request["headers"])
    assert request["body"].pop("metadata") != fields.pop("metadata")
    assert request["body"] == fields | {"model": "claude-3-5-haiku-20241022", "max_tokens": 50}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", [AT_ANTHROPIC, AT_OPENAI])
async def test_a_tool_is_called_and_its_result_answered(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream, model: str, *, streaming: bool
) -> None:
    messages = user_messages(scripted(caller.marker, answer=ANSWER, tool_call=CALL, usage=USAGE))
    if streaming:
        async with anthropic.messages.stream(model=model, max_tokens=50, messages=messages, tools=TOOLS) as stream:
            first: Any = await stream.get_final_message()
    else:
        first = await anthropic.messages.create(model=model, max_tokens=50, messages=messages, tools=TOOLS)
    assert first.stop_reason == "tool_use"
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert (call.name, call.input) == (CALL["name"], CALL["arguments"])
    messages.append({"role": "assistant", "content": first.content})
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "20 degrees"}
    messages.append({"role": "user", "content": [result]})
    second = await anthropic.messages.create(model=model, max_tokens=50, messages=messages, tools=TOOLS)
    assert [block.text for block in second.content if block.type == "text"] == [ANSWER]
    second_body = json.dumps(upstream.requests(caller.marker)[1]["body"])
    assert call.id in second_body
    assert "20 degrees" in second_body
    assert await cost_of_all(caller, 2) == 48


@pytest.mark.parametrize("model", [AT_ANTHROPIC, AT_OPENAI])
async def test_a_picture_is_passed_on(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream, model: str
) -> None:
    data = PIXEL.partition(",")[2]
    content: Any = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "text", "text": scripted(caller.marker, answer=ANSWER)},
    ]
    message = await anthropic.messages.create(
        model=model, max_tokens=50, messages=[{"role": "user", "content": content}]
    )
    assert message.stop_reason == "end_turn"
    (request,) = upstream.requests(caller.marker)
    picture = request["body"]["messages"][0]["content"][0]
    assert picture == (content[0] if model == AT_ANTHROPIC else {"type": "image_url", "image_url": {"url": PIXEL}})


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_that_is_cut_has_the_stop_reason_max_tokens(
    anthropic: AsyncAnthropic, caller: ApiUser, model: str
) -> None:
    words = " ".join(["word"] * 40)
    messages = user_messages(words if model == "echo" else scripted(caller.marker, answer=words))
    whole = await anthropic.messages.create(model=model, max_tokens=20, messages=messages)
    async with anthropic.messages.stream(model=model, max_tokens=20, messages=messages) as stream:
        streamed = await stream.get_final_message()
    assert (whole.stop_reason, streamed.stop_reason) == ("max_tokens", "max_tokens")
    assert [charge["output_tokens"] for charge in await caller.charges()] == [20, 20]


async def test_a_provider_that_exceeds_the_limit_is_cut_within_its_own_content_blocks(
    anthropic: AsyncAnthropic, caller: ApiUser
) -> None:
    messages = user_messages(scripted(caller.marker, reasoning="I think so.", over_generate=200))
    async with anthropic.messages.stream(model=AT_ANTHROPIC, max_tokens=20, messages=messages) as stream:
        stops = [event.index async for event in stream if event.type == "content_block_stop"]
        final = await stream.get_final_message()
    assert (stops, final.stop_reason) == ([0, 1], "max_tokens")
    (charge,) = await caller.charges()
    assert charge["cost"] == final.usage.input_tokens + final.usage.output_tokens


@pytest.mark.parametrize("model", MODELS)
async def test_counting_tokens_costs_nothing(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream, model: str
) -> None:
    text = f"{caller.marker} How many tokens is this?"
    counted = await anthropic.messages.count_tokens(model=model, messages=user_messages(text))
    longer = await anthropic.messages.count_tokens(
        model=model, messages=user_messages(text), system="Be brief.", tools=TOOLS
    )
    assert counted.input_tokens > 0
    assert longer.input_tokens > counted.input_tokens
    if model != "echo":
        words = await tokenizer.count(tokenizer.DEFAULT_ENCODING, (text,))
        assert words <= counted.input_tokens <= words + 10
    assert upstream.requests(caller.marker) == await caller.charges() == []


async def test_a_token_is_accepted_as_a_bearer_token_too(sdk_server: Server, caller: ApiUser) -> None:
    async with AsyncAnthropic(base_url=sdk_server.url, auth_token=caller.token, api_key=None) as client:
        message = await client.messages.create(model="echo", max_tokens=50, messages=user_messages("one two"))
    assert message.stop_reason == "end_turn"
    assert await cost_of_all(caller, 1) == 4


async def test_errors_are_raised_as_the_clients_error_types(
    sdk_server: Server, anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream
) -> None:
    async with AsyncAnthropic(base_url=sdk_server.url, api_key="wrong") as stranger:
        with pytest.raises(sdk.AuthenticationError) as unknown:
            await stranger.messages.create(model=AT_ANTHROPIC, max_tokens=50, messages=user_messages("x"))
        with pytest.raises(sdk.AuthenticationError):
            await stranger.messages.count_tokens(model=AT_ANTHROPIC, messages=user_messages("x"))
    assert _type(unknown.value) == "authentication_error"
    with pytest.raises(sdk.NotFoundError) as absent:
        await anthropic.messages.create(model="no-such-model", max_tokens=50, messages=user_messages("x"))
    assert _type(absent.value) == "not_found_error"
    with pytest.raises(sdk.BadRequestError) as refused:
        await anthropic.messages.create(
            model=AT_ANTHROPIC, max_tokens=50, messages=user_messages(caller.marker), extra_body={"shiny": True}
        )
    assert _type(refused.value) == "invalid_request_error"
    assert "shiny" in refused.value.message
    with pytest.raises(sdk.BadRequestError) as rejected:
        await anthropic.messages.create(
            model=AT_ANTHROPIC, max_tokens=50, messages=user_messages(scripted(caller.marker, status=400))
        )
    assert "SECRET" not in str(rejected.value.body)
    assert (await caller.quota())["used"] == 0


async def test_a_used_up_quota_is_not_retried(sdk_server: Server, upstream: Upstream) -> None:
    """Although the client retries by default."""
    async with (
        new_user(sdk_server, limit=20) as user,
        AsyncAnthropic(base_url=sdk_server.url, api_key=user.token) as client,
    ):
        with pytest.raises(sdk.RateLimitError) as caught:
            await client.messages.create(model=AT_ANTHROPIC, max_tokens=50, messages=user_messages(user.marker))
        assert _type(caught.value) == "rate_limit_error"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.request.headers["x-stainless-retry-count"] == "0"
        assert upstream.requests(user.marker) == await user.charges() == []


@pytest.mark.parametrize("model", [AT_ANTHROPIC, AT_OPENAI])
@pytest.mark.parametrize("fault", [{"reset_after": 2}, {"error_after": 2}])
async def test_a_stream_that_breaks_raises(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream, model: str, fault: dict[str, Any]
) -> None:
    prompt = scripted(caller.marker, chunks=["one ", "two ", "three "], **fault)
    async with anthropic.messages.stream(model=model, max_tokens=50, messages=user_messages(prompt)) as stream:
        with pytest.raises(sdk.APIError) as caught:
            await stream.get_final_message()
    assert "SECRET" not in str(caught.value.body)
    (charge,) = await caller.charges()
    assert (charge["state"], charge["basis"]) == ("settled", "counted")
    assert len(upstream.requests(caller.marker)) == 1


async def test_a_call_that_may_have_been_billed_is_not_retried(
    sdk_short_timeout_server: Server, upstream: Upstream
) -> None:
    async with (
        new_user(sdk_short_timeout_server) as caller,
        AsyncAnthropic(base_url=sdk_short_timeout_server.url, api_key=caller.token) as client,
    ):
        with upstream.gate(caller.marker), pytest.raises(sdk.InternalServerError) as caught:
            await client.messages.create(
                model=AT_ANTHROPIC,
                max_tokens=50,
                messages=user_messages(scripted(caller.marker, gate_after_log=caller.marker)),
            )
        assert len(upstream.requests(caller.marker)) == len(await caller.charges()) == 1
    assert caught.value.status_code == 504
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"


async def test_a_call_with_the_same_key_is_made_once(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream
) -> None:
    prompt, key = scripted(caller.marker, usage=USAGE), {"Idempotency-Key": caller.marker}
    first, again = [
        await anthropic.messages.create(
            model=AT_ANTHROPIC, max_tokens=50, messages=user_messages(prompt), extra_headers=key
        )
        for _ in range(2)
    ]
    assert first == again
    assert len(upstream.requests(caller.marker)) == 1
    assert (await caller.quota())["used"] == 24


async def test_thinking_is_returned(anthropic: AsyncAnthropic, caller: ApiUser) -> None:
    prompt = scripted(caller.marker, reasoning="I think so.", answer=ANSWER, usage=USAGE)
    async with anthropic.messages.stream(
        model=AT_ANTHROPIC,
        max_tokens=2000,
        messages=user_messages(prompt),
        thinking={"type": "enabled", "budget_tokens": 1024},
    ) as stream:
        final = await stream.get_final_message()
    thought, text = final.content
    assert (thought.type, text.type) == ("thinking", "text")
    assert thought.type == "thinking"
    assert (thought.thinking, bool(thought.signature)) == ("I think so.", True)
    assert await cost_of_all(caller, 1) == 24


async def test_the_models_are_listed(anthropic: AsyncAnthropic, caller: ApiUser) -> None:
    listed = [model async for model in anthropic.models.list()]
    assert {"at-anthropic", "echo"} <= {model.id for model in listed}
    assert {model.type for model in listed} == {"model"}
    assert (await anthropic.models.retrieve("at-anthropic")).id == "at-anthropic"


def _type(error: sdk.APIStatusError) -> str:
    body: Any = error.body
    assert body["type"] == "error"
    return str(body["error"]["type"])


async def test_every_answer_and_every_error_has_a_request_id_which_is_the_correlation_id(
    anthropic: AsyncAnthropic,
) -> None:
    known = {"X-Correlation-ID": "my-request.1"}
    whole = await anthropic.messages.create(
        model="echo", max_tokens=9, messages=user_messages("hello"), extra_headers=known
    )
    assert whole._request_id == "my-request.1"
    with pytest.raises(sdk.BadRequestError) as refused:
        await anthropic.messages.create(model="echo", max_tokens=9, messages=[], extra_headers=known)
    assert refused.value.request_id == "my-request.1"
