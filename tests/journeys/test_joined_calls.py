"""Calls that wait for the answer to another one, whose client disconnects, or whose process is killed: who pays."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest

from journeys.support.booked import closed_charges
from journeys.support.endpoints import NATIVE_STREAM, WHOLE_ENDPOINTS, ClientCall, call, open_call
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.many_users import many_users
from journeys.support.provider_wires import CHAT
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.who_pays import ANSWER, EMBEDDINGS_CELL, STREAM_CELLS, WHOLE_CELLS, Cell
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

USAGE = {"input": 11, "output": 7}
FOLLOWERS = 3
CELLS = [cell for cell in (*WHOLE_CELLS, *STREAM_CELLS) if cell.same_wire or cell.wire is CHAT] + [EMBEDDINGS_CELL]
CACHED = {"X-Tollkeeper-Cache": "true"}


def _more(cell: Cell) -> dict[str, Any]:
    return {"cache": True} if cell.endpoint.is_socket else CACHED


async def ask(caller: ApiUser, cell: Cell, prompt: str) -> ClientCall:
    return await call(caller, cell.endpoint, prompt, cell.wire.model, more=_more(cell))


async def until_waiting(caller: ApiUser, count: int) -> None:
    """Wait until so many calls of the server wait for another one."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            async with caller.http.get("/metrics") as response:
                found = re.search(r"^tollkeeper_cache_waiting (\d+)", await response.text(), re.MULTILINE)
            assert found is not None
            if int(found[1]) >= count:
                return
            await asyncio.sleep(0.02)


async def until_at_gate(upstream: Upstream, gate: str) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not await asyncio.to_thread(upstream.waiting, gate):
            await asyncio.sleep(0.02)


async def lead_and_leave(
    upstream: Upstream, cell: Cell, caller: ApiUser, prompt: str, all_joined: asyncio.Barrier
) -> None:
    """Begin a call, and disconnect when the others wait for it."""
    if cell.endpoint.streams:
        async with open_call(caller, cell.endpoint, prompt, cell.wire.model, more=_more(cell)) as client_call:
            await client_call.read_words(words=3)
            await all_joined.wait()
            await all_joined.wait()
            await client_call.disconnect()
        return
    task = asyncio.create_task(ask(caller, cell, prompt))
    await until_at_gate(upstream, caller.marker)
    await all_joined.wait()
    await all_joined.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def run_cell(upstream: Upstream, cell: Cell, caller: ApiUser, all_joined: asyncio.Barrier) -> None:
    prompt = scripted(caller.marker, answer=ANSWER, usage=USAGE, gate_after=[3, caller.marker])
    leading = asyncio.create_task(lead_and_leave(upstream, cell, caller, prompt, all_joined))
    await until_at_gate(upstream, caller.marker)
    following = [asyncio.create_task(ask(caller, cell, prompt)) for _ in range(FOLLOWERS)]
    await leading
    await asyncio.sleep(0.2)
    await asyncio.to_thread(upstream.open, caller.marker)
    answers = await asyncio.gather(*following)
    for answer in answers:
        assert (answer.status, answer.answer.error) == (200, None), (cell, answer.raw)
        assert answer.answer.text == ANSWER or not cell.endpoint.returns_text, (cell, answer.raw)
        assert cell.endpoint.is_socket or answer.headers["X-Cache"] == "hit", cell
    [request] = upstream.requests(caller.marker)
    assert (request["finished"], request["cancelled"]) == (True, False), cell
    charges = await caller.charges()
    paid = 18 if cell.endpoint.returns_text else 11
    ends = Counter((charge["basis"], charge["cost"], charge["error"]) for charge in charges)
    assert ends == {("provider", paid, None): 1, ("cache", 0, None): FOLLOWERS}, cell
    assert charges[-1]["basis"] == "provider"
    quota = await caller.quota()
    assert (quota["used"], quota["reserved"]) == (paid, 0), cell


