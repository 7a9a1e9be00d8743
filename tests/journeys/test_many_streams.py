"""Hundreds of streams at once in one process, half of them hung up on: each is charged what it received, and closed."""

import asyncio
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from journeys.support.endpoints import STREAMED, Door, calling
from journeys.support.ledger_checks import assert_books_are_right, charges_in
from journeys.support.many_users import crowd
from journeys.support.processes import ReservedPort
from journeys.support.provider_wires import WIRES, Wire, write_catalog
from journeys.support.server import Server
from journeys.support.users import Person
from journeys.support.who_pays import tokens
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S
from tollkeeper.quota.rules.models import Charge

pytestmark = pytest.mark.exhaustive

WORDS = 30
ANSWER = " ".join(["word"] * WORDS)
PACE_S = 0.1
PEOPLE = 20
MIN_LIMIT = 100
"""No two calls have the same limit: by it, a call's charge is found."""


class Stream(NamedTuple):
    """One call, and how many words of it are heard before the caller hangs up; None: all of it."""

    caller: Person
    door: Door
    wire: Wire
    number: int
    hears: int | None

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
    nobody = ReservedPort()
    server = Server(database_url, folder, write_catalog(folder, upstream, nobody))
    try:
        server.start()
        async with crowd(server, PEOPLE) as people:
            streams = _plan(people, count)
            calls = [asyncio.create_task(_listen(stream)) for stream in streams]
            await _all_in_flight(upstream, calls)
            upstream.open("all")
            heard = await asyncio.gather(*calls)
        await _all_closed(server)
        charges = {charge.granted_output: charge for charge in await charges_in(database_url)}
        sent = {_marker_in(one): one for one in upstream.seen("-")}
        assert len(charges) == len(sent) == count
        for stream, words in zip(streams, heard, strict=True):
            _assert_charged(stream, words, charges[stream.limit], sent[stream.marker])
        assert sum(charge.basis == "counted" for charge in charges.values()) > count // 3, "hardly any was cut"
        await assert_books_are_right(database_url)
        assert "open holds: 0\nClean:" in server.command("ledger", "verify")
        server.stop()
    finally:
        server.free()
        nobody.free()


def _plan(people: list[Person], count: int) -> list[Stream]:
    """Every other caller hangs up, at a point that only chance knows."""
    chance = random.Random(20261121)
    return [
        Stream(
            people[number % len(people)],
            STREAMED[number % len(STREAMED)],
            WIRES[number // len(STREAMED) % len(WIRES)],
            number,
            chance.randint(1, WORDS - 1) if chance.random() < 0.5 else None,
        )
        for number in range(count)
    ]


async def _listen(stream: Stream) -> int:
    """How many words were heard."""
    prompt = scripted(stream.marker, answer=ANSWER, pace=PACE_S, gate="all")
    async with calling(stream.caller, stream.door, prompt, stream.wire.model, stream.limit) as made:
        if stream.hears is None:
            await made.rest()
            assert (made.said.text, made.said.ends, made.said.error) == (ANSWER, 1, None)
        else:
            await made.hear(stream.hears)
            await made.hang_up()
        return made.said.words


async def _all_in_flight(upstream: Upstream, calls: list[asyncio.Task[int]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(upstream.waiting, "all") < len(calls):
            for ended in filter(asyncio.Task.done, calls):
                if ended.exception() is not None:
                    ended.result()
            await asyncio.sleep(0.1)


async def _all_closed(server: Server) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while any(charge.closed_ms is None for charge in await charges_in(server.database_url)):
            await asyncio.sleep(0.2)


def _assert_charged(stream: Stream, words: int, charge: Charge, sent: dict[str, Any]) -> None:
    assert charge.state == "settled", charge
    if stream.hears is None:
        assert sent["finished"]
        assert charge.basis == "provider", charge
        assert charge.output_tokens == words == WORDS
        return
    assert charge.output_tokens is not None
    assert words <= charge.output_tokens <= sent["sent_tokens"], (stream, charge, sent)
    assert charge.cost_tokens == (charge.input_tokens or 0) + charge.output_tokens, charge
    assert charge.output_tokens == tokens(" ".join(["word"] * charge.output_tokens)), "a word is a token"


def _marker_in(request: dict[str, Any]) -> str:
    """The caller's and the call's, from whatever wire's body."""
    prompt = str(request["body"])
    end = prompt.index("- <<")
    return prompt[prompt.rindex("m", 0, end) : end + 1]
