"""Clients that wait: for a provider that is silent for long, and not for longer than they want to."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from databases import new_sqlite
from journeys.clients.recording_client import watched
from journeys.clients.samples import ANSWER, CHUNKS, USAGE, cost_of_all
from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

MODEL = "gpt-4o-mini"
LONG_S = 0.5
"""Much longer than it takes until the first ping."""

Hearing = Callable[[Server, Person, str], Coroutine[Any, Any, str]]


async def by_chat(server: Server, caller: Person, prompt: str) -> str:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    async with (
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token) as client,
        client.chat.completions.stream(model=MODEL, messages=messages) as stream,
    ):
        return (await stream.get_final_completion()).choices[0].message.content or ""


async def by_response(server: Server, caller: Person, prompt: str) -> str:
    async with (
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token) as client,
        client.responses.stream(model=MODEL, input=prompt) as stream,
    ):
        return (await stream.get_final_response()).output_text


async def by_message(server: Server, caller: Person, prompt: str) -> str:
    async with (
        AsyncAnthropic(base_url=server.url, api_key=caller.token) as client,
        client.messages.stream(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": prompt}]) as stream,
    ):
        return await stream.get_final_text()


@pytest.fixture(scope="module")
def pinging(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Any:
    """A server that sends a ping after a moment of silence."""
    folder: Path = tmp_path_factory.mktemp("pinging")
    url = new_sqlite(folder, migrated_file)
    settings = {"OPENAI_BASE_URL": upstream.base_url, "TOLLKEEPER_STREAM_PING_SECONDS": "0.1"}
    server = Server(url, folder, settings)
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


@pytest.mark.parametrize("hear", [by_chat, by_response, by_message])
async def test_a_long_silence_before_and_within_an_answer_is_not_noticed(
    pinging: Server, upstream: Upstream, hear: Hearing
) -> None:
    async with person(pinging) as caller:
        gates = [f"{caller.marker}-{number}" for number in range(2)]
        prompt = scripted(caller.marker, chunks=CHUNKS, gate=gates[0], gate_after=[2, gates[1]], usage=USAGE)
        hearing = asyncio.create_task(hear(pinging, caller, prompt))
        for gate in gates:
            with upstream.gate(gate):
                await _waits_at(upstream, gate)
                await asyncio.sleep(LONG_S)
        assert await hearing == ANSWER
        assert await cost_of_all(caller, 1) == 24


async def test_the_silence_is_filled_with_pings(pinging: Server, upstream: Upstream) -> None:
    async with person(pinging) as caller, AsyncOpenAI(base_url=f"{pinging.url}/v1", api_key=caller.token) as client:
        prompt = scripted(caller.marker, chunks=CHUNKS, gate=caller.marker, usage=USAGE)
        with upstream.gate(caller.marker):
            async with client.chat.completions.with_streaming_response.create(
                model=MODEL, messages=[{"role": "user", "content": prompt}], stream=True
            ) as response:
                lines = response.iter_lines()
                async with asyncio.timeout(PATIENCE_S):
                    assert [await anext(lines) for _ in range(4)] == [": ping", ""] * 2
                upstream.open(caller.marker)
                assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert await cost_of_all(caller, 1) == 24


@pytest.mark.parametrize("hear", [by_chat, by_message])
async def test_a_provider_that_fails_after_a_ping_raises_all_the_same(
    pinging: Server, upstream: Upstream, hear: Hearing
) -> None:
    """The answer has begun with the ping, so the failure is an event of it. Nothing was said, and nothing is paid."""
    async with person(pinging) as caller:
        prompt = scripted(caller.marker, gate=caller.marker, status=500)
        hearing = asyncio.create_task(hear(pinging, caller, prompt))
        with upstream.gate(caller.marker):
            await _waits_at(upstream, caller.marker)
            await asyncio.sleep(LONG_S)
        with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
            await hearing
        assert "SECRET" not in str(caught.value)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["cost"]) == ("released", 0)


async def test_whoever_loses_patience_and_asks_again_with_a_key_pays_once(server: Server, upstream: Upstream) -> None:
    """The client gives up waiting and asks again, by itself: first to be told to wait, then to get the answer."""
    async with (
        person(server) as caller,
        watched(server, caller, timeout=0.5, max_retries=20) as (client, watch),
    ):
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, answer=ANSWER, gate=caller.marker, usage=USAGE)
            asking = asyncio.create_task(
                client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": prompt}],
                    extra_headers={"Idempotency-Key": caller.marker},
                )
            )
            async with asyncio.timeout(PATIENCE_S):
                while 409 not in watch.heard:
                    await asyncio.sleep(0.02)
        answer = await asking
        assert answer.choices[0].message.content == ANSWER
        assert len(upstream.seen(caller.marker)) == 1
        assert (await caller.quota())["used"] == 24


async def _waits_at(upstream: Upstream, gate: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not upstream.waiting(gate):
            await asyncio.sleep(0.02)
