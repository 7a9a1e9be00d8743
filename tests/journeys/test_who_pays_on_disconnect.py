"""Who pays when somebody leaves: the caller who hangs up, or stops reading, and the server that is told to stop."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from journeys.support.endpoints import SOCKET, STREAM, STREAMED, call, calling, slow_reader
from journeys.support.ledger_checks import assert_books_are_right, charges_in
from journeys.support.many_users import crowd
from journeys.support.provider_wires import CHAT, SILENT
from journeys.support.server import Server
from journeys.support.users import Person
from journeys.support.who_pays import (
    ANSWER,
    EVERY_STREAM,
    EVERY_WHOLE,
    NUMBERS,
    Cell,
    End,
    closed_charge,
    counted,
    input_counts,
    paid,
    tokens,
    walk,
)
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

pytestmark = pytest.mark.exhaustive_on_postgres

USAGE = {"input": 11, "output": 7}
HEARD = "one two three"
GOING_AWAY = 1012
"""With which a WebSocket is closed by a server that is told to stop."""
SILENT_STREAMS = [Cell(door, SILENT) for door in STREAMED]


def _gated(**script: Any) -> Callable[[Person], Mapping[str, Any]]:
    """The upstream waits at a gate of the caller's own after three words, or half-way."""
    return lambda caller: {"answer": ANSWER, "usage": USAGE, "gate_after": [3, caller.marker]} | script


async def _arrived(upstream: Upstream, caller: Person) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(upstream.waiting, caller.marker):
            await asyncio.sleep(0.05)


