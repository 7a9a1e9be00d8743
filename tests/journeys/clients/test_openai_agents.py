"""`openai-agents` with its defaults: an agent with a tool, on either of OpenAI's wires, with tracing disabled."""

from typing import Any

import pytest
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIProvider,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
)
from agents import function_tool as as_tool
from openai import AsyncOpenAI

from journeys.clients.samples import ANSWER, CHUNKS, USAGE, Report, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted

UNTRACED = RunConfig(tracing_disabled=True)
WIRES: list[Any] = [OpenAIChatCompletionsModel, OpenAIResponsesModel]
MODELS = ["gpt-4o-mini", "at-anthropic"]
CALL = {"name": "get_weather", "arguments": {"city": "Oslo"}}


@pytest.fixture
def cities() -> list[str]:
    """The cities that the tool was called with."""
    return []


def agent(model: Model, cities: list[str]) -> Agent[None]:
    """An agent with a tool that is a plain function."""

    @as_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        return "20 degrees"

    return Agent(name="Weather", instructions="Be brief.", model=model, tools=[get_weather])


@pytest.mark.parametrize("wire", WIRES)
async def test_an_agent_runs_on_either_database(server: Server, wire: Any, cities: list[str]) -> None:
    """Two calls and two charges: one returns the tool call, one gets its result."""
    async with (
        new_user(server) as caller,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token) as client,
    ):
        prompt = scripted(caller.marker, answer=ANSWER, tool_call=CALL, usage=USAGE)
        result = await Runner.run(agent(wire("gpt-4o-mini", client), cities), prompt, run_config=UNTRACED)
        assert (result.final_output, cities) == (ANSWER, ["Oslo"])
        assert await cost_of_all(caller, 2) == 48


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wire", WIRES)
async def test_an_agent_runs_with_a_tool_whole_and_streamed(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, wire: Any, model: str, cities: list[str]
) -> None:
    prompt = scripted(caller.marker, chunks=CHUNKS, tool_call=CALL, usage=USAGE)
    weather = agent(wire(model, openai), cities)
    whole = await Runner.run(weather, prompt, run_config=UNTRACED)
    streamed = Runner.run_streamed(weather, prompt, run_config=UNTRACED)
    deltas = [
        event.data.delta
        async for event in streamed.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert (whole.final_output, streamed.final_output) == (ANSWER, ANSWER)
    assert "".join(deltas).endswith(ANSWER)
    assert cities == ["Oslo", "Oslo"]
    assert "20 degrees" in str(upstream.requests(caller.marker)[1]["body"])
    usage = whole.context_wrapper.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (2, 30, 18)
    assert await cost_of_all(caller, 4) == 96


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wire", WIRES)
async def test_an_answer_has_the_output_type_of_the_agent(
    openai: AsyncOpenAI, caller: ApiUser, wire: Any, model: str
) -> None:
    reporter = Agent(name="Reporter", model=wire(model, openai), output_type=Report)
    prompt = scripted(caller.marker, answer='{"city": "Oslo", "degrees": 20}')
    result = await Runner.run(reporter, prompt, run_config=UNTRACED)
    assert result.final_output == Report(city="Oslo", degrees=20)


@pytest.mark.parametrize("wire", WIRES)
async def test_the_settings_of_an_agent_are_sent_to_the_provider(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, wire: Any
) -> None:
    settings = ModelSettings(temperature=0.5, top_p=0.9, max_tokens=50, store=False, parallel_tool_calls=None)
    quiet = Agent[None](name="Quiet", model=wire("gpt-4o-mini", openai), model_settings=settings)
    await Runner.run(quiet, scripted(caller.marker, usage=USAGE), run_config=UNTRACED)
    (request,) = upstream.requests(caller.marker)
    assert (request["body"]["temperature"], request["body"]["top_p"]) == (0.5, 0.9)
    assert request["body"].get("max_tokens", request["body"].get("max_output_tokens")) == 50


async def test_an_agent_with_a_model_name_needs_only_the_client(openai: AsyncOpenAI, caller: ApiUser) -> None:
    config = RunConfig(model_provider=OpenAIProvider(openai_client=openai), tracing_disabled=True)
    plain = Agent[None](name="Plain", model="gpt-4o-mini")
    result = await Runner.run(plain, scripted(caller.marker, answer=ANSWER, usage=USAGE), run_config=config)
    assert result.final_output == ANSWER
    assert (await caller.charges())[0]["surface"] == "responses"
