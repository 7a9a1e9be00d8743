"""Streams outlive their lease because it is renewed; what was received by then survives the process; a lost hold ends
the call.
"""

import asyncio
import os
import signal
from collections.abc import Callable

import aiohttp
import pytest

from factories import make_store
from journeys.support.endpoints import SOCKET, calling
from journeys.support.ledger_checks import assert_books_are_right, charges_in
from journeys.support.many_users import crowd
from journeys.support.server import Server
from journeys.support.users import Person
from journeys.support.who_pays import ANSWER, EVERY_STREAM, Cell, End, check_told, input_counts, paid, walk
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Charge

pytestmark = pytest.mark.exhaustive_on_postgres

USAGE = {"input": 11, "output": 7}
LEASE_S = 1.0
HEARD = "one two three"
SETTINGS = {
    "TOLLKEEPER_LEASE_SECONDS": str(LEASE_S),
    "TOLLKEEPER_SWEEP_SECONDS": "0.2",
    "TIMEOUT_SECONDS": "60",
    "TOLLKEEPER_STREAM_IDLE_SECONDS": "60",
    "TOLLKEEPER_STREAM_TOTAL_SECONDS": "60",
}


async def test_a_stream_outlives_its_lease(hasty_doors: Server, own_upstream: Upstream) -> None:
    """Three leases long nothing comes, while other processes look for holds that nobody renews."""

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            await made.hear(words=3)
            await asyncio.sleep(3 * LEASE_S)
            if cell is EVERY_STREAM[0]:
                assert await _sweep(hasty_doors) == 0
            await asyncio.to_thread(own_upstream.open, caller.marker)
            return check_told(cell, await made.rest(), paid((11, 7)))

    hasty_doors.start(**SETTINGS)
    script = {"answer": ANSWER, "usage": USAGE}
    await walk(
        hasty_doors, own_upstream, EVERY_STREAM, visit, lambda caller: script | {"gate_after": [3, caller.marker]}
    )
    hasty_doors.stop()


@pytest.mark.exhaustive
async def test_killed_in_a_stream_the_process_leaves_behind_what_was_received(
    hasty_doors: Server, own_upstream: Upstream
) -> None:
    """A third of a lease after the third word, the ledger knows of it: that is charged, and the rest is forgiven."""
    hasty_doors.start(**SETTINGS)
    async with crowd(hasty_doors, len(EVERY_STREAM)) as people:
        prompts = [scripted(one.marker, answer=ANSWER, gate_after=[3, one.marker]) for one in people]
        calls = [asyncio.create_task(_until_it_breaks(*one)) for one in zip(EVERY_STREAM, people, prompts, strict=True)]
        await _until(hasty_doors, lambda charge: charge.checkpoint_output == 3, len(calls))
        hasty_doors.program.kill()
        await asyncio.gather(*calls)
        hasty_doors.start(**SETTINGS)
        await _until(hasty_doors, lambda charge: charge.closed_ms is not None, len(calls))
        charges = {charge.user_id: charge for charge in await charges_in(hasty_doors.database_url)}
        for cell, caller, prompt in zip(EVERY_STREAM, people, prompts, strict=True):
            charge = charges[caller.principal.user_id]
            assert (charge.state, charge.basis, charge.error) == ("settled", "unknown", "lease_over"), cell
            least = min(input_counts(cell, prompt))
            assert charge.input_tokens is not None
            assert least <= charge.input_tokens <= charge.held_tokens - charge.granted_output, cell
            assert (charge.output_tokens, charge.cost_tokens) == (3, charge.input_tokens + 3), cell
            assert charge.forgiven_tokens == charge.held_tokens - charge.cost_tokens > 0, cell
        await assert_books_are_right(hasty_doors.database_url)
        assert "open holds: 0\nClean:" in hasty_doors.command("ledger", "verify")
    hasty_doors.stop()


async def test_a_hold_that_was_swept_up_ends_its_call_and_brings_the_truth(
    hasty_doors: Server, own_upstream: Upstream
) -> None:
    """The process sleeps for longer than a lease, and another sweeps. When it wakes, it hangs up on the upstream."""
    awake = asyncio.Event()
    heard = asyncio.Barrier(len(EVERY_STREAM) + 1)

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        async with calling(caller, cell.door, prompt, cell.wire.model) as made:
            await made.hear(words=3)
            await heard.wait()
            await asyncio.wait_for(awake.wait(), PATIENCE_S)
            await made.rest()
        end = End("counted", code="lease_lost", text=HEARD, late=True)
        check_told(cell, made, end)
        async with asyncio.timeout(PATIENCE_S):
            while not (await caller.charges())[0]["adjusted"]:
                await asyncio.sleep(0.05)
        return end._replace(code="lease_over")

    async def sleep() -> None:
        await heard.wait()
        pid = hasty_doors.program.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE_S):
                swept = 0
                while swept < len(EVERY_STREAM):
                    await asyncio.sleep(0.2)
                    swept += await _sweep(hasty_doors)
        finally:
            os.kill(pid, signal.SIGCONT)
        awake.set()

    hasty_doors.start(**SETTINGS)
    sleeping = asyncio.create_task(sleep())
    arrived = await walk(
        hasty_doors,
        own_upstream,
        EVERY_STREAM,
        visit,
        lambda caller: {"answer": ANSWER, "gate_after": [3, caller.marker]},
    )
    await sleeping
    assert all(one["cancelled"] for one in arrived)
    await assert_books_are_right(hasty_doors.database_url)
    hasty_doors.stop()


async def _until_it_breaks(cell: Cell, caller: Person, prompt: str) -> None:
    """Three words are heard, and then nothing but the end of the connection."""
    async with calling(caller, cell.door, prompt, cell.wire.model) as made:
        await made.hear(words=3)
        try:
            await made.rest()
        except aiohttp.ClientError:
            assert cell.door is not SOCKET
        assert (made.said.text, made.said.ends, made.said.error) == (HEARD, 0, None), cell


async def _until(server: Server, holds: Callable[[Charge], bool], count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while sum(map(holds, await charges_in(server.database_url))) < count:
            await asyncio.sleep(0.1)


async def _sweep(server: Server) -> int:
    """As another process would: how many holds were swept up."""
    ledger = Ledger(make_store(server.database_url), lease_seconds=LEASE_S)
    ledger.start()
    try:
        return await ledger.sweep()
    finally:
        await ledger.stop()
