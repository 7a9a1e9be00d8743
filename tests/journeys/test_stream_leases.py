"""The lease of a stream is renewed; its checkpoint outlives a killed process; a stream whose hold is swept ends."""

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from journeys.support.endpoints import WEBSOCKET, open_call
from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.many_users import many_users
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.who_pays import (
    ANSWER,
    STREAM_CELLS,
    Cell,
    ExpectedEnd,
    assert_answered,
    paid,
    possible_input_tokens,
    run_cells,
)
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.factories import make_store
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Charge

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(but=("test_a_stream_whose_hold_was_swept_ends_and_adjusts_its_charge",)),
]

USAGE = {"input": 11, "output": 7}
LEASE_S = 1.0
RECEIVED_TEXT = "one two three"
SETTINGS = {
    "TOLLKEEPER_LEASE_SECONDS": str(LEASE_S),
    "TOLLKEEPER_SWEEP_SECONDS": "0.2",
    "TIMEOUT_SECONDS": "60",
    "TOLLKEEPER_STREAM_IDLE_SECONDS": "60",
    "TOLLKEEPER_STREAM_TOTAL_SECONDS": "60",
}


async def test_a_stream_outlives_its_lease(short_deadline_server: Server, own_upstream: Upstream) -> None:
    """The provider is silent for three leases, while another process sweeps holds that are not renewed."""

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            await client_call.read_words(words=3)
            await asyncio.sleep(3 * LEASE_S)
            if cell is STREAM_CELLS[0]:
                assert await _sweep(short_deadline_server) == 0
            await asyncio.to_thread(own_upstream.open, caller.marker)
            return assert_answered(cell, await client_call.read_all(), paid((11, 7)))

    short_deadline_server.start(**SETTINGS)
    script = {"answer": ANSWER, "usage": USAGE}
    await run_cells(
        short_deadline_server,
        own_upstream,
        STREAM_CELLS,
        run_cell,
        lambda caller: script | {"gate_after": [3, caller.marker]},
    )
    short_deadline_server.stop()


@pytest.mark.exhaustive
async def test_a_killed_process_leaves_a_checkpoint_of_what_its_streams_received(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    """A third of a lease after the third word, the checkpoint has it: that is charged, and the rest is forgiven."""
    short_deadline_server.start(**SETTINGS)
    async with many_users(short_deadline_server, len(STREAM_CELLS)) as users:
        prompts = [scripted(one.marker, answer=ANSWER, gate_after=[3, one.marker]) for one in users]
        calls = [
            asyncio.create_task(_read_until_it_breaks(*one)) for one in zip(STREAM_CELLS, users, prompts, strict=True)
        ]
        await _wait_until(short_deadline_server, lambda charge: charge.checkpoint_output == 3, len(calls))
        short_deadline_server.program.kill()
        await asyncio.gather(*calls)
        short_deadline_server.start(**SETTINGS)
        await _wait_until(short_deadline_server, lambda charge: charge.closed_ms is not None, len(calls))
        charges = {charge.user_id: charge for charge in await charges_in(short_deadline_server.database_url)}
        for cell, caller, prompt in zip(STREAM_CELLS, users, prompts, strict=True):
            charge = charges[caller.principal.user_id]
            assert (charge.state, charge.basis, charge.error) == ("settled", "unknown", "lease_over"), cell
            least = min(possible_input_tokens(cell, prompt))
            assert charge.input_tokens is not None
            assert least <= charge.input_tokens <= charge.held_tokens - charge.granted_output, cell
            assert (charge.output_tokens, charge.cost_tokens) == (3, charge.input_tokens + 3), cell
            assert charge.forgiven_tokens == charge.held_tokens - charge.cost_tokens > 0, cell
        await assert_ledger_is_consistent(short_deadline_server.database_url)
        assert "open holds: 0\n" in short_deadline_server.command("ledger", "verify")
    short_deadline_server.stop()


async def test_a_stream_whose_hold_was_swept_ends_and_adjusts_its_charge(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    """The process is suspended for longer than a lease while another process sweeps. Resumed, it cuts the stream."""
    resumed = asyncio.Event()
    all_received = asyncio.Barrier(len(STREAM_CELLS) + 1)

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
            await client_call.read_words(words=3)
            await all_received.wait()
            await asyncio.wait_for(resumed.wait(), TEST_DEADLINE_S)
            await client_call.read_all()
        end = ExpectedEnd("counted", code="lease_lost", text=RECEIVED_TEXT, late=True)
        assert_answered(cell, client_call, end)
        async with asyncio.timeout(TEST_DEADLINE_S):
            while not (await caller.charges())[0]["adjusted"]:
                await asyncio.sleep(0.05)
        return end._replace(code="lease_over")

    async def suspend() -> None:
        await all_received.wait()
        with short_deadline_server.suspended():
            async with asyncio.timeout(TEST_DEADLINE_S):
                swept = 0
                while swept < len(STREAM_CELLS):
                    await asyncio.sleep(0.2)
                    swept += await _sweep(short_deadline_server)
        resumed.set()

    short_deadline_server.start(**SETTINGS)
    suspending = asyncio.create_task(suspend())
    requests = await run_cells(
        short_deadline_server,
        own_upstream,
        STREAM_CELLS,
        run_cell,
        lambda caller: {"answer": ANSWER, "gate_after": [3, caller.marker]},
    )
    await suspending
    assert all(one["cancelled"] for one in requests)
    await assert_ledger_is_consistent(short_deadline_server.database_url)
    short_deadline_server.stop()


async def _read_until_it_breaks(cell: Cell, caller: ApiUser, prompt: str) -> None:
    """Read three words; then the connection must end without another event."""
    async with open_call(caller, cell.endpoint, prompt, cell.wire.model) as client_call:
        await client_call.read_words(words=3)
        try:
            await client_call.read_all()
        except aiohttp.ClientError:
            assert cell.endpoint is not WEBSOCKET
        assert (client_call.answer.text, client_call.answer.end_events, client_call.answer.error) == (
            RECEIVED_TEXT,
            0,
            None,
        ), cell


async def _wait_until(server: Server, condition: Callable[[Charge], bool], count: int) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while sum(map(condition, await charges_in(server.database_url))) < count:
            await asyncio.sleep(0.1)


async def _sweep(server: Server) -> int:
    """Sweep as another process does. Returns the number of charges that were closed."""
    ledger = Ledger(make_store(server.database_url), lease_seconds=LEASE_S)
    ledger.start()
    try:
        return await ledger.sweep()
    finally:
        await ledger.stop()
