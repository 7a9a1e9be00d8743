"""Hundreds of concurrent streams in one process, half of them cut by the client: each is charged what was received."""

import asyncio
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from journeys.support.endpoints import STREAMING_ENDPOINTS, Endpoint, open_call
from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.many_users import many_users
from journeys.support.processes import ReservedPort
from journeys.support.provider_wires import WIRES, Wire, write_catalog
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.who_pays import count_tokens
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.quota.rules.models import Charge

pytestmark = pytest.mark.exhaustive

WORDS = 30
ANSWER = " ".join(["word"] * WORDS)
PACE_S = 0.1
USERS = 20
MIN_LIMIT = 100
"""No two calls have the same output limit, so that a charge can be found by it."""


class Stream(NamedTuple):
    """One call, and how many words the client reads before it disconnects; None: it reads to the end."""

    caller: ApiUser
    endpoint: Endpoint
    wire: Wire
    number: int
    reads: int | None

    @property
    def marker(self) -> str:
        return f"{self.caller.marker}-{self.number}-"

    @property
    def limit(self) -> int:
        return MIN_LIMIT + self.number


async def test_500_streams_at_once_on_sqlite(sqlite_url: str, tmp_path: Path, own_upstream: Upstream) -> None:
    await _stream_many(sqlite_url, tmp_path, own_upstream, 500)


async def test_100_streams_at_once_on_postgres(postgres_url: str, tmp_path: Path, own_upstream: Upstream) -> None:
    await _stream_many(postgres_url, tmp_path, own_upstream, 100)


async def _stream_many(database_url: str, folder: Path, upstream: Upstream, count: int) -> None:
    unused_port = ReservedPort()
    server = Server(database_url, folder, write_catalog(folder, upstream, unused_port))
    try:
        server.start()
        async with many_users(server, USERS) as users:
            streams = _plan(users, count)
            calls = [asyncio.create_task(_read_stream(stream)) for stream in streams]
            await _all_in_flight(upstream, calls)
            upstream.open("all")
            received_words = await asyncio.gather(*calls)
        await _all_closed(server)
        charges = {charge.granted_output: charge for charge in await charges_in(database_url)}
        sent = {_marker_in(one): one for one in upstream.requests("-")}
        assert len(charges) == len(sent) == count
        for stream, words in zip(streams, received_words, strict=True):
            _assert_charged(stream, words, charges[stream.limit], sent[stream.marker])
        assert sum(charge.basis == "counted" for charge in charges.values()) > count // 3, "few streams were cut"
        await assert_ledger_is_consistent(database_url)
        assert "open holds: 0\n" in server.command("ledger", "verify")
        server.stop()
    finally:
        server.free()
        unused_port.free()


def _plan(users: list[ApiUser], count: int) -> list[Stream]:
    """About half of the clients disconnect, after a random number of words."""
    rng = random.Random(20261121)
    return [
        Stream(
            users[number % len(users)],
            STREAMING_ENDPOINTS[number % len(STREAMING_ENDPOINTS)],
            WIRES[number // len(STREAMING_ENDPOINTS) % len(WIRES)],
            number,
            rng.randint(1, WORDS - 1) if rng.random() < 0.5 else None,
        )
        for number in range(count)
    ]


async def _read_stream(stream: Stream) -> int:
    """Read a stream as planned. Returns how many words were received."""
    prompt = scripted(stream.marker, answer=ANSWER, pace=PACE_S, gate="all")
    async with open_call(stream.caller, stream.endpoint, prompt, stream.wire.model, stream.limit) as client_call:
        if stream.reads is None:
            await client_call.read_all()
            assert (client_call.answer.text, client_call.answer.end_events, client_call.answer.error) == (
                ANSWER,
                1,
                None,
            )
        else:
            await client_call.read_words(stream.reads)
            await client_call.disconnect()
        return client_call.answer.words


async def _all_in_flight(upstream: Upstream, calls: list[asyncio.Task[int]]) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while await asyncio.to_thread(upstream.waiting, "all") < len(calls):
            for done_call in filter(asyncio.Task.done, calls):
                if done_call.exception() is not None:
                    done_call.result()
            await asyncio.sleep(0.1)


async def _all_closed(server: Server) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while any(charge.closed_ms is None for charge in await charges_in(server.database_url)):
            await asyncio.sleep(0.2)


def _assert_charged(stream: Stream, words: int, charge: Charge, sent: dict[str, Any]) -> None:
    assert charge.state == "settled", charge
    if stream.reads is None:
        assert sent["finished"]
        assert charge.basis == "provider", charge
        assert charge.output_tokens == words == WORDS
        return
    assert charge.output_tokens is not None
    assert words <= charge.output_tokens <= sent["sent_tokens"], (stream, charge, sent)
    assert charge.cost_tokens == (charge.input_tokens or 0) + charge.output_tokens, charge
    assert charge.output_tokens == count_tokens(" ".join(["word"] * charge.output_tokens)), "a word is a token"


def _marker_in(request: dict[str, Any]) -> str:
    """The marker of the stream that a request to the upstream belongs to, on any wire."""
    prompt = str(request["body"])
    end = prompt.index("- <<")
    return prompt[prompt.rindex("m", 0, end) : end + 1]
