"""The table "Who pays" for calls that no client waits for, and for those that another call answers."""

import asyncio
from typing import Any

import pytest

from journeys.support.endpoints import NATIVE_STREAM, call
from journeys.support.jobs import ended, submitted
from journeys.support.many_users import many_users
from journeys.support.provider_wires import CHAT, WIRES
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.who_pays import STREAM_CELLS, WHOLE_CELLS, Cell, ExpectedEnd, run_cells
from journeys.test_who_pays_on_every_endpoint import LIMIT, ROWS, TYPICAL, Row
from journeys.upstream.handle import Upstream, scripted

pytestmark = [pytest.mark.exhaustive, pytest.mark.exhaustive_on_postgres, pytest.mark.prove_only_on_postgres]

JOBS = [Cell(NATIVE_STREAM, wire) for wire in WIRES]
CACHED = [cell for cell in (*WHOLE_CELLS, *STREAM_CELLS) if cell.same_wire or cell.wire is CHAT]
SHARED = {"usage reported", "nothing reported"}
"""The typical rows with an answer that ended by itself."""
HEADER = {"X-Tollkeeper-Cache": "true"}


async def test_a_job_pays_what_a_stream_pays(all_wires_server: Server, upstream: Upstream) -> None:
    async def run_row(row: Row) -> None:
        async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
            job_id = await submitted(caller, prompt, model=cell.wire.model, max_tokens=LIMIT)
            job = await ended(caller, job_id)
            end = row.stream
            assert job["status"] == ("completed" if end.code is None else "failed"), job
            assert (job["error"] or {}).get("code") == end.code, job
            return end if job["result"] is None else end._replace(text=job["result"]["answer"])

        await run_cells(all_wires_server, upstream, JOBS, run_cell, row.script)

    for name in sorted(TYPICAL):
        await run_row(ROWS[name])


async def ask_thrice(cell: Cell, caller: ApiUser, prompt: str) -> tuple[set[str], list[Any]]:
    """Ask a question twice at once, and once after that. Returns the answers, and the charges, the latest first."""

    async def ask() -> str:
        more = {"cache": True} if cell.endpoint.is_socket else HEADER
        return (await call(caller, cell.endpoint, prompt, cell.wire.model, LIMIT, more=more)).answer.text

    texts = {*await asyncio.gather(ask(), ask()), await ask()}
    return texts, await caller.charges()


async def test_a_joined_call_and_a_hit_pay_nothing(all_wires_server: Server, upstream: Upstream) -> None:
    async def run_row(row: Row) -> None:
        async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
            texts, [after, joined, made] = await ask_thrice(cell, caller, prompt)
            assert len(texts) == 1, texts
            assert [(one["basis"], one["cost"]) for one in (after, joined)] == [("cache", 0)] * 2
            assert made["basis"] == row.end(cell).basis
            return row.end(cell)

        await run_cells(all_wires_server, upstream, CACHED, run_cell, row.script | {"delay": 0.3})

    for name in sorted(SHARED):
        await run_row(ROWS[name])


async def test_where_there_is_no_whole_answer_to_share_each_call_pays_its_own(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async def run_cell(row: Row, cell: Cell, caller: ApiUser) -> None:
        _, charges = await ask_thrice(cell, caller, scripted(caller.marker, **row.script, delay=0.3))
        end = row.end(cell)
        assert {(one["basis"], one["error"]) for one in charges} == {(end.basis, end.code)}, (cell, charges)
        assert len(charges) == 3
        assert len(upstream.requests(caller.marker)) == 3 * end.requests, cell

    for name in sorted(TYPICAL - SHARED):
        async with many_users(all_wires_server, len(CACHED)) as users:
            pairs = zip(CACHED, users, strict=True)
            await asyncio.gather(*(run_cell(ROWS[name], cell, caller) for cell, caller in pairs))
