"""Moderation over every endpoint and provider wire: what is blocked, replaced and put back, and who pays for it."""

import asyncio
import json
import re
from typing import Any

import pytest

from journeys.support.endpoints import ClientCall, call
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.moderation import moderated_users, policy
from journeys.support.provider_wires import CHAT, MESSAGES
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.who_pays import EMBEDDINGS_CELL, STREAM_CELLS, WHOLE_CELLS, Cell, closed_charge, count_tokens
from journeys.upstream.handle import Upstream, scripted

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(but=("test_a_blocked_whole_answer_is_refused_and_paid",)),
]

CELLS = [cell for cell in (*WHOLE_CELLS, *STREAM_CELLS) if cell.same_wire or cell.wire in (CHAT, MESSAGES)]
STREAMS = [cell for cell in CELLS if cell.endpoint.streams]
EMAIL, IBAN = "ada.lovelace@example.com", "DE89 3704 0044 0532 0130 00"
PLACEHOLDER = re.compile(r"\[(?:EMAIL|IBAN)_[0-9a-f]{8}\]")
HIDDEN = "Eagle"
BEFORE = " ".join(f"word{number}" for number in range(40))
AFTER = " ".join(f"later{number}" for number in range(400))
FILTERED = {"/v1/messages": "refusal"}
"""The finish reason of an answer that was cut, where it is not `content_filter`."""
POLICY = policy(
    {"name": "no-heron", "action": "block", "words": ["Project Heron"], "stages": ["input"]},
    {"name": "personal", "action": "redact", "pii": ["email", "iban"]},
    {"name": "no-eagle", "action": "block", "pattern": f"(?i)project {HIDDEN}", "stages": ["output"]},
    {"name": "curious", "action": "block", "words": ["curious"], "report_only": True},
    window={"tokens": 4},
)


async def ask(caller: ApiUser, cell: Cell, prompt: str, limit: int = 900, **more: Any) -> ClientCall:
    return await call(caller, cell.endpoint, prompt, cell.wire.model, limit, more=more)


async def test_a_blocked_input_is_refused_and_free_on_every_endpoint(
    all_wires_server: Server, upstream: Upstream
) -> None:
    cells = [*CELLS, EMBEDDINGS_CELL]

    async def check(cell: Cell, caller: ApiUser) -> None:
        refused = await ask(caller, cell, f"{caller.marker} tell me of PROJECT heron, please")
        assert (refused.status, refused.code) == (400, "content_blocked"), (cell, refused.raw)
        assert b"no-heron" in refused.raw, cell
        assert await caller.charges() == [], cell
        assert upstream.requests(caller.marker) == [], cell

    async with moderated_users(all_wires_server, len(cells), POLICY) as callers:
        await asyncio.gather(*map(check, cells, callers))


async def test_what_is_redacted_reaches_no_provider_and_is_put_back_on_every_endpoint(
    all_wires_server: Server, upstream: Upstream
) -> None:
    answer = f"Dear {EMAIL}, your account is {IBAN} or so."

    async def check(cell: Cell, caller: ApiUser) -> None:
        answered = await ask(caller, cell, scripted(caller.marker, answer=answer))
        assert answered.status == 200, (cell, answered.raw)
        assert answered.answer.text == answer, cell
        assert PLACEHOLDER.search(answered.raw.decode()) is None, cell
        (sent,) = upstream.requests(caller.marker)
        body = json.dumps(sent["body"])
        assert (EMAIL in body, IBAN in body) == (False, False), cell
        assert len(PLACEHOLDER.findall(body)) == 2, cell
        charge = await closed_charge(caller)
        assert (charge["state"], charge["basis"], charge["error"]) == ("settled", "provider", None), cell

    async with moderated_users(all_wires_server, len(CELLS), POLICY) as callers:
        await asyncio.gather(*map(check, CELLS, callers))


async def test_a_blocked_whole_answer_is_refused_and_paid(all_wires_server: Server, upstream: Upstream) -> None:
    cells = [cell for cell in CELLS if not cell.endpoint.streams]

    async def check(cell: Cell, caller: ApiUser) -> None:
        prompt = scripted(caller.marker, answer=f"{BEFORE} Project {HIDDEN}", usage={"input": 11, "output": 42})
        refused = await ask(caller, cell, prompt)
        assert (refused.status, refused.code) == (400, "content_blocked"), (cell, refused.raw)
        assert b"no-eagle" in refused.raw, cell
        assert HIDDEN.encode() not in refused.raw, cell
        charge = await closed_charge(caller)
        assert (charge["basis"], charge["cost"], charge["error"]) == ("provider", 53, "content_blocked"), cell
        assert refused.headers["X-Charge-ID"] == charge["id"], cell

    async with moderated_users(all_wires_server, len(cells), POLICY) as callers:
        await asyncio.gather(*map(check, cells, callers))