async def test_who_hangs_up_on_an_answer_in_one_piece_pays_the_usage(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        await _hang_up_in_silence(upstream, cell, caller, prompt)
        await asyncio.to_thread(upstream.open, caller.marker)
        return paid((11, 7)) if cell.door.writes else paid((11, 0))

    arrived = await walk(doors, upstream, [*EVERY_WHOLE, NUMBERS], visit, _gated())
    assert all(one["finished"] for one in arrived)


async def test_who_hangs_up_on_a_stream_pays_for_input_and_what_was_received(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        await _hang_up_after_three_words(cell, caller, prompt)
        return counted(HEARD)

    arrived = await walk(doors, upstream, EVERY_STREAM, visit, _gated())
    assert {(one["cancelled"], one["sent_tokens"]) for one in arrived} == {(True, 3)}


async def test_who_hangs_up_before_the_first_word_pays_for_the_input(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        await _hang_up_in_silence(upstream, cell, caller, prompt)
        return counted("")

    arrived = await walk(doors, upstream, EVERY_STREAM, visit, lambda caller: {"gate": caller.marker})
    assert {(one["cancelled"], one["sent_tokens"]) for one in arrived} == {(True, 0)}


async def test_a_model_that_can_bill_unseen_tokens_is_heard_to_its_report(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        await _hang_up_after_three_words(cell, caller, prompt)
        await asyncio.to_thread(upstream.open, caller.marker)
        return paid((11, 7))

    arrived = await walk(doors, upstream, SILENT_STREAMS, visit, _gated())
    assert all(one["finished"] for one in arrived)


@pytest.mark.exhaustive
async def test_a_model_that_can_bill_unseen_tokens_and_never_reports_costs_the_hold(
    hasty_doors: Server, own_upstream: Upstream
) -> None:
    """Hung up on, while it thinks or while it speaks, it is listened to for two seconds more."""

    async def before(cell: Cell, caller: Person, prompt: str) -> End:
        await _hang_up_in_silence(own_upstream, cell, caller, prompt)
        return await _costs_the_hold(caller, "provider_timeout")

    async def between(cell: Cell, caller: Person, prompt: str) -> End:
        await _hang_up_after_three_words(cell, caller, prompt)
        return await _costs_the_hold(caller, "provider_error")

    hasty_doors.start()
    await asyncio.gather(
        walk(hasty_doors, own_upstream, SILENT_STREAMS, before, lambda caller: {"gate": caller.marker}),
        walk(hasty_doors, own_upstream, SILENT_STREAMS, between, _gated()),
    )
    await _stop(hasty_doors)


@pytest.mark.exhaustive
async def test_who_stops_reading_is_hung_up_on_and_pays_for_what_was_received(
    hasty_doors: Server, own_upstream: Upstream
) -> None:
    """12 MB are to be said, in pieces of 5 KB. A client that reads one of them, and then nothing for four seconds,
    holds up the rest: what is read of it here, and what the upstream gets rid of.
    """
    cells = [cell for cell in EVERY_STREAM if cell.passes_on or (cell.wire is CHAT and cell.door in (STREAM, SOCKET))]

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        async with (
            slow_reader(caller, hasty_doors.url) as slow,
            calling(slow, cell.door, prompt, cell.wire.model, 1_000_000) as made,
        ):
            await made.hear(words=1_000)
            charge = await closed_charge(caller)
        read = charge["input_tokens"]
        assert charge["cost"] == read + charge["output_tokens"] < charge["held"]
        assert made.said.words <= charge["output_tokens"] < 2_000_000
        received[caller.marker] = charge["output_tokens"]
        return End("counted", charge["cost"])

    received: dict[str, int] = {}
    hasty_doors.start(TIMEOUT_SECONDS="30", TOLLKEEPER_STREAM_IDLE_SECONDS="4", TOLLKEEPER_STREAM_TOTAL_SECONDS="60")
    script = {"chunks": [" word" * 1_000], "repeat": 3_000}
    arrived = await walk(hasty_doors, own_upstream, cells, visit, script, limit=100_000_000)
    for one in arrived:
        marker = next(marker for marker in received if marker in str(one["body"]))
        assert received[marker] <= one["sent_tokens"] < 2_900_000
        assert one["cancelled"]
    await _stop(hasty_doors)


async def test_told_to_stop_the_server_cuts_what_is_in_flight_and_settles_it(
    hasty_doors: Server, own_upstream: Upstream
) -> None:
    """A second is all that calls get to come to their end. Who pays is read from the books: nobody answers any more."""
    cells = [*EVERY_WHOLE, *EVERY_STREAM, NUMBERS]
    in_flight = asyncio.Barrier(len(cells) + 1)
    hasty_doors.start(
        ("journeys.support.serve_with_short_grace", "serve"), TIMEOUT_SECONDS="60", TOLLKEEPER_STREAM_IDLE_SECONDS="60"
    )
    async with crowd(hasty_doors, len(cells) + 1) as (other, *people):
        await call(other, STREAM, scripted(other.marker, without_usage=True), CHAT.model)  # so that it can count
        prompts = [scripted(one.marker, answer=ANSWER, gate_after=[3, one.marker]) for one in people]
        calls = [
            asyncio.create_task(_cut(in_flight, own_upstream, cell, caller, prompt))
            for cell, caller, prompt in zip(cells, people, prompts, strict=True)
        ]
        async with asyncio.timeout(PATIENCE_S):
            await in_flight.wait()
        await asyncio.to_thread(hasty_doors.stop)
        await asyncio.gather(*calls)
    await assert_books_are_right(hasty_doors.database_url)
    charges = {charge.user_id: charge for charge in await charges_in(hasty_doors.database_url)}
    for cell, caller, prompt in zip(cells, people, prompts, strict=True):
        charge = charges[caller.principal.user_id]
        assert (charge.state, charge.basis) == ("settled", "counted" if cell.door.streams else "unknown"), cell
        assert charge.output_tokens == (3 if cell.door.streams else 0), cell
        assert charge.input_tokens is not None
        if cell.door.streams:
            assert charge.input_tokens in input_counts(cell, prompt), cell
        else:
            assert tokens(prompt) < charge.input_tokens <= charge.held_tokens, cell
            assert charge.cost_tokens + charge.forgiven_tokens == charge.held_tokens, cell


async def _cut(in_flight: asyncio.Barrier, upstream: Upstream, cell: Cell, caller: Person, prompt: str) -> None:
    """A call that the server cuts, when all are in flight."""
    if cell.door.streams:
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            await made.hear(words=3)
            await in_flight.wait()
            await made.rest()
        assert made.said.text == HEARD
        assert made.said.error is not None or made.closed == GOING_AWAY, cell
        assert made.said.ends == 0
        return
    call_made = asyncio.create_task(call(caller, cell.door, prompt, cell.wire.model))
    await _arrived(upstream, caller)
    await in_flight.wait()
    made = await call_made
    assert (made.status, made.code) == (503, "shutting_down"), cell
    if cell.door.path.startswith("/v1"):
        assert made.headers["x-should-retry"] == "false"


async def _hang_up_after_three_words(cell: Cell, caller: Person, prompt: str) -> None:
    async with calling(caller, cell.door, prompt, cell.wire.model) as made:
        await made.hear(words=3)
        await made.hang_up()


async def _hang_up_in_silence(upstream: Upstream, cell: Cell, caller: Person, prompt: str) -> None:
    """Before anything was said."""
    task = asyncio.create_task(call(caller, cell.door, prompt, cell.wire.model))
    await _arrived(upstream, caller)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _costs_the_hold(caller: Person, code: str) -> End:
    charge = await closed_charge(caller)
    assert charge["cost"] == charge["held"] > 100
    return End("counted", charge["held"], code=code)


async def _stop(server: Server) -> None:
    assert "open holds: 0\nClean:" in server.command("ledger", "verify")
    server.stop()
