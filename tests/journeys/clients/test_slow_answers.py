"""SDK clients of slow providers: long silences, pings, errors after a ping, and retries after a client timeout."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from journeys.clients.recording_client import recording_client
from journeys.clients.samples import ANSWER, CHUNKS, USAGE, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.databases import new_sqlite
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.exhaustive

MODEL = "gpt-4o-mini"
LONG_S = 0.5
"""Seconds of silence, several times the interval of pings."""

ReadAnswer = Callable[[Server, ApiUser, str], Coroutine[Any, Any, str]]


async def read_chat(server: Server, caller: ApiUser, prompt: str) -> str:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    async with (
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token) as client,
        client.chat.completions.stream(model=MODEL, messages=messages) as stream,
    ):
        return (await stream.get_final_completion()).choices[0].message.content or ""


async def read_response(server: Server, caller: ApiUser, prompt: str) -> str:
    async with (
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=caller.token) as client,
        client.responses.stream(model=MODEL, input=prompt) as stream,
    ):
        return (await stream.get_final_response()).output_text


async def read_message(server: Server, caller: ApiUser, prompt: str) -> str:
    async with (
        AsyncAnthropic(base_url=server.url, api_key=caller.token) as client,
        client.messages.stream(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": prompt}]) as stream,
    ):
        return await stream.get_final_text()


@pytest.fixture(scope="module")
def pinging_server(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Any:
    """A server that sends a ping after 0.1 s of silence."""
    folder: Path = tmp_path_factory.mktemp("pinging_server")
    url = new_sqlite(folder, migrated_file)
    settings = {"OPENAI_BASE_URL": upstream.base_url, "TOLLKEEPER_STREAM_PING_SECONDS": "0.1"}
    server = Server(url, folder, settings)
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


@pytest.mark.parametrize("read_answer", [read_chat, read_response, read_message])
async def test_a_long_silence_before_and_within_an_answer_raises_no_error(
    pinging_server: Server, upstream: Upstream, read_answer: ReadAnswer
) -> None:
    async with new_user(pinging_server) as caller:
        gates = [f"{caller.marker}-{number}" for number in range(2)]
        prompt = scripted(caller.marker, chunks=CHUNKS, gate=gates[0], gate_after=[2, gates[1]], usage=USAGE)
        pending = asyncio.create_task(read_answer(pinging_server, caller, prompt))
        for gate in gates:
            with upstream.gate(gate):
                await _wait_until_at_gate(upstream, gate)
                await asyncio.sleep(LONG_S)
        assert await pending == ANSWER
        assert await cost_of_all(caller, 1) == 24


async def test_the_silence_is_filled_with_pings(pinging_server: Server, upstream: Upstream) -> None:
    async with (
        new_user(pinging_server) as caller,
        AsyncOpenAI(base_url=f"{pinging_server.url}/v1", api_key=caller.token) as client,
    ):
        prompt = scripted(caller.marker, chunks=CHUNKS, gate=caller.marker, usage=USAGE)
        with upstream.gate(caller.marker):
            async with client.chat.completions.with_streaming_response.create(
                model=MODEL, messages=[{"role": "user", "content": prompt}], stream=True
            ) as response:
                lines = response.iter_lines()
                async with asyncio.timeout(TEST_DEADLINE_S):
                    assert [await anext(lines) for _ in range(4)] == [": ping"] * 4
                upstream.open(caller.marker)
                assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert await cost_of_all(caller, 1) == 24


@pytest.mark.parametrize("read_answer", [read_chat, read_message])
async def test_a_provider_error_after_a_ping_raises(
    pinging_server: Server, upstream: Upstream, read_answer: ReadAnswer
) -> None:
    """The response has begun with the ping, so the error is an event of the stream. Nothing is charged."""
    async with new_user(pinging_server) as caller:
        prompt = scripted(caller.marker, gate=caller.marker, status=500)
        pending = asyncio.create_task(read_answer(pinging_server, caller, prompt))
        with upstream.gate(caller.marker):
            await _wait_until_at_gate(upstream, caller.marker)
            await asyncio.sleep(LONG_S)
        with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
            await pending
        assert "SECRET" not in str(caught.value)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["cost"]) == ("released", 0)


async def test_a_client_that_times_out_and_retries_with_a_key_pays_once(server: Server, upstream: Upstream) -> None:
    """The client times out and retries by itself: it gets 409 first, and the answer later."""
    async with (
        new_user(server) as caller,
        recording_client(server, caller, timeout=0.5, max_retries=20) as (client, recorded),
    ):
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, answer=ANSWER, gate=caller.marker, usage=USAGE)
            pending = asyncio.create_task(
                client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": prompt}],
                    extra_headers={"Idempotency-Key": caller.marker},
                )
            )
            async with asyncio.timeout(TEST_DEADLINE_S):
                while 409 not in recorded.statuses:
                    await asyncio.sleep(0.02)
        answer = await pending
        assert answer.choices[0].message.content == ANSWER
        assert len(upstream.requests(caller.marker)) == 1
        assert (await caller.quota())["used"] == 24


async def _wait_until_at_gate(upstream: Upstream, gate: str) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not upstream.waiting(gate):
            await asyncio.sleep(0.02)
