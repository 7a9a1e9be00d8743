"""The table "Who pays", row by row, on every endpoint and provider wire: the charge, the response, the requests."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from journeys.support.client_formats import SECRET
from journeys.support.endpoints import ALL_ENDPOINTS, call
from journeys.support.provider_wires import CHAT, MESSAGES, OLLAMA, UNREACHABLE
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
    broken,
    counted,
    free,
    one_wire_each,
    paid,
    run_cells,
    unknown,
)
from journeys.upstream.handle import Upstream
from support.depth import DEPTH, DEPTHS

pytestmark = pytest.mark.exhaustive_on_postgres

REPORTED = (11, 7)
LIMIT = 100
RECEIVED_TEXT = "one two three"
LONG = " ".join(["word"] * 2_000)
TOOL_CALL = {"name": "look_up", "arguments": {"city": "Paris"}}
INTERRUPTED, LATE = unknown(502, "provider_error"), unknown(504, "provider_timeout")


@dataclass(frozen=True)
class Row:
    """A script of the upstream, and how a whole answer, a stream and an embeddings call must end."""

    script: dict[str, Any]
    whole: ExpectedEnd
    stream: ExpectedEnd
    embeddings: ExpectedEnd | None = None
    same_wire_only: bool = False
    """Only where the provider speaks the wire format of the endpoint."""

    def cells(self, turn: int | None = None) -> list[Cell]:
        """All; with a turn, those of `one_wire_each`."""
        cells = [cell for cell in (*WHOLE_CELLS, *STREAM_CELLS) if cell.same_wire or not self.same_wire_only]
        if turn is not None and not self.same_wire_only:
            cells = one_wire_each(cells, turn)
        return cells if self.embeddings is None else [*cells, EMBEDDINGS_CELL]

    def end(self, cell: Cell) -> ExpectedEnd:
        if not cell.endpoint.returns_text:
            assert self.embeddings is not None
            return self.embeddings
        return self.stream if cell.endpoint.streams else self.whole

    async def run(self, server: Server, upstream: Upstream, turn: int | None = None) -> None:
        async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
            client_call = await call(caller, cell.endpoint, prompt, cell.wire.model, LIMIT)
            return assert_answered(cell, client_call, self.end(cell))

        await run_cells(server, upstream, self.cells(turn), run_cell, self.script)


def reported(usage: tuple[int, int], **script: Any) -> Row:
    fields = {"answer": ANSWER, "usage": {"input": usage[0], "output": usage[1]}}
    return Row(fields | script, paid(usage), paid(usage), paid((usage[0], 0)))


def not_reported(**script: Any) -> Row:
    return Row({"answer": ANSWER} | script, counted(), counted(), counted())


def refused(status: int, client_status: int, code: str, requests: int = 1, **script: Any) -> Row:
    """The provider answers with an error status."""
    end = free(client_status, code, requests)
    return Row({"status": status} | script, end, end, end)


def unreadable(code: str = "provider_bad_response", *, same_wire_only: bool = False, **script: Any) -> Row:
    """The provider's answer cannot be read, so its cost is unknown."""
    end = unknown(502, code)
    return Row(script, end, end, end, same_wire_only=same_wire_only)


def breaks(fault: str, whole: ExpectedEnd, code: str = "provider_error") -> Row:
    """The answer breaks after three words, or half-way through a whole answer."""
    return Row({"answer": ANSWER, f"{fault}_after": 3}, whole, broken(code, RECEIVED_TEXT), whole)


ROWS = {
    "usage reported": reported(REPORTED),
    "zeros reported": not_reported(usage={"input": 0, "output": 0}),
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
    "an error": breaks("error", free(502, "provider_error", requests=2)),
    "401": refused(401, 502, "provider_auth_failed"),
    "429": refused(429, 503, "provider_rate_limited", headers={"Retry-After": "7"}),
    "400": refused(400, 400, "provider_rejected"),
    "500": refused(500, 502, "provider_error", requests=2),
    "529": refused(529, 502, "provider_error", requests=2),
    "redirect": refused(302, 502, "provider_error", requests=2, headers={"Location": f"/v1/{SECRET}"}),
    "closed at once": unreadable("provider_error", fault="close"),
    "reset at once": unreadable("provider_error", fault="reset"),
    "truncated": unreadable("provider_error", fault="truncated"),
    "not HTTP": unreadable(fault="not_http"),
    "compressed": unreadable(fault="gzip"),
    "gzip bomb": unreadable(fault="gzip_bomb", same_wire_only=True),
    "HTML": unreadable(raw=f"data: <html>{SECRET}</html>\n\n"),
    "nothing": Row({"raw": ""}, unknown(502, "provider_bad_response"), INTERRUPTED),
    "100 MB": unreadable(fault="large", same_wire_only=True),
    "without end": unreadable(fault="endless", same_wire_only=True),
}

