"""SIGTERM under load: a server says that it is not ready, drains, cuts what is left, settles all, and exits with 0."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import aiohttp
import pytest

from journeys.support.balancer import balancer
from journeys.support.endpoints import STREAMING_ENDPOINTS, ClientCall, open_call
from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.many_users import many_users
from journeys.support.server import Server
from journeys.support.users import ApiUser, http_client, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

STREAMS = 50
WORDS = "one two three four"
USAGE = {"input": 15, "output": 9}
LOOPS = 8


@pytest.mark.prove_only_on_postgres
@pytest.mark.exhaustive
@pytest.mark.exhaustive_on_postgres
async def test_a_server_with_50_streams_says_that_it_stops_drains_and_cuts_the_rest(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream
) -> None:
    """Half of the streams end in the grace period; the other half is cut at its end, and pays what was received."""
    server = make_server(
        database_url,
        OPENAI_BASE_URL=own_upstream.base_url,
        TOLLKEEPER_RATE_LIMIT_AI="off",
        TOLLKEEPER_DRAIN_SECONDS="1",
        TOLLKEEPER_GRACE_SECONDS="3",
    ).start()
    endpoint = STREAMING_ENDPOINTS[0]
    async with many_users(server, STREAMS) as users, AsyncExitStack() as stack, asyncio.timeout(TEST_DEADLINE_S):
        streams: list[ClientCall] = []
        for number, caller in enumerate(users):
            gate = "ends" if number % 2 == 0 else "stays"
            prompt = scripted(caller.marker, answer=WORDS, gate_after=[2, gate])
            streams.append(await stack.enter_async_context(open_call(caller, endpoint, prompt, "gpt-4o-mini", 50)))
        await asyncio.gather(*(stream.read_words(2) for stream in streams))
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        async with http_client(server) as http:
            while (await _status(http, "/health/ready")) == 200:
                await asyncio.sleep(0.02)
            assert await _status(http, "/health/live") == 200
            late = await users[0].query(scripted(users[0].marker, usage=USAGE))
            assert (late.status, late.headers["Connection"]) == (200, "close")
        own_upstream.open("ends")
        ends = await asyncio.gather(*(_read_to_the_end(stream) for stream in streams))
        own_upstream.open("stays")
        await stopping
    assert ends[0::2] == [WORDS] * (STREAMS // 2)
    assert ends[1::2] == ["one two"] * (STREAMS // 2)
    await assert_ledger_is_consistent(database_url)
    charges = await charges_in(database_url)
    assert len(charges) == STREAMS + 1
    assert {charge.state for charge in charges} == {"settled"}
    assert sum(charge.basis == "counted" for charge in charges) == STREAMS // 2
    assert "open holds: 0\n" in server.command("ledger", "verify")


@pytest.mark.exhaustive
async def test_a_rolling_restart_behind_a_load_balancer_loses_no_request(
    make_server: Callable[..., Server], postgres_url: str, own_upstream: Upstream
) -> None:
    settings = {
        "OPENAI_BASE_URL": own_upstream.base_url,
        "TOLLKEEPER_RATE_LIMIT_AI": "off",
        "TOLLKEEPER_DRAIN_SECONDS": "1",
    }
    servers = [make_server(postgres_url, name, **settings) for name in ("one", "two")]
    for server in servers:
        server.start()
    async with new_user(servers[0]) as caller, balancer(servers) as front, asyncio.timeout(TEST_DEADLINE_S):
        async with caller.at(front.url) as client:
            while len(front.ready) < len(servers):
                await asyncio.sleep(0.02)
            stop, statuses = asyncio.Event(), list[int]()
            loops = [asyncio.create_task(_call_until(stop, client, statuses)) for _ in range(LOOPS)]
            for server in servers:
                await asyncio.to_thread(server.stop)
                assert server not in front.ready
                await asyncio.to_thread(server.start)
                while server not in front.ready:
                    await asyncio.sleep(0.02)
            stop.set()
            await asyncio.gather(*loops)
        assert set(statuses) == {200}
        assert len(statuses) == len(await charges_in(postgres_url)) == len(own_upstream.served())
    await assert_ledger_is_consistent(postgres_url)
    for server in servers:
        server.stop()


async def test_a_connection_that_was_opened_before_new_ones_are_refused_can_send_its_request(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, TOLLKEEPER_DRAIN_SECONDS="0.1").start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        with suppress(ConnectionRefusedError):
            while True:
                _, another = await asyncio.open_connection("127.0.0.1", server.port)
                another.transport.abort()
                await asyncio.sleep(0.01)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200")
        assert "connection: close" in head.lower()
        await stopping
        writer.close()


async def _call_until(stop: asyncio.Event, caller: ApiUser, statuses: list[int]) -> None:
    """An error of the connection fails the test: a request was accepted and lost, or refused."""
    while not stop.is_set():
        reply = await caller.query(scripted(caller.marker, delay=0.1, usage=USAGE))
        statuses.append(reply.status)


async def _read_to_the_end(stream: ClientCall) -> str:
    """The text that was received until the stream ended or broke."""
    with suppress(aiohttp.ClientError, ConnectionError):
        await stream.read_all()
    return stream.answer.text


async def _status(http: aiohttp.ClientSession, path: str) -> int:
    async with http.get(path) as response:
        return response.status
