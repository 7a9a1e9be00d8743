"""Who pays, row by row, at every door and on every provider's wire: what is charged, what is said, who was asked."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from journeys.support.client_formats import SECRET
from journeys.support.endpoints import DOORS, call
from journeys.support.provider_wires import CHAT, GONE, MESSAGES, OLLAMA
from journeys.support.server import Server
from journeys.support.users import Person
from journeys.support.who_pays import (
    ANSWER,
    EVERY_STREAM,
    EVERY_WHOLE,
    NUMBERS,
    Cell,
    End,
    broken,
    check_told,
    counted,
    free,
    paid,
    unknown,
    walk,
)
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.exhaustive_on_postgres

REPORTED = (11, 7)
LIMIT = 100
HEARD = "one two three"
LONG = " ".join(["word"] * 2_000)
CALLED = {"name": "look_up", "arguments": {"city": "Paris"}}
INTERRUPTED, LATE = unknown(502, "provider_error"), unknown(504, "provider_timeout")


@dataclass(frozen=True)
class Row:
    """A script of the upstream, and how a call ends that is answered whole, as a stream, and in numbers."""

    script: dict[str, Any]
    whole: End
    stream: End
    numbers: End | None = None
    only_own: bool = False
    """Only where the provider's wire is the door's."""

    @property
    def cells(self) -> list[Cell]:
        cells = [cell for cell in (*EVERY_WHOLE, *EVERY_STREAM) if cell.passes_on or not self.only_own]
        return cells if self.numbers is None else [*cells, NUMBERS]

    def end(self, cell: Cell) -> End:
        if not cell.door.writes:
            assert self.numbers is not None
            return self.numbers
        return self.stream if cell.door.streams else self.whole

    async def walk(self, server: Server, upstream: Upstream) -> None:
        async def visit(cell: Cell, caller: Person, prompt: str) -> End:
            made = await call(caller, cell.door, prompt, cell.wire.model, LIMIT)
            return check_told(cell, made, self.end(cell))

        await walk(server, upstream, self.cells, visit, self.script)


def reported(usage: tuple[int, int], **script: Any) -> Row:
    told = {"answer": ANSWER, "usage": {"input": usage[0], "output": usage[1]}}
    return Row(told | script, paid(usage), paid(usage), paid((usage[0], 0)))


def not_reported(**script: Any) -> Row:
    return Row({"answer": ANSWER} | script, counted(), counted(), counted())


def refused(status: int, told: int, code: str, asked: int = 1, **script: Any) -> Row:
    """The provider refuses before it says anything."""
    end = free(told, code, asked)
    return Row({"status": status} | script, end, end, end)


def unreadable(code: str = "provider_bad_response", *, only_own: bool = False, **script: Any) -> Row:
    """What comes is no answer, and nobody knows what it cost."""
    end = unknown(502, code)
    return Row(script, end, end, end, only_own=only_own)


def breaks(how: str, whole: End, code: str = "provider_error") -> Row:
    """After three words, or half-way."""
    return Row({"answer": ANSWER, f"{how}_after": 3}, whole, broken(code, HEARD), whole)


ROWS = {
    "usage reported": reported(REPORTED),
    "nothing used": reported((0, 0)),
    "more reported than held": reported((5_000, 7)),
    "nothing reported": not_reported(without_usage=True),
    "absurd usage": not_reported(usage={"input": -9, "output": -5}),
    "usage beyond the window": not_reported(usage={"input": 3_000_000, "output": 7}),
    "every event twice": Row(
        {"answer": ANSWER, "usage": {"input": 11, "output": 7}, "duplicate_frames": True},
        paid(REPORTED),
        paid(REPORTED, text=None)._replace(twice=True),
        paid((11, 0)),
    ),
    "longer than the limit": Row(
        {"over_generate": 2_000, "usage": {"input": 11, "output": 2_000}},
        paid((11, 2_000), " ".join(["word"] * LIMIT))._replace(cut=True),
        counted(None)._replace(cut=True),
    ),
    "closed": breaks("close", INTERRUPTED),
    "garbage": breaks("garbage", unknown(502, "provider_bad_response"), "provider_bad_response"),
    "an error": breaks("error", free(502, "provider_error", asked=2)),
    "401": refused(401, 502, "provider_auth_failed"),
    "429": refused(429, 503, "provider_rate_limited", headers={"Retry-After": "7"}),
    "400": refused(400, 400, "provider_rejected"),
    "500": refused(500, 502, "provider_error", asked=2),
    "529": refused(529, 502, "provider_error", asked=2),
    "redirect": refused(302, 502, "provider_error", asked=2, headers={"Location": f"/v1/{SECRET}"}),
    "closed at once": unreadable("provider_error", fault="close"),
    "reset at once": unreadable("provider_error", fault="reset"),
    "truncated": unreadable("provider_error", fault="truncated"),
    "not HTTP": unreadable(fault="not_http"),
    "packed": unreadable(fault="gzip"),
    "gzip bomb": unreadable(fault="gzip_bomb", only_own=True),
    "HTML": unreadable(raw=f"data: <html>{SECRET}</html>\n\n"),
    "nothing": Row({"raw": ""}, unknown(502, "provider_bad_response"), INTERRUPTED),
    "100 MB": unreadable(fault="large", only_own=True),
    "without end": unreadable(fault="endless", only_own=True),
}

SLOW = {
    "deadline": Row({"fault": "hang"}, LATE, LATE, LATE),
    "stalled": breaks("stall", LATE),
    "stalled in a tool call": Row(
        {"reasoning": "think first", "answer": HEARD, "tool_call": CALLED, "stall_after": 7}
        | {"by_model": {OLLAMA.model: {"stall_after": 6}}},
        LATE,
        broken("provider_error", HEARD, f'think first{HEARD}look_up{{"city": "Paris"}}'),
    ),
    "too long in all": Row(
        {"answer": LONG, "pace": 0.3, "usage": {"input": 11, "output": 2_000}},
        paid((11, 2_000), " ".join(["word"] * LIMIT))._replace(cut=True),
        broken("provider_error", None),
    ),
}
"""Rows in which somebody waits until it is too late."""


TYPICAL = {
    "usage reported",
    "nothing reported",
    "longer than the limit",
    "garbage",
    "an error",
    "429",
    "redirect",
    "HTML",
}
"""A row of each kind; the others are in `make check` only."""


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=name, marks=() if name in TYPICAL else pytest.mark.exhaustive) for name, row in ROWS.items()],
)
async def test_every_door_ends_as_the_table_says(doors: Server, upstream: Upstream, row: Row) -> None:
    await row.walk(doors, upstream)


@pytest.mark.exhaustive
async def test_every_door_ends_as_the_table_says_when_the_time_is_up(
    hasty_doors: Server, own_upstream: Upstream
) -> None:
    hasty_doors.start()
    await asyncio.gather(*(row.walk(hasty_doors, own_upstream) for row in SLOW.values()))
    assert "open holds: 0\nClean:" in hasty_doors.command("ledger", "verify")
    hasty_doors.stop()


async def test_a_provider_that_is_not_there_costs_nothing(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        end = free(502, "provider_unavailable", asked=0)
        return check_told(cell, await call(caller, cell.door, prompt, cell.wire.model), end)

    await walk(doors, upstream, [Cell(door, GONE) for door in DOORS], visit, {})


async def test_after_a_reset_what_was_heard_is_paid(doors: Server, upstream: Upstream) -> None:
    """A reset may overtake what was sent before it; all of it, even."""

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        made = await call(caller, cell.door, prompt, cell.wire.model)
        return check_told(cell, made, broken("provider_error", None) if made.said.text else INTERRUPTED)

    script = {"answer": ANSWER, "reset_after": 3}
    arrived = await walk(doors, upstream, [*EVERY_STREAM, *EVERY_WHOLE, NUMBERS], visit, script)
    assert {one["sent_tokens"] for one in arrived} <= {0, 3}


async def test_a_stream_without_its_last_event_is_whole_if_the_provider_had_finished(
    doors: Server, upstream: Upstream
) -> None:
    """Two wires say that an answer is finished before they say that all is said."""

    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        made = await call(caller, cell.door, prompt, cell.wire.model)
        if cell.wire not in (CHAT, MESSAGES):
            return check_told(cell, made, broken("provider_error", ANSWER))
        return check_told(cell, made, paid(REPORTED))

    script = {"answer": ANSWER, "usage": {"input": 11, "output": 7}, "no_done": True}
    await walk(doors, upstream, EVERY_STREAM, visit, script)
