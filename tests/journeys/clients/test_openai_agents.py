"""`openai-agents` as it comes: an agent with a tool, over either of OpenAI's wires; tracing off by its own switch."""

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
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream, scripted

UNTRACED = RunConfig(tracing_disabled=True)
WIRES: list[Any] = [OpenAIChatCompletionsModel, OpenAIResponsesModel]
MODELS = ["gpt-4o-mini", "at-anthropic"]
CALL = {"name": "get_weather", "arguments": {"city": "Oslo"}}


@pytest.fixture
def asked_for() -> list[str]:
    """The cities that the tool was asked for."""
    return []


def agent(model: Model, asked_for: list[str]) -> Agent[None]:
    """Tells the weather with a tool, which is a plain function."""

    @as_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked_for.append(city)
        return "20 degrees"

    return Agent(name="Weather", instructions="Be brief.", model=model, tools=[get_weather])


@pytest.mark.parametrize("wire", WIRES)
async def test_runs_on_either_database(server: Server, wire: Any, asked_for: list[str]) -> None:
    """Two calls, one to hear of the tool and one with its result: two charges."""
    async with (
        person(server) as caller,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token) as client,
    ):
        prompt = scripted(caller.marker, answer=ANSWER, tool_call=CALL, usage=USAGE)
        result = await Runner.run(agent(wire("gpt-4o-mini", client), asked_for), prompt, run_config=UNTRACED)
        assert (result.final_output, asked_for) == (ANSWER, ["Oslo"])
        assert await cost_of_all(caller, 2) == 48


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wire", WIRES)
async def test_runs_with_a_tool_whole_and_streamed(
    openai: AsyncOpenAI, caller: Person, upstream: Upstream, wire: Any, model: str, asked_for: list[str]
) -> None:
    prompt = scripted(caller.marker, chunks=CHUNKS, tool_call=CALL, usage=USAGE)
    weather = agent(wire(model, openai), asked_for)
    whole = await Runner.run(weather, prompt, run_config=UNTRACED)
    streamed = Runner.run_streamed(weather, prompt, run_config=UNTRACED)
    said = [
        event.data.delta
        async for event in streamed.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert (whole.final_output, streamed.final_output) == (ANSWER, ANSWER)
    assert "".join(said).endswith(ANSWER)
    assert asked_for == ["Oslo", "Oslo"]
    assert "20 degrees" in str(upstream.seen(caller.marker)[1]["body"])
    usage = whole.context_wrapper.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (2, 30, 18)
    assert await cost_of_all(caller, 4) == 96


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wire", WIRES)
async def test_an_answer_has_the_type_that_the_agent_is_to_give(
    openai: AsyncOpenAI, caller: Person, wire: Any, model: str
) -> None:
    reporter = Agent(name="Reporter", model=wire(model, openai), output_type=Report)
    prompt = scripted(caller.marker, answer='{"city": "Oslo", "degrees": 20}')
    result = await Runner.run(reporter, prompt, run_config=UNTRACED)
    assert result.final_output == Report(city="Oslo", degrees=20)


@pytest.mark.parametrize("wire", WIRES)
async def test_settings_of_the_agent_reach_the_model(
    openai: AsyncOpenAI, caller: Person, upstream: Upstream, wire: Any
) -> None:
    settings = ModelSettings(temperature=0.5, top_p=0.9, max_tokens=50, store=False, parallel_tool_calls=None)
    quiet = Agent[None](name="Quiet", model=wire("gpt-4o-mini", openai), model_settings=settings)
    await Runner.run(quiet, scripted(caller.marker, usage=USAGE), run_config=UNTRACED)
    (seen,) = upstream.seen(caller.marker)
    assert (seen["body"]["temperature"], seen["body"]["top_p"]) == (0.5, 0.9)
    assert seen["body"].get("max_tokens", seen["body"].get("max_output_tokens")) == 50


async def test_an_agent_that_names_its_model_needs_nothing_but_the_client(openai: AsyncOpenAI, caller: Person) -> None:
    where = RunConfig(model_provider=OpenAIProvider(openai_client=openai), tracing_disabled=True)
    plain = Agent[None](name="Plain", model="gpt-4o-mini")
    result = await Runner.run(plain, scripted(caller.marker, answer=ANSWER, usage=USAGE), run_config=where)
    assert result.final_output == ANSWER
    assert (await caller.charges())[0]["surface"] == "responses"