@pytest.mark.exhaustive_on_postgres
async def test_the_call_whose_client_disconnects_is_read_to_its_end_for_those_that_wait_and_pays_the_report(
    all_wires_server: Server, upstream: Upstream
) -> None:
    """On every endpoint. All clients that are first disconnect when all others wait."""
    all_joined = asyncio.Barrier(len(CELLS) + 1)
    async with many_users(all_wires_server, len(CELLS)) as users, asyncio.TaskGroup() as group:
        for caller, cell in zip(users, CELLS, strict=True):
            group.create_task(run_cell(upstream, cell, caller, all_joined))
        await all_joined.wait()
        await until_waiting(users[0], FOLLOWERS * len(CELLS))
        await all_joined.wait()
    await assert_ledger_is_consistent(all_wires_server.database_url)


@pytest.fixture
def crashing(make_server: Callable[..., Server], database_url: str, own_upstream: Upstream) -> Server:
    """A server with short leases, not started."""
    return make_server(
        database_url,
        OPENAI_BASE_URL=own_upstream.base_url,
        TOLLKEEPER_RATE_LIMIT_AI="off",
        TOLLKEEPER_LEASE_SECONDS="1",
        TOLLKEEPER_SWEEP_SECONDS="0.2",
    )


@pytest.mark.exhaustive
async def test_of_calls_that_wait_for_one_another_when_their_process_is_killed_only_the_first_has_a_charge(
    crashing: Server, own_upstream: Upstream
) -> None:
    """The whole call is lost before its answer, the stream after three words: both are charged by the rules, once.
    Those that waited held nothing, and are answered when they ask again.
    """
    crashing.start()
    cells = [Cell(WHOLE_ENDPOINTS[0], CHAT), Cell(NATIVE_STREAM, CHAT)]
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(new_user(crashing)) for _ in cells]
        prompts = [scripted(one.marker, answer=ANSWER, usage=USAGE, gate_after=[3, one.marker]) for one in callers]
        lost = []
        for caller, cell, prompt in zip(callers, cells, prompts, strict=True):
            lost.append(asyncio.create_task(ask(caller, cell, prompt)))
            await until_at_gate(own_upstream, caller.marker)
            lost += [asyncio.create_task(ask(caller, cell, prompt)) for _ in range(FOLLOWERS)]
        await until_waiting(callers[0], FOLLOWERS * len(cells))
        crashing.program.kill()
        ends = await asyncio.gather(*lost, return_exceptions=True)
        assert all(isinstance(end, aiohttp.ClientError) for end in ends), ends
        crashing.start()
        closed = {charge.user_id: charge for charge in await closed_charges(crashing)}
        assert len(closed) == len(await closed_charges(crashing)) == len(cells)
        for caller, cell, prompt in zip(callers, cells, prompts, strict=True):
            charge = closed[caller.principal.user_id]
            assert (charge.state, charge.basis, charge.error) == ("settled", "unknown", "lease_over"), cell
            assert 0 < charge.cost_tokens <= charge.held_tokens, cell
            assert charge.cost_tokens + charge.forgiven_tokens == charge.held_tokens, cell
            await asyncio.to_thread(own_upstream.open, caller.marker)
            again = [await ask(caller, cell, prompt) for _ in range(2)]
            assert [one.headers["X-Cache"] for one in again] == ["miss", "hit"]
            assert {one.answer.text for one in again} == {ANSWER}
            hit, made, first = await caller.charges()
            assert (hit["basis"], hit["cost"], made["basis"], made["cost"]) == ("cache", 0, "provider", 18)
            quota = await caller.quota()
            assert (quota["used"], quota["reserved"]) == (first["cost"] + 18, 0)
            assert len(own_upstream.requests(caller.marker)) == 2
    await assert_ledger_is_consistent(crashing.database_url)
    assert "open holds: 0\n" in crashing.command("ledger", "verify")
    crashing.stop()
