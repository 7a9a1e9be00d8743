"""The same call again, with its Idempotency-Key: the same answer at every door, and nobody is asked or pays twice."""

from typing import Any

import pytest

from journeys.support.endpoints import Call, Door, call
from journeys.support.server import Server
from journeys.support.users import Person
from journeys.support.who_pays import ANSWER, EVERY_STREAM, EVERY_WHOLE, NUMBERS, Cell, End, check_told, paid, walk
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.stock_postgres

USAGE = {"input": 11, "output": 7}


async def test_a_repeated_call_is_answered_as_before_and_costs_nothing(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        end = paid((11, 7)) if cell.door.writes else paid((11, 0))
        first = await _call(cell, caller, prompt)
        check_told(cell, first, end)
        again = await _call(cell, caller, prompt)
        check_told(cell, again, end)
        assert again.raw == first.raw
        if not cell.door.is_socket:
            assert again.headers["Idempotent-Replayed"] == "true"
            assert "Idempotent-Replayed" not in first.headers
            assert again.headers["Content-Type"] == first.headers["Content-Type"]
        replayed, _ = await caller.charges()
        assert (replayed["state"], replayed["basis"], replayed["cost"], replayed["held"]) == ("settled", "cache", 0, 0)
        return end

    script = {"answer": ANSWER, "usage": USAGE}
    await walk(doors, upstream, [*EVERY_WHOLE, *EVERY_STREAM, NUMBERS], visit, script)


async def test_the_same_key_with_another_body_is_refused(doors: Server, upstream: Upstream) -> None:
    async def visit(cell: Cell, caller: Person, prompt: str) -> End:
        end = paid((11, 7)) if cell.door.writes else paid((11, 0))
        check_told(cell, await _call(cell, caller, prompt), end)
        other = await _call(cell, caller, f"{prompt} Again.")
        assert (other.status, other.code) == (422, "idempotency_key_reused")
        return end

    script = {"answer": ANSWER, "usage": USAGE}
    await walk(doors, upstream, [*EVERY_WHOLE, *EVERY_STREAM, NUMBERS], visit, script)


async def _call(cell: Cell, caller: Person, prompt: str) -> Call:
    return await call(caller, cell.door, prompt, cell.wire.model, more=_key(cell.door, caller))


def _key(door: Door, caller: Person) -> dict[str, Any]:
    return {"idempotency_key" if door.is_socket else "Idempotency-Key": caller.marker}
