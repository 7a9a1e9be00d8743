"""Who pays when a call is cut: the client disconnects or stops reading, or the server stops."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from journeys.support.endpoints import NATIVE_STREAM, STREAMING_ENDPOINTS, WEBSOCKET, call, open_call, slow_reader
from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.many_users import many_users
from journeys.support.provider_wires import CHAT, UNSEEN_BILLING
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.who_pays import (
    ANSWER,
    EMBEDDINGS_CELL,
    STREAM_CELLS,
    WHOLE_CELLS,
    Cell,
    ExpectedEnd,
    closed_charge,
    count_tokens,
    counted,
    one_wire_each,
    paid,
    possible_input_tokens,
    run_cells,
)
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(
        but=(
            "test_a_client_that_disconnects_within_a_stream_pays_input_and_what_was_received",
            "test_a_stopping_server_cuts_the_calls_in_flight_and_settles_them",
        )
    ),
]

USAGE = {"input": 11, "output": 7}
RECEIVED_TEXT = "one two three"
GOING_AWAY = 1012
"""The code with which a stopping server closes a WebSocket."""
UNSEEN_BILLING_CELLS = [Cell(endpoint, UNSEEN_BILLING) for endpoint in STREAMING_ENDPOINTS]


def _gated(**script: Any) -> Callable[[ApiUser], Mapping[str, Any]]:
    """A script that stops at a gate of the caller after three words, or half-way through a whole answer."""
    return lambda caller: {"answer": ANSWER, "usage": USAGE, "gate_after": [3, caller.marker]} | script


async def _wait_until_at_gate(upstream: Upstream, caller: ApiUser) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not await asyncio.to_thread(upstream.waiting, caller.marker):
            await asyncio.sleep(0.05)


async def test_a_client_that_disconnects_before_a_whole_answer_pays_the_usage(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        await _disconnect_before_first_word(upstream, cell, caller, prompt)
        await asyncio.to_thread(upstream.open, caller.marker)
        return paid((11, 7)) if cell.endpoint.returns_text else paid((11, 0))

    requests = await run_cells(all_wires_server, upstream, [*WHOLE_CELLS, EMBEDDINGS_CELL], run_cell, _gated())
    assert all(one["finished"] for one in requests)


async def test_a_client_that_disconnects_within_a_stream_pays_input_and_what_was_received(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        await _disconnect_after_three_words(cell, caller, prompt)
        return counted(RECEIVED_TEXT)

    requests = await run_cells(all_wires_server, upstream, STREAM_CELLS, run_cell, _gated())
    assert {(one["cancelled"], one["sent_tokens"]) for one in requests} == {(True, 3)}


async def test_a_client_that_disconnects_before_the_first_word_pays_the_input(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        await _disconnect_before_first_word(upstream, cell, caller, prompt)
        return counted("")

    requests = await run_cells(
        all_wires_server, upstream, STREAM_CELLS, run_cell, lambda caller: {"gate": caller.marker}
    )
    assert {(one["cancelled"], one["sent_tokens"]) for one in requests} == {(True, 0)}


async def test_a_model_that_bills_unseen_tokens_is_read_to_its_usage_report(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        await _disconnect_after_three_words(cell, caller, prompt)
        await asyncio.to_thread(upstream.open, caller.marker)
        return paid((11, 7))

    requests = await run_cells(all_wires_server, upstream, UNSEEN_BILLING_CELLS, run_cell, _gated())
    assert all(one["finished"] for one in requests)


@pytest.mark.exhaustive
async def test_a_model_that_bills_unseen_tokens_and_never_reports_costs_the_hold(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    """After the client disconnects, before or after the first word, the gateway reads on for two seconds."""

    async def before(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        await _disconnect_before_first_word(own_upstream, cell, caller, prompt)
        return await _assert_costs_the_hold(caller, "provider_timeout")

    async def between(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        await _disconnect_after_three_words(cell, caller, prompt)
        return await _assert_costs_the_hold(caller, "provider_error")

    short_deadline_server.start()
    await asyncio.gather(
        run_cells(
            short_deadline_server, own_upstream, UNSEEN_BILLING_CELLS, before, lambda caller: {"gate": caller.marker}
        ),
        run_cells(short_deadline_server, own_upstream, UNSEEN_BILLING_CELLS, between, _gated()),
    )
    await _stop(short_deadline_server)


@pytest.mark.exhaustive
async def test_a_client_that_stops_reading_is_disconnected_and_pays_what_was_received(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    """The answer has 15 MB in chunks of 5 KB. A client that reads one chunk, and then nothing for eight seconds, blocks
    the rest: what the gateway reads, and what the upstream sends.
    """
    cells = [
        cell
        for cell in STREAM_CELLS
        if cell.same_wire or (cell.wire is CHAT and cell.endpoint in (NATIVE_STREAM, WEBSOCKET))
    ]

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with (
            slow_reader(caller, short_deadline_server.url) as slow,
            open_call(slow, cell.endpoint, prompt, cell.wire.model, 1_000_000) as client_call,
        ):
            await client_call.read_words(words=1_000)
            charge = await closed_charge(caller)
        input_tokens = charge["input_tokens"]
        assert charge["cost"] == input_tokens + charge["output_tokens"] < charge["held"]
        assert client_call.answer.words <= charge["output_tokens"] < 2_000_000
        received[caller.marker] = charge["output_tokens"]
        return ExpectedEnd("counted", charge["cost"])

    received: dict[str, int] = {}
    short_deadline_server.start(
        TIMEOUT_SECONDS="30", TOLLKEEPER_STREAM_IDLE_SECONDS="8", TOLLKEEPER_STREAM_TOTAL_SECONDS="60"
    )
    script = {"chunks": [" word" * 1_000], "repeat": 3_000}
    requests = await run_cells(short_deadline_server, own_upstream, cells, run_cell, script, limit=100_000_000)
    for one in requests:
        marker = next(marker for marker in received if marker in str(one["body"]))
        assert received[marker] <= one["sent_tokens"] < 2_900_000
        assert one["cancelled"]
    await _stop(short_deadline_server)


@pytest.mark.proof
async def test_a_stopping_server_cuts_the_calls_in_flight_and_settles_them(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    """The grace period is one second. The charges are read from the database, because the server has stopped."""
    cells = [*one_wire_each(WHOLE_CELLS, 0), *STREAM_CELLS, EMBEDDINGS_CELL]
    in_flight = asyncio.Barrier(len(cells) + 1)
    short_deadline_server.start(TOLLKEEPER_GRACE_SECONDS="1", TIMEOUT_SECONDS="60", TOLLKEEPER_STREAM_IDLE_SECONDS="60")
    async with many_users(short_deadline_server, len(cells) + 1) as (other, *users):
        await call(
            other, NATIVE_STREAM, scripted(other.marker, without_usage=True), CHAT.model
        )  # loads the vocabulary for counting
        prompts = [scripted(one.marker, answer=ANSWER, gate_after=[3, one.marker]) for one in users]
        calls = [
            asyncio.create_task(_call_to_be_cut(in_flight, own_upstream, cell, caller, prompt))
            for cell, caller, prompt in zip(cells, users, prompts, strict=True)
        ]
        async with asyncio.timeout(TEST_DEADLINE_S):
            await in_flight.wait()
        await asyncio.to_thread(short_deadline_server.stop)
        await asyncio.gather(*calls)
    await assert_ledger_is_consistent(short_deadline_server.database_url)
    charges = {charge.user_id: charge for charge in await charges_in(short_deadline_server.database_url)}
    for cell, caller, prompt in zip(cells, users, prompts, strict=True):
        charge = charges[caller.principal.user_id]
        assert (charge.state, charge.basis) == ("settled", "counted" if cell.endpoint.streams else "unknown"), cell
        assert charge.output_tokens == (3 if cell.endpoint.streams else 0), cell
        assert charge.input_tokens is not None
        if cell.endpoint.streams:
            assert charge.input_tokens in possible_input_tokens(cell, prompt), cell
        else:
            assert count_tokens(prompt) < charge.input_tokens <= charge.held_tokens, cell
            assert charge.cost_tokens + charge.forgiven_tokens == charge.held_tokens, cell


async def _call_to_be_cut(
    in_flight: asyncio.Barrier, upstream: Upstream, cell: Cell, caller: ApiUser, prompt: str
) -> None:
    """Make a call that the server cuts when all calls are in flight."""
    if cell.endpoint.streams:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            await client_call.read_words(words=3)
            await in_flight.wait()
            await client_call.read_all()
        assert client_call.answer.text == RECEIVED_TEXT
        assert client_call.answer.error is not None or client_call.close_code == GOING_AWAY, cell
        assert client_call.answer.end_events == 0
        return
    pending = asyncio.create_task(call(caller, cell.endpoint, prompt, cell.wire.model))
    await _wait_until_at_gate(upstream, caller)
    await in_flight.wait()
    client_call = await pending
    assert (client_call.status, client_call.code) == (503, "shutting_down"), cell
    if cell.endpoint.path.startswith("/v1"):
        assert client_call.headers["x-should-retry"] == "false"


async def _disconnect_after_three_words(cell: Cell, caller: ApiUser, prompt: str) -> None:
    async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
        await client_call.read_words(words=3)
        await client_call.disconnect()


async def _disconnect_before_first_word(upstream: Upstream, cell: Cell, caller: ApiUser, prompt: str) -> None:
    """Start a call, and disconnect when it waits at its gate in the upstream, before the first word."""
    task = asyncio.create_task(call(caller, cell.endpoint, prompt, cell.wire.model))
    await _wait_until_at_gate(upstream, caller)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _assert_costs_the_hold(caller: ApiUser, code: str) -> ExpectedEnd:
    charge = await closed_charge(caller)
    assert charge["cost"] == charge["held"] > 100
    return ExpectedEnd("counted", charge["held"], code=code)


async def _stop(server: Server) -> None:
    assert "open holds: 0\n" in server.command("ledger", "verify")
    server.stop()
