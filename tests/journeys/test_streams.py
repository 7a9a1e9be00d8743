"""Streams as they run: what comes when, what keeps them alive, what stands in their headers and at their end."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from journeys.support.client_formats import events_in
from journeys.support.endpoints import SOCKET, Call, calling
from journeys.support.processes import ReservedPort
from journeys.support.provider_wires import write_catalog
from journeys.support.server import Server
from journeys.support.users import Person
from journeys.support.who_pays import ANSWER, EVERY_STREAM, Cell, End, check_told, paid, unknown, walk
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.stock_postgres

USAGE = {"input": 11, "output": 7}
OVER_HTTP = [cell for cell in EVERY_STREAM if cell.door is not SOCKET]
NATIVE = [cell for cell in OVER_HTTP if cell.door.path.startswith("/ai/")]
PING = b": ping\n\n"
PING_S = 0.3
LOCKED_S = 0.5


@pytest.fixture
def attentive(
    make_server: Callable[..., Server], sqlite_url: str, own_upstream: Upstream, tmp_path: Path
) -> Iterator[Server]:
    """A server that pings after a third of a second, and whose patience is short once something was said."""
    nobody = ReservedPort()
    settings = {"TOLLKEEPER_STREAM_PING_SECONDS": str(PING_S), "TOLLKEEPER_STREAM_IDLE_SECONDS": "2"}
    server: Server = make_server(sqlite_url, "attentive", **write_catalog(tmp_path, own_upstream, nobody), **settings)
    yield server
    nobody.free()


async def test_no_word_is_held_back_until_the_next_is_said(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            for words in (1, 2):
                await made.hear(words)
                assert made.said.words == words
                await asyncio.to_thread(upstream.open, f"{caller.marker}-{words}")
            return check_told(cell, await made.rest(), paid((11, 7)))

    def script(caller: Person) -> dict[str, Any]:
        gates = [[words, f"{caller.marker}-{words}"] for words in (1, 2)]
        return {"answer": ANSWER, "usage": USAGE, "gate_after": gates}

    await walk(doors, upstream, EVERY_STREAM, visit, script)


async def test_the_last_event_waits_until_the_charge_is_settled(doors_sqlite: Server, upstream: Upstream) -> None:
    """The database is locked when the provider comes to its end: until it is not any more, no stream ends."""
    path = doors_sqlite.database_url.removeprefix("sqlite:///")
    lock = sqlite3.connect(path, isolation_level=None)
    waiting = asyncio.Barrier(len(EVERY_STREAM) + 1)
    locked, unlocked = asyncio.Event(), asyncio.Event()

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            await made.hear(words=3)
            await waiting.wait()
            await locked.wait()
            await asyncio.to_thread(upstream.open, caller.marker)
            await made.hear(words=7)
            ending = asyncio.create_task(made.rest())
            await unlocked.wait()
            assert not ending.done()
            assert made.said.ends == 0
            await waiting.wait()
            return check_told(cell, await ending, paid((11, 7)))

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
        await walk(doors_sqlite, upstream, EVERY_STREAM, visit, lambda one: script | {"gate_after": [3, one.marker]})
        await holding
    finally:
        lock.close()


async def test_silence_is_filled_with_pings(attentive: Server, own_upstream: Upstream) -> None:
    """Before the first word and between words; never more of them than the silence has intervals."""

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        started = time.monotonic()
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            assert made.status == 200
            for words, gate in ((0, caller.marker), (3, f"{caller.marker}-3")):
                before = made.raw.count(PING)
                await made.hear(words)
                while made.raw.count(PING) < before + 2:
                    assert await made._more()
                assert made.said.words == words
                await asyncio.to_thread(own_upstream.open, gate)
            await made.rest()
            assert made.raw.count(PING) <= (time.monotonic() - started) / PING_S + 1
            assert made.raw.startswith(PING)
            return check_told(cell, made, paid((11, 7)))

    def script(caller: Person) -> dict[str, Any]:
        gates = {"gate": caller.marker, "gate_after": [3, f"{caller.marker}-3"]}
        return {"answer": ANSWER, "usage": USAGE} | gates

    attentive.start()
    await walk(attentive, own_upstream, OVER_HTTP, visit, script)
    attentive.stop()


async def test_after_a_ping_an_error_is_an_event(attentive: Server, own_upstream: Upstream) -> None:
    """The answer has begun, though nothing was said in it."""

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            await made.rest()
        assert PING in made.raw
        return check_told(cell, made, unknown(200, "provider_timeout"))

    attentive.start(TIMEOUT_SECONDS="1")
    await walk(attentive, own_upstream, OVER_HTTP, visit, {"fault": "hang"})
    attentive.stop()


async def test_a_provider_that_thinks_in_silence_is_waited_for(attentive: Server, own_upstream: Upstream) -> None:
    """Longer than it may be silent once it speaks, though its stream has begun."""

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            opening = asyncio.create_task(_open_after(3.0, own_upstream, caller.marker))
            made = await made.rest()
            await opening
        return check_told(cell, made, paid((11, 7)))

    attentive.start(TIMEOUT_SECONDS="30")
    script = {"answer": ANSWER, "usage": USAGE}
    await walk(attentive, own_upstream, EVERY_STREAM, visit, lambda one: script | {"gate_after": [0, one.marker]})
    attentive.stop()


async def test_a_stream_says_in_its_headers_what_was_reserved(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        more = {"X-Correlation-ID": caller.marker}
        async with calling(caller, cell.door, prompt, cell.wire.model, more=more) as made:
            (held,) = await caller.charges()
            assert held["state"] == "dispatched"
            headers = made.headers
            assert headers["Content-Type"] == "text/event-stream"
            assert (headers["X-Charge-ID"], headers["X-Correlation-ID"]) == (held["id"], caller.marker)
            assert (headers["X-Quota-Name"], headers["X-Quota-Limit"]) == ("user-total", "10000000")
            assert int(headers["X-Quota-Remaining"]) == 10_000_000 - held["held"]
            assert headers["X-Accel-Buffering"] == "no"
            await asyncio.to_thread(upstream.open, caller.marker)
            return check_told(cell, await made.rest(), paid((11, 7)))

    script = {"answer": ANSWER, "usage": USAGE}
    await walk(doors, upstream, OVER_HTTP, visit, lambda one: script | {"gate_after": [3, one.marker]})


async def test_native_events_are_numbered_and_the_last_tells_what_it_cost(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        more = {"X-Correlation-ID": caller.marker}
        async with calling(caller, cell.door, prompt, cell.wire.model, more=more) as made:
            check_told(cell, await made.rest(), paid((11, 7)))
        *pieces, final = _documents(made)
        assert [one["sequence"] for one in (*pieces, final)] == list(range(8))
        assert {one["correlation_id"] for one in (*pieces, final)} == {caller.marker}
        assert [one["is_final"] for one in (*pieces, final)] == [False] * 7 + [True]
        assert (final["content"], final["finish_reason"], final["cost"]) == ("", "stop", 18)
        assert (final["usage"]["input_tokens"], final["usage"]["output_tokens"]) == (11, 7)
        assert final["query_id"] == made.headers["X-Charge-ID"]
        assert (final["quota"]["used"], final["quota"]["reserved"]) == (18, 0)
        return paid((11, 7))

    await walk(doors, upstream, NATIVE, visit, {"answer": ANSWER, "usage": USAGE})


def _documents(made: Call) -> list[dict[str, Any]]:
    """Everything but [DONE]."""
    *events, done = events_in(made.raw)
    assert done.data == "[DONE]"
    return [json.loads(event.data) for event in events]


async def _open_after(seconds: float, upstream: Upstream, gate: str) -> None:
    await asyncio.sleep(seconds)
    await asyncio.to_thread(upstream.open, gate)
