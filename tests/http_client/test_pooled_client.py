"""The pool over real sockets: each response belongs to its request, and no connection is kept that could mix them."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohappyeyeballs import AddrInfoType
from hypothesis import given, settings
from hypothesis import strategies as st

from http_client.scripted_server import Peer, Script, Server, echo, response, serving
from support.depth import examples
from tollkeeper.providers.http import pooled_client, pooled_response
from tollkeeper.providers.http.base import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    HttpError,
    MalformedResponse,
)
from tollkeeper.providers.http.connector import Connector
from tollkeeper.providers.http.pooled_client import PooledClient

MAX_BYTES = 1_000_000


@asynccontextmanager
async def client_of(script: Script) -> AsyncIterator[tuple[Server, PooledClient]]:
    async with serving(script) as server:
        client = PooledClient(server.url, {"X-Key": "secret"}, connect_s=5)
        try:
            yield server, client
        finally:
            await client.close()


async def post(client: PooledClient, body: bytes, total_s: float | None = None) -> bytes:
    response = await client.post("/x", body, total_s=total_s, max_bytes=MAX_BYTES)
    try:
        return await response.whole()
    finally:
        response.close()


async def test_calls_one_after_the_other_share_a_connection() -> None:
    async with client_of(echo) as (server, client):
        assert [await post(client, b"%d" % number) for number in range(5)] == [b"%d" % number for number in range(5)]
        assert server.accepted == 1


async def test_calls_at_once_have_a_connection_each_and_the_connections_are_used_again() -> None:
    async with client_of(echo) as (server, client):
        bodies = [b"%d" % number for number in range(50)]
        for _ in range(3):
            assert await asyncio.gather(*[post(client, body) for body in bodies]) == bodies
        assert server.accepted == 50


async def test_a_large_body_is_sent_and_received_whole() -> None:
    async with client_of(echo) as (_, client):
        body = random.Random(1).randbytes(MAX_BYTES)
        assert await post(client, body) == body


async def test_closing_the_client_closes_every_connection() -> None:
    async with client_of(echo) as (server, client):
        await asyncio.gather(*[post(client, b"x") for _ in range(5)])
        await client.close()
        await server.wait_until_closed()


async def drip(peer: Peer) -> None:
    while True:
        body = await peer.request()
        for byte in response(body):
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)


async def test_a_response_that_arrives_byte_by_byte_is_read() -> None:
    async with client_of(drip) as (server, client):
        assert [await post(client, b"one"), await post(client, b"two")] == [b"one", b"two"]
        assert server.accepted == 1


async def test_a_deadline_ends_a_call_and_its_connection() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read()

    async with client_of(silent) as (server, client):
        with pytest.raises(DeadlineExceeded):
            await post(client, b"x", total_s=0.05)
        await server.wait_until_closed()


async def test_after_a_stall_of_the_loop_what_has_arrived_is_read_before_the_deadline_ends_the_call() -> None:
    async def in_two_parts(peer: Peer) -> None:
        while True:
            sent = response(await peer.request())
            await peer.send(sent[:-1])
            await expired.wait()
            await peer.send(sent[-1:])

    async with client_of(in_two_parts) as (_, client):
        for late_s in (10.0, 0.0):
            expired = asyncio.Event()
            received = await client.post("/x", b"hello")
            received._expire(asyncio.get_running_loop().time() - late_s)
            expired.set()
            if late_s:
                assert await received.whole() == b"hello"
            else:
                with pytest.raises(DeadlineExceeded):
                    await received.whole()


async def test_a_kept_connection_that_the_server_has_closed_is_not_used() -> None:
    async def once(peer: Peer) -> None:
        await peer.answer(await peer.request())

    async with client_of(once) as (server, client):
        for number in range(5):
            assert await post(client, b"%d" % number) == b"%d" % number
            await server.wait_until_closed()
        assert server.accepted == 5


async def test_a_kept_connection_on_which_the_server_sends_unasked_is_not_used() -> None:
    async def twice(peer: Peer) -> None:
        await peer.answer(await peer.request())
        await peer.send(response(b"not asked for"))
        sent.set()
        await peer.request()
        await peer.answer(b"of the wrong connection")

    async with client_of(twice) as (server, client):
        for number in range(3):
            sent = asyncio.Event()
            assert await post(client, b"%d" % number) == b"%d" % number
            await sent.wait()
        assert server.accepted == 3


async def test_the_keep_alive_of_the_server_is_respected() -> None:
    async def short(peer: Peer) -> None:
        while True:
            await peer.answer(await peer.request(), b"Keep-Alive: max=9, timeout=1")

    async with client_of(short) as (server, client):
        await post(client, b"x")
        await post(client, b"x")
        await server.wait_until_closed()
        assert server.accepted == 2


async def test_idle_connections_are_closed_after_a_time_and_old_ones_get_no_further_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pooled_client, "SWEEP_INTERVAL_S", 0.01)
    monkeypatch.setattr(pooled_client, "KEEP_ALIVE_S", 0.02)
    async with client_of(echo) as (server, client):
        await post(client, b"x")
        await server.wait_until_closed()
        monkeypatch.setattr(pooled_client, "MAX_AGE_S", 0.0)
        await post(client, b"x")
        await server.wait_until_closed()


async def test_a_limited_number_of_connections_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_client, "MAX_KEPT", 3)
    async with client_of(echo) as (server, client):
        await asyncio.gather(*[post(client, b"x") for _ in range(10)])
        while len(server.open) > 3:
            await asyncio.sleep(0.005)


async def test_a_request_is_sent_again_if_a_kept_connection_ended_before_its_last_byte_was_written() -> None:
    received: list[int] = []

    async def script(peer: Peer) -> None:
        received.append(len(await peer.request()))
        await peer.answer(b"%d" % peer.number)
        if peer.number == 1:
            await peer.reader.readexactly(1)
            peer.reset()

    async with client_of(script) as (server, client):
        assert await post(client, b"x") == b"1"
        assert await post(client, b"x" * 30_000_000) == b"2"
        assert (received, server.accepted) == ([1, 30_000_000], 2)


async def test_a_new_connection_that_ends_before_the_last_byte_was_written_is_an_error_of_its_own() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(1)
        peer.reset()

    async with client_of(script) as (server, client):
        with pytest.raises(ConnectFailed):
            await post(client, b"x" * 30_000_000)
        assert server.accepted == 1


async def test_a_request_that_was_written_is_not_sent_again_when_the_connection_ends() -> None:
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.answer(await peer.request())
        received.append(await peer.request())

    async with client_of(script) as (server, client):
        await post(client, b"first")
        with pytest.raises(ConnectionLost):
            await post(client, b"second")
        assert (received, server.accepted) == ([b"second"], 1)


async def test_a_response_before_the_request_was_sent_is_read_and_the_connection_is_closed() -> None:
    async def early(peer: Peer) -> None:
        await peer.reader.readexactly(1)
        await peer.answer(b"too large")
        await peer.reader.read()

    async with client_of(early) as (server, client):
        assert await post(client, b"x" * 30_000_000) == b"too large"
        await server.wait_until_closed()


async def test_an_unread_stream_is_not_read_from_the_network_without_limit() -> None:
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(b"x" * 65_536)
            sent += 65_536

    async with client_of(flood) as (server, client):
        received = await client.post("/x", b"x")
        before = -1
        while sent > before:
            before = sent
            await asyncio.sleep(0.2)
        assert len(await received.read()) <= pooled_response.MAX_BUFFERED_BYTES + 1_048_576
        assert len(await received.read()) > 0
        received.close()
        await server.wait_until_closed()


async def test_a_body_above_the_maximum_is_refused_and_the_connection_is_closed() -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(b"x" * 65_536)

    async with client_of(endless) as (server, client):
        with pytest.raises(MalformedResponse):
            await post(client, b"x")
        await server.wait_until_closed()


@pytest.mark.parametrize("ends", ["closed", "reset"])
async def test_a_connection_that_ends_at_any_byte_of_the_response_is_an_error(ends: str) -> None:
    sent = response(b"hello")

    async def cut(peer: Peer) -> None:
        place = int(await peer.request())
        await peer.send(sent[:place])
        if ends == "reset":
            peer.reset()

    async with client_of(cut) as (server, client):
        for place in range(len(sent)):
            with pytest.raises(ConnectionLost):
                await post(client, b"%d" % place)
        await server.wait_until_closed()


async def test_thousands_of_calls_over_changing_connections_leave_none_open() -> None:
    """Ten thousand, in `make prove`."""
    chance, turns = random.Random(7), examples(10_000) // 100

    async def fickle(peer: Peer) -> None:
        for _ in range(chance.randint(1, 8)):
            body = await peer.request()
            await peer.answer(body, *([b"Connection: close"] if chance.random() < 0.1 else []))

    async with client_of(fickle) as (server, client):

        async def call(number: int) -> None:
            for turn in range(turns):
                body = b"%d %d" % (number, turn)
                with suppress(ConnectionLost):  # the server may close the connection while the request is on its way
                    assert await post(client, body) == body

        await asyncio.gather(*[call(number) for number in range(100)])
        assert server.accepted > 100
        await client.close()
        await server.wait_until_closed()
        await asyncio.sleep(0)
        assert not client._all


BEHAVIOURS = st.sampled_from(
    ["answer", "answer", "answer in two parts", "more than the answer", "late", "cut", "close", "garbage", "chunked"]
)


async def misbehave(peer: Peer, behaviour: str, body: bytes) -> None:
    """Answer a request with its own body, in a way that may be wrong."""
    sent = response(body)
    match behaviour:
        case "answer":
            await peer.send(sent)
        case "answer in two parts":
            await peer.send(sent[:-1])
            await asyncio.sleep(0.002)
            await peer.send(sent[-1:])
        case "more than the answer":
            await peer.send(sent + response(b"another"))
        case "late":
            await asyncio.sleep(0.01)
            await peer.send(sent)
        case "cut":
            await peer.send(sent[:-1])
            raise ConnectionAbortedError
        case "close":
            raise ConnectionAbortedError
        case "garbage":
            await peer.send(b"\x00" * 10 + response(b"garbage"))
        case "chunked":
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            await peer.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


@given(st.lists(st.tuples(BEHAVIOURS, st.booleans()), min_size=1, max_size=25), st.integers(1, 6))
@settings(max_examples=examples(60), deadline=None)
def test_no_answer_is_ever_given_to_another_request(behaviours: list[tuple[str, bool]], tasks: int) -> None:
    """Whatever connections do, and whichever calls are cancelled: a call gets the answer to its own request, or an
    error.
    """

    async def script(peer: Peer) -> None:
        while True:
            body = await peer.request()
            await misbehave(peer, behaviours[int(body.split()[0])][0], body)

    async def call(client: PooledClient, number: int) -> None:
        body = b"%d of %d" % (number, len(behaviours))
        limit = 0.003 if behaviours[number][1] else None
        with suppress(HttpError, TimeoutError):
            async with asyncio.timeout(limit):
                assert await post(client, body) == body

    async def run() -> None:
        async with client_of(script) as (_, client):
            numbers = iter(range(len(behaviours)))

            async def work() -> None:
                for number in numbers:
                    await call(client, number)

            await asyncio.gather(*[work() for _ in range(tasks)])

    asyncio.run(run())


async def test_an_unreachable_server_is_an_error_of_its_own() -> None:
    client = PooledClient("http://127.0.0.1:1", {}, connect_s=1)
    with pytest.raises(ConnectFailed):
        await post(client, b"x")


async def test_a_host_without_an_address_is_an_error_of_its_own() -> None:
    client = PooledClient("http://no-such-host.invalid", {}, connect_s=5)
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            await post(client, b"x")
    await client.close()


async def test_the_name_of_a_host_is_resolved_once_for_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo) as server:
        client = PooledClient(f"http://localhost:{server.port}", {}, connect_s=5)
        resolved: list[None] = []
        look_up = Connector._look_up

        async def count(connector: Connector) -> list[AddrInfoType]:
            resolved.append(None)
            return await look_up(connector)

        monkeypatch.setattr(Connector, "_look_up", count)
        await asyncio.gather(*[post(client, b"x") for _ in range(20)])
        await client.close()
        assert len(resolved) == 1


@pytest.mark.parametrize("step", range(12))
async def test_a_call_that_is_cancelled_while_it_connects_leaves_no_connection(step: int) -> None:
    async with client_of(echo) as (server, client):
        task = asyncio.create_task(post(client, b"x"))
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert await post(client, b"next") == b"next"
        await client.close()
        await server.wait_until_closed()
        assert not client._all


async def test_a_request_that_the_server_does_not_read_is_not_kept_after_its_response() -> None:
    async def early(peer: Peer) -> None:
        await peer.reader.readexactly(1)
        await peer.answer(b"too large")
        released.append(await closed(peer))

    async def closed(peer: Peer) -> bool:
        with suppress(ConnectionError):
            while await peer.reader.read(1 << 20):
                pass
        return True

    released: list[bool] = []
    async with client_of(early) as (server, client):
        for _ in range(3):
            assert await post(client, b"x" * 16_000_000) == b"too large"
            await asyncio.sleep(0)
        await server.wait_until_closed()
        assert released == [True] * 3
        assert not client._all


async def test_a_closed_client_sends_nothing() -> None:
    received: list[bytes] = []

    async def record(peer: Peer) -> None:
        received.append(await peer.request())
        await peer.answer(b"late")

    for step in range(6):
        async with serving(record) as server:
            client = PooledClient(f"http://localhost:{server.port}", {}, connect_s=5)
            task = asyncio.create_task(post(client, b"x"))
            for _ in range(step):
                await asyncio.sleep(0)
            await client.close()
            sent_before = len(received)
            with suppress(HttpError):
                await task
            with pytest.raises(ConnectFailed):
                await post(client, b"x")
            assert len(received) - sent_before <= (1 if step else 0)
            assert not client._kept
            received.clear()


async def test_a_response_in_tiny_pieces_takes_little_more_memory_than_its_size() -> None:
    async with client_of(drip) as (_, client):
        received = await client.post("/x", b"y" * 5_000, max_bytes=MAX_BYTES)
        assert len(received._unread) == 5_000
        assert await received.whole() == b"y" * 5_000
