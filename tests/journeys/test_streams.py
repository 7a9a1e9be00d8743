"""Streams: the timing of events, pings, headers, and the last event."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from journeys.support.client_formats import events_in
from journeys.support.endpoints import WEBSOCKET, ClientCall, open_call
from journeys.support.processes import ReservedPort
from journeys.support.provider_wires import OLLAMA, write_catalog
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.who_pays import ANSWER, STREAM_CELLS, Cell, ExpectedEnd, assert_answered, paid, run_cells, unknown
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.stock_postgres

USAGE = {"input": 11, "output": 7}
OVER_HTTP = [cell for cell in STREAM_CELLS if cell.endpoint is not WEBSOCKET]
NATIVE = [cell for cell in OVER_HTTP if cell.endpoint.path.startswith("/ai/")]
PING = b": ping\n"
PING_S = 0.3
LOCKED_S = 0.5


@pytest.fixture
def pinging_server(
    make_server: Callable[..., Server], sqlite_url: str, own_upstream: Upstream, tmp_path: Path
) -> Iterator[Server]:
    """A server that sends pings after 0.3 s, and has an idle timeout of 2 s between chunks. Not started."""
    unused_port = ReservedPort()
    settings = {"TOLLKEEPER_STREAM_PING_SECONDS": str(PING_S), "TOLLKEEPER_STREAM_IDLE_SECONDS": "2"}
    server: Server = make_server(
        sqlite_url, "pinging_server", **write_catalog(tmp_path, own_upstream, unused_port), **settings
    )
    yield server
    unused_port.free()


async def test_each_word_is_sent_before_the_next_arrives(all_wires_server: Server, upstream: Upstream) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            for words in (1, 2):
                await client_call.read_words(words)
                assert client_call.answer.words == words
                await asyncio.to_thread(upstream.open, f"{caller.marker}-{words}")
            return assert_answered(cell, await client_call.read_all(), paid((11, 7)))

    def script(caller: ApiUser) -> dict[str, Any]:
        gates = [[words, f"{caller.marker}-{words}"] for words in (1, 2)]
        return {"answer": ANSWER, "usage": USAGE, "gate_after": gates}

    await run_cells(all_wires_server, upstream, STREAM_CELLS, run_cell, script)


async def test_the_last_event_is_sent_after_the_charge_is_settled(all_wires_sqlite: Server, upstream: Upstream) -> None:
    """The database is locked when the provider finishes: no stream ends before it is unlocked."""
    path = all_wires_sqlite.database_url.removeprefix("sqlite:///")
    lock = sqlite3.connect(path, isolation_level=None)
    waiting = asyncio.Barrier(len(STREAM_CELLS) + 1)
    locked, unlocked = asyncio.Event(), asyncio.Event()

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            await client_call.read_words(words=3)
            await waiting.wait()
            await locked.wait()
            await asyncio.to_thread(upstream.open, caller.marker)
            await client_call.read_words(words=7)
            ending = asyncio.create_task(client_call.read_all())
            await unlocked.wait()
            assert not ending.done()
            assert client_call.answer.end_events == 0
            await waiting.wait()
            return assert_answered(cell, await ending, paid((11, 7)))

    async def hold() -> None:
        await waiting.wait()
        lock.execute("BEGIN IMMEDIATE")
        locked.set()
        await asyncio.sleep(LOCKED_S)
        unlocked.set()
        await waiting.wait()
        lock.execute("ROLLBACK")

    try:
        holding = asyncio.create_task(hold())
        script = {"answer": ANSWER, "usage": USAGE}
        await run_cells(
            all_wires_sqlite, upstream, STREAM_CELLS, run_cell, lambda one: script | {"gate_after": [3, one.marker]}
        )
        await holding
    finally:
        lock.close()


async def test_silence_is_filled_with_pings(pinging_server: Server, own_upstream: Upstream) -> None:
    """Before the first word and between words, and never more than one per interval."""

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        started = time.monotonic()
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            assert client_call.status == 200
            for words, gate in ((0, caller.marker), (3, f"{caller.marker}-3")):
                before = client_call.raw.count(PING)
                await client_call.read_words(words)
                while client_call.raw.count(PING) < before + 2:
                    assert await client_call.read_more()
                assert client_call.answer.words == words
                await asyncio.to_thread(own_upstream.open, gate)
            await client_call.read_all()
            assert client_call.raw.count(PING) <= (time.monotonic() - started) / PING_S + 1
            assert client_call.raw.startswith(PING)
            return assert_answered(cell, client_call, paid((11, 7)))

    def script(caller: ApiUser) -> dict[str, Any]:
        gates = {"gate": caller.marker, "gate_after": [3, f"{caller.marker}-3"]}
        return {"answer": ANSWER, "usage": USAGE} | gates

    pinging_server.start()
    await run_cells(pinging_server, own_upstream, OVER_HTTP, run_cell, script)
    pinging_server.stop()


async def test_comments_of_the_provider_are_signs_of_life(pinging_server: Server, own_upstream: Upstream) -> None:
    """They come for longer than the idle timeout of 2 s, before the first word and between words."""

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            return assert_answered(cell, await client_call.read_all(), paid((11, 7)))

    cells = [cell for cell in NATIVE if cell.wire is not OLLAMA]
    pinging_server.start()
    for words in (0, 3):
        script = {"answer": ANSWER, "usage": USAGE, "comments_after": [words, 6, 0.5]}
        await run_cells(pinging_server, own_upstream, cells, run_cell, script)
    pinging_server.stop()


async def test_after_a_ping_an_error_is_an_event(pinging_server: Server, own_upstream: Upstream) -> None:
    """The response has begun with the ping, so the status cannot change any more."""

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            await client_call.read_all()
        assert PING in client_call.raw
        return assert_answered(cell, client_call, unknown(200, "provider_timeout"))

    pinging_server.start(TIMEOUT_SECONDS="1")
    await run_cells(pinging_server, own_upstream, OVER_HTTP, run_cell, {"fault": "hang"})
    pinging_server.stop()


async def test_a_silent_provider_is_waited_for_before_its_first_word(
    pinging_server: Server, own_upstream: Upstream
) -> None:
    """Longer than the idle timeout between chunks, although its stream has begun."""

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            opening = asyncio.create_task(_open_after(3.0, own_upstream, caller.marker))
            client_call = await client_call.read_all()
            await opening
        return assert_answered(cell, client_call, paid((11, 7)))

    pinging_server.start(TIMEOUT_SECONDS="30")
    script = {"answer": ANSWER, "usage": USAGE}
    await run_cells(
        pinging_server, own_upstream, STREAM_CELLS, run_cell, lambda one: script | {"gate_after": [0, one.marker]}
    )
    pinging_server.stop()


async def test_the_headers_of_a_stream_show_the_reservation(all_wires_server: Server, upstream: Upstream) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        more = {"X-Correlation-ID": caller.marker}
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model, more=more) as client_call:
            (charge,) = await caller.charges()
            assert charge["state"] == "dispatched"
            headers = client_call.headers
            assert headers["Content-Type"] == "text/event-stream"
            assert (headers["X-Charge-ID"], headers["X-Correlation-ID"]) == (charge["id"], caller.marker)
            assert (headers["X-Quota-Name"], headers["X-Quota-Limit"]) == ("user-total", "10000000")
            assert int(headers["X-Quota-Remaining"]) == 10_000_000 - charge["held"]
            assert headers["X-Accel-Buffering"] == "no"
            await asyncio.to_thread(upstream.open, caller.marker)
            return assert_answered(cell, await client_call.read_all(), paid((11, 7)))

    script = {"answer": ANSWER, "usage": USAGE}
    await run_cells(
        all_wires_server, upstream, OVER_HTTP, run_cell, lambda one: script | {"gate_after": [3, one.marker]}
    )


async def test_native_events_are_numbered_and_the_last_has_usage_and_cost(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        more = {"X-Correlation-ID": caller.marker}
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model, more=more) as client_call:
            assert_answered(cell, await client_call.read_all(), paid((11, 7)))
        *deltas, final = _events(client_call)
        assert [one["sequence"] for one in (*deltas, final)] == list(range(len(deltas) + 1))
        assert {one["correlation_id"] for one in (*deltas, final)} == {caller.marker}
        assert [one["is_final"] for one in (*deltas, final)] == [False] * len(deltas) + [True]
        assert (final["content"], final["finish_reason"], final["cost"]) == ("", "stop", 18)
        assert (final["usage"]["input_tokens"], final["usage"]["output_tokens"]) == (11, 7)
        assert final["query_id"] == client_call.headers["X-Charge-ID"]
        assert (final["quota"]["used"], final["quota"]["reserved"]) == (18, 0)
        return paid((11, 7))

    await run_cells(all_wires_server, upstream, NATIVE, run_cell, {"answer": ANSWER, "usage": USAGE})


def _events(client_call: ClientCall) -> list[dict[str, Any]]:
    """All events but [DONE]."""
    *events, done = events_in(client_call.raw)
    assert done.data == "[DONE]"
    return [json.loads(event.data) for event in events]


async def _open_after(seconds: float, upstream: Upstream, gate: str) -> None:
    await asyncio.sleep(seconds)
    await asyncio.to_thread(upstream.open, gate)
