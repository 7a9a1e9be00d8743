"""Calls to several servers on one database while these fail, and what must hold in the end: see `Load.check`."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple

import aiohttp
import asyncpg

from journeys.support.booked import assert_all_is_booked
from journeys.support.endpoints import STREAMING_ENDPOINTS, WHOLE_ENDPOINTS, Endpoint, call
from journeys.support.ledger_checks import charges_in
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream, scripted

USAGE = {"input": 11, "output": 7}
COST = 18
MODEL = "gpt-4o-mini"
ENDPOINTS = (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS)
PACE_S = 0.1
"""Between two calls of a loop, on average."""
REFUSALS = {429, 503}
_SNAPSHOT = """
SELECT count(*) FILTER (
    WHERE settled + pending > granted AND NOT EXISTS (
        SELECT 1 FROM entries
        WHERE entries.tenant_id = windows.tenant_id AND entries.window_id = windows.id AND kind = 'adjust'
    )
) FROM windows
"""
"""Windows above their quota, except by a late adjustment."""


class Reply(NamedTuple):
    """An answer that a client has received as a whole. No other call has the same output limit."""

    limit: int
    status: int
    endpoint: str
    error: str


class Load:
    """Loops that call with each of the callers on each of the servers, on every endpoint, until `stop`."""

    def __init__(self, servers: Sequence[Server], upstream: Upstream, limits: Iterator[int]) -> None:
        self._servers = servers
        self._upstream = upstream
        self._limits = limits
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self.replies: list[Reply] = []
        self.lost = 0
        """How many calls got no whole answer: the connection or the stream broke."""

    async def start(self, callers: Sequence[ApiUser], stack: AsyncExitStack) -> None:
        for server in self._servers:
            for number, caller in enumerate(callers):
                there = await stack.enter_async_context(caller.on_server(server))
                self._loops.append(asyncio.create_task(self._call_repeatedly(there, random.Random(number))))

    async def stop(self) -> None:
        """Let the calls that have begun end."""
        self._stopping = True
        await asyncio.gather(*self._loops)

    async def served(self, count: int) -> None:
        """Wait until so many more calls were answered with 200."""
        goal = self._answers() + count
        while self._answers() < goal:
            for loop in self._loops:
                if loop.done():
                    loop.result()
            await asyncio.sleep(0.05)

    async def check(self) -> None:
        """Each whole answer is booked as reported, and what was served is booked. A refused call was not served, except
        one whose lease was lost before its first output: another server has closed its charge.
        """
        await assert_all_is_booked(self._servers[0], self._upstream)
        charges = {charge.granted_output: charge for charge in await charges_in(self._servers[0].database_url)}
        statuses = Counter(reply.status for reply in self.replies)
        assert statuses.keys() <= {200} | REFUSALS, statuses
        for reply in self.replies:
            if reply.status == 200:
                charge = charges[reply.limit]
                assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "provider", COST), charge
        served = {answer.limit for answer in self._upstream.served()}
        refused = [reply for reply in self.replies if reply.status in REFUSALS and reply.limit in served]
        assert all(charges[reply.limit].closed_by == "expire" for reply in refused), refused

    def _answers(self) -> int:
        return sum(reply.status == 200 for reply in self.replies)

    async def call_at_once(self, caller: ApiUser, count: int) -> None:
        """So many calls at the same time on each server, each with a connection of its own."""
        async with AsyncExitStack() as stack:
            there = [await stack.enter_async_context(caller.on_server(server)) for server in self._servers]
            await asyncio.gather(*(self._call(one, random.Random(number)) for number in range(count) for one in there))

    async def _call_repeatedly(self, caller: ApiUser, rng: random.Random) -> None:
        while not self._stopping:
            await self._call(caller, rng)
            await asyncio.sleep(rng.uniform(0, 2 * PACE_S))

    @asynccontextmanager
    async def open_calls(self, caller: ApiUser) -> AsyncIterator[None]:
        """During the block a call is open on each server: the provider has it, and answers at the end of the block."""
        gate = f"gate-{next(self._limits)}"
        async with AsyncExitStack() as stack:
            there = [await stack.enter_async_context(caller.on_server(server)) for server in self._servers]
            prompt = scripted(caller.marker, gate_after=[0, gate], usage=USAGE)
            calls = [asyncio.create_task(self._send(one, WHOLE_ENDPOINTS[0], prompt)) for one in there]
            while await asyncio.to_thread(self._upstream.waiting, gate) < len(calls):
                assert not any(each.done() for each in calls), self.replies[-len(calls) :]
                await asyncio.sleep(0.02)
            yield
            await asyncio.to_thread(self._upstream.open, gate)
            await asyncio.gather(*calls)

    async def _call(self, caller: ApiUser, rng: random.Random) -> None:
        endpoint = rng.choice(ENDPOINTS)
        await self._send(caller, endpoint, scripted(caller.marker, delay=rng.uniform(0, 2 * PACE_S), usage=USAGE))

    async def _send(self, caller: ApiUser, endpoint: Endpoint, prompt: str) -> None:
        limit = next(self._limits)
        broken = (aiohttp.ClientError, ConnectionError, *((AssertionError, TypeError) if endpoint.is_socket else ()))
        try:
            ended = await call(caller, endpoint, prompt, MODEL, limit)
        except broken:
            self.lost += 1
            return
        if ended.status == 200 and (ended.answer.error is not None or not ended.answer.end_events):
            self.lost += endpoint.streams  # a stream that has begun can only break
        else:
            self.replies.append(Reply(limit, ended.status, endpoint.name, str(ended.answer.error)))


class Watch:
    """What `watch` has seen: how many snapshots, and the most connections of servers."""

    snapshots = 0
    connections = 0


@asynccontextmanager
async def watch(database_url: Callable[[], str]) -> AsyncIterator[Watch]:
    """Look at every window again and again: none may be above its quota (P1). While the database is away, wait."""
    seen = Watch()
    watching = asyncio.create_task(_watch(database_url, seen))
    try:
        yield seen
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(database_url: Callable[[], str], seen: Watch) -> None:
    while True:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(database_url(), timeout=5)
            try:
                while True:
                    above = await connection.fetchval(_SNAPSHOT)
                    assert above == 0, f"{above} windows are above their quota"
                    seen.snapshots += 1
                    others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                    seen.connections = max(seen.connections, await connection.fetchval(others))
                    await asyncio.sleep(0.05)
            finally:
                connection.terminate()
        await asyncio.sleep(0.1)