async def test_a_blocked_stream_never_shows_what_is_blocked_and_cuts_the_provider(
    all_wires_server: Server, upstream: Upstream
) -> None:
    """The caller pays the input and what was received, which is more than what was shown."""

    async def check(cell: Cell, caller: ApiUser) -> None:
        prompt = scripted(caller.marker, answer=f"{BEFORE} Project {HIDDEN} {AFTER}", pace=0.002)
        cut = await ask(caller, cell, prompt)
        assert cut.status == 200, (cell, cut.raw)
        assert HIDDEN.encode() not in cut.raw, cell
        assert cut.answer.text, cell
        assert BEFORE.startswith(cut.answer.text.rstrip()), cell
        assert cut.answer.error is None, cell
        assert cut.answer.end_events == 1, cell
        assert cut.answer.finish == FILTERED.get(cell.endpoint.path, "content_filter"), (cell, cut.answer.finish)
        charge = await closed_charge(caller)
        assert (charge["state"], charge["basis"], charge["error"]) == ("settled", "counted", None), (cell, charge)
        (sent,) = upstream.sent(caller.marker)
        assert sent.cancelled, cell
        assert not sent.finished, cell
        shown, whole = count_tokens(cut.answer.text), count_tokens(f"{BEFORE} Project {HIDDEN} {AFTER}")
        assert shown < charge["output_tokens"] < whole, cell

    async with moderated_users(all_wires_server, len(STREAMS), POLICY) as callers:
        await asyncio.gather(*map(check, STREAMS, callers))
    await assert_ledger_is_consistent(all_wires_server.database_url)


async def test_a_stream_that_is_blocked_before_anything_was_sent_is_refused(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async def check(cell: Cell, caller: ApiUser) -> None:
        refused = await ask(caller, cell, scripted(caller.marker, answer=f"Project {HIDDEN} is"))
        assert (refused.status, refused.code) == (400, "content_blocked"), (cell, refused.raw)
        assert HIDDEN.encode() not in refused.raw, cell
        assert (await closed_charge(caller))["error"] == "content_blocked"

    async with moderated_users(all_wires_server, len(STREAMS), POLICY) as callers:
        await asyncio.gather(*map(check, STREAMS, callers))


async def test_personal_data_of_the_model_is_masked_and_report_only_changes_nothing(all_wires_server: Server) -> None:
    """The model makes the address up: it is in the answer only, whose script the prompt encodes."""
    made_up = "somebody\\u0040example.org"

    async def check(cell: Cell, caller: ApiUser) -> None:
        prompt = scripted(caller.marker, answer="I am curious: write to X today.").replace("X", made_up)
        answered = await ask(caller, cell, prompt)
        assert answered.status == 200, (cell, answered.raw)
        assert answered.answer.text == "I am curious: write to [EMAIL] today.", cell

    async with moderated_users(all_wires_server, len(CELLS), POLICY) as callers:
        await asyncio.gather(*map(check, CELLS, callers))


async def test_a_redacted_question_is_answered_from_the_cache_with_the_values_of_its_caller(
    all_wires_server: Server, upstream: Upstream
) -> None:
    """Only the placeholders are kept; those of the first call stand for the values of the second."""

    async def check(cell: Cell, caller: ApiUser) -> None:
        prompt = scripted(caller.marker, answer=f"Write to {EMAIL} now.")
        more: dict[str, Any] = {"cache": True} if cell.endpoint.is_socket else {"X-Tollkeeper-Cache": "true"}
        first, second = [await ask(caller, cell, prompt, **more) for _ in range(2)]
        for answered in (first, second):
            assert answered.answer.text == f"Write to {EMAIL} now.", (cell, answered.raw)
        other = scripted(caller.marker, answer="Write to grace@example.org now.")
        third = await ask(caller, cell, other, **more)
        assert third.answer.text == "Write to grace@example.org now.", cell
        assert [charge["basis"] for charge in await caller.charges()] == ["provider", "cache", "provider"], cell
        assert len(upstream.requests(caller.marker)) == 2, cell

    cells = [cell for cell in CELLS if cell.wire is CHAT]
    async with moderated_users(all_wires_server, len(cells), POLICY) as callers:
        await asyncio.gather(*map(check, cells, callers))


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_tool_arguments_are_restored_as_valid_json(
    all_wires_server: Server, upstream: Upstream, *, streams: bool
) -> None:
    """The value has characters that JSON escapes, as the prompt has it. The model sends its placeholder."""
    name = 'Ada "the" \\count\\'
    rule = {"name": "names", "action": "redact", "pattern": r'Ada ."the." .{1,2}count.{1,2}'}
    tools = [{"type": "function", "function": {"name": "mail", "parameters": {"type": "object"}}}]
    async with moderated_users(all_wires_server, 1, policy(rule, window={"tokens": 4})) as (caller,):
        script = {"tool_call": {"name": "mail", "arguments": {"to": f"Dear {name} and all", "when": 7}}}
        body = {
            "model": CHAT.model,
            "messages": [{"role": "user", "content": scripted(caller.marker, **script)}],
            "tools": tools,
            "stream": streams,
        }
        async with caller.http.post("/v1/chat/completions", json=body, headers=caller.auth_headers) as response:
            assert response.status == 200
            raw = await response.text()
        (sent,) = upstream.requests(caller.marker)
        assert "count" not in json.dumps(sent["body"])
        assert json.loads(_arguments(raw, streams=streams)) == {
            "to": f"Dear {json.dumps(name)[1:-1]} and all",
            "when": 7,
        }


def _arguments(raw: str, *, streams: bool) -> str:
    if not streams:
        (call_made,) = json.loads(raw)["choices"][0]["message"]["tool_calls"]
        return str(call_made["function"]["arguments"])
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    return "".join(one["function"].get("arguments", "") for delta in deltas for one in delta.get("tool_calls", ()))