SLOW = {
    "deadline": Row({"fault": "hang"}, LATE, LATE, LATE),
    "stalled": breaks("stall", LATE),
    "stalled in a tool call": Row(
        {"reasoning": "think first", "answer": RECEIVED_TEXT, "tool_call": TOOL_CALL, "stall_after": 7}
        | {"by_model": {OLLAMA.model: {"stall_after": 6}}},
        LATE,
        broken("provider_error", RECEIVED_TEXT, f'think first{RECEIVED_TEXT}look_up{{"city": "Paris"}}'),
    ),
    "too long in all": Row(
        {"answer": LONG, "pace": 0.3, "usage": {"input": 11, "output": 2_000}},
        paid((11, 2_000), " ".join(["word"] * LIMIT))._replace(cut=True),
        broken("provider_error", None),
    ),
}
"""Rows in which a deadline passes."""


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
"""One row of each kind; the other rows run in `make check` only, on SQLite."""
ON_EVERY_WIRE = {"usage reported", "nothing reported", "garbage", "an error"}
"""One row of each basis: on SQLite, `make check` runs them on every pair of an endpoint and a wire."""
OTHERS_MARKS = (pytest.mark.exhaustive, pytest.mark.prove_only_on_postgres)


@pytest.mark.proof
@pytest.mark.parametrize(
    "name", [pytest.param(name, id=name, marks=() if name in TYPICAL else OTHERS_MARKS) for name in ROWS]
)
async def test_every_endpoint_ends_as_the_table_says(all_wires_server: Server, upstream: Upstream, name: str) -> None:
    has_all = name in ON_EVERY_WIRE and DEPTH is not DEPTHS["test"] and all_wires_server.is_on_sqlite
    await ROWS[name].run(all_wires_server, upstream, None if has_all else list(ROWS).index(name))


@pytest.mark.proof
@pytest.mark.prove_only_on_postgres
@pytest.mark.exhaustive
async def test_every_endpoint_ends_as_the_table_says_after_a_deadline(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    short_deadline_server.start()
    rows = enumerate(SLOW.values())
    await asyncio.gather(*(row.run(short_deadline_server, own_upstream, turn) for turn, row in rows))
    assert "open holds: 0\n" in short_deadline_server.command("ledger", "verify")
    short_deadline_server.stop()


@pytest.mark.prove_only_on_postgres
async def test_an_unreachable_provider_costs_nothing(all_wires_server: Server, upstream: Upstream) -> None:
    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        end = free(502, "provider_unavailable", requests=0)
        return assert_answered(cell, await call(caller, cell.endpoint, prompt, cell.wire.model), end)

    await run_cells(
        all_wires_server, upstream, [Cell(endpoint, UNREACHABLE) for endpoint in ALL_ENDPOINTS], run_cell, {}
    )


@pytest.mark.proof
@pytest.mark.prove_only_on_postgres
async def test_after_a_reset_what_was_received_is_charged(all_wires_server: Server, upstream: Upstream) -> None:
    """A reset may discard data that was sent before it, even all of it."""

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        client_call = await call(caller, cell.endpoint, prompt, cell.wire.model)
        return assert_answered(
            cell, client_call, broken("provider_error", None) if client_call.answer.text else INTERRUPTED
        )

    script = {"answer": ANSWER, "reset_after": 3}
    requests = await run_cells(
        all_wires_server, upstream, [*STREAM_CELLS, *one_wire_each(WHOLE_CELLS, 0), EMBEDDINGS_CELL], run_cell, script
    )
    assert {one["sent_tokens"] for one in requests} <= {0, 3}


@pytest.mark.prove_only_on_postgres
async def test_a_stream_without_its_last_event_is_complete_if_it_has_a_finish_reason(
    all_wires_server: Server, upstream: Upstream
) -> None:
    """Two wires send the finish reason before the last event."""

    async def run_cell(cell: Cell, caller: ApiUser, prompt: str) -> ExpectedEnd:
        client_call = await call(caller, cell.endpoint, prompt, cell.wire.model)
        if cell.wire not in (CHAT, MESSAGES):
            return assert_answered(cell, client_call, broken("provider_error", ANSWER))
        return assert_answered(cell, client_call, paid(REPORTED))

    script = {"answer": ANSWER, "usage": {"input": 11, "output": 7}, "no_done": True}
    await run_cells(all_wires_server, upstream, STREAM_CELLS, run_cell, script)
