"""Helpers of the `anthropic` client: the tool runner, parsed answers, beta features, raw events."""

import json
from collections.abc import AsyncIterator

import pytest
from anthropic import AsyncAnthropic, beta_async_tool
from anthropic.types.beta import BetaMessageParam

from journeys.clients.samples import ANSWER, CHUNKS, USAGE, Report, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream, scripted

MODELS = ["at-anthropic", "gpt-4o-mini"]
CALL = {"name": "get_weather", "arguments": {"city": "Oslo"}}


@pytest.fixture
async def anthropic(sdk_server: Server, caller: ApiUser) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=sdk_server.url, api_key=caller.token) as client:
        yield client


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_the_tool_runner_runs_a_plain_function(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream, model: str, *, streaming: bool
) -> None:
    """The runner first asks for the conversation to be stored at the provider, is refused, and continues without."""
    cities = []

    @beta_async_tool
    async def get_weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        return "20 degrees"

    prompt = scripted(caller.marker, answer=ANSWER, tool_call=CALL, usage=USAGE)
    messages: list[BetaMessageParam] = [{"role": "user", "content": prompt}]
    if streaming:
        runner = anthropic.beta.messages.tool_runner(
            model=model, max_tokens=50, tools=[get_weather], messages=messages, stream=True
        )
        async for stream in runner:
            final = await stream.get_final_message()
    else:
        whole = anthropic.beta.messages.tool_runner(model=model, max_tokens=50, tools=[get_weather], messages=messages)
        final = await whole.until_done()
    assert cities == ["Oslo"]
    assert [block.text for block in final.content if block.type == "text"] == [ANSWER]
    first, second = upstream.requests(caller.marker)
    assert "thread" not in first["body"]
    assert "20 degrees" in json.dumps(second["body"])
    assert await cost_of_all(caller, 2) == 48


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_is_parsed_into_the_callers_own_type(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream, model: str
) -> None:
    prompt = scripted(caller.marker, answer='{"city": "Oslo", "degrees": 20}', usage=USAGE)
    parsed = await anthropic.messages.parse(
        model=model, max_tokens=50, output_format=Report, messages=[{"role": "user", "content": prompt}]
    )
    assert parsed.parsed_output == Report(city="Oslo", degrees=20)
    assert '"degrees"' in json.dumps(upstream.requests(caller.marker)[0]["body"])


@pytest.mark.parametrize("model", MODELS)
async def test_beta_features_may_be_named(
    anthropic: AsyncAnthropic, caller: ApiUser, upstream: Upstream, model: str
) -> None:
    """Those that change no price are passed on to a provider with the same wire format."""
    message = await anthropic.beta.messages.create(
        model=model,
        max_tokens=50,
        betas=["interleaved-thinking-2025-05-14"],
        messages=[{"role": "user", "content": scripted(caller.marker, usage=USAGE)}],
    )
    assert message.stop_reason == "end_turn"
    passed = upstream.requests(caller.marker)[0]["headers"].get("anthropic-beta")
    assert passed == ("interleaved-thinking-2025-05-14" if model == "at-anthropic" else None)


@pytest.mark.parametrize("model", MODELS)
async def test_the_events_of_a_stream_are_those_of_the_wire(
    anthropic: AsyncAnthropic, caller: ApiUser, model: str
) -> None:
    stream = await anthropic.messages.create(
        model=model,
        max_tokens=50,
        stream=True,
        messages=[{"role": "user", "content": scripted(caller.marker, chunks=CHUNKS, usage=USAGE)}],
    )
    events = [event.type async for event in stream]
    assert events == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * len(CHUNKS),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
