"""A repeated call with its Idempotency-Key gets the same response on every endpoint, without a request or a cost."""

from typing import Any

import pytest

from journeys.support.endpoints import ClientCall, Endpoint, call
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.who_pays import (
    ANSWER,
    EMBEDDINGS_CELL,
    STREAM_CELLS,
    WHOLE_CELLS,
    Cell,
    ExpectedEnd,
    assert_answered,
    one_wire_each,
    paid,
    run_cells,
)
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.stock_postgres

USAGE = {"input": 11, "output": 7}


@pytest.mark.proof
async def test_a_repeated_call_is_replayed_and_costs_nothing(all_wires_server: Server, upstream: Upstream) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        end = paid((11, 7)) if cell.endpoint.returns_text else paid((11, 0))
        first = await _call(cell, caller, prompt)
        assert_answered(cell, first, end)
        again = await _call(cell, caller, prompt)
        assert_answered(cell, again, end)
        assert again.raw == first.raw
        if not cell.endpoint.is_socket:
            assert again.headers["Idempotent-Replayed"] == "true"
            assert "Idempotent-Replayed" not in first.headers
            assert again.headers["Content-Type"] == first.headers["Content-Type"]
        replayed, _ = await caller.charges()
        assert (replayed["state"], replayed["basis"], replayed["cost"], replayed["held"]) == ("settled", "cache", 0, 0)
        return end

    script = {"answer": ANSWER, "usage": USAGE}
    await run_cells(all_wires_server, upstream, _cells(0), run_cell, script)


@pytest.mark.proof
async def test_the_same_key_with_another_body_is_refused(all_wires_server: Server, upstream: Upstream) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        end = paid((11, 7)) if cell.endpoint.returns_text else paid((11, 0))
        assert_answered(cell, await _call(cell, caller, prompt), end)
        other = await _call(cell, caller, f"{prompt} Again.")
        assert (other.status, other.code) == (422, "idempotency_key_reused")
        return end

    script = {"answer": ANSWER, "usage": USAGE}
    await run_cells(all_wires_server, upstream, _cells(1), run_cell, script)


def _cells(turn: int) -> list[Cell]:
    return [*one_wire_each((*WHOLE_CELLS, *STREAM_CELLS), turn), EMBEDDINGS_CELL]


async def _call(cell: Cell, caller: ApiUser, prompt: str) -> ClientCall:
    return await call(caller, cell.endpoint, prompt, cell.wire.model, more=_key(cell.endpoint, caller))


def _key(endpoint: Endpoint, caller: ApiUser) -> dict[str, Any]:
    return {"idempotency_key" if endpoint.is_socket else "Idempotency-Key": caller.marker}
