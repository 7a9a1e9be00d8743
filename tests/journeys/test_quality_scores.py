"""`evaluate: true`: the tenant's judge rates the answer, in a second charge that is admitted with the first."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from journeys.support.jobs import ended, submit, submitted
from journeys.support.judges import judged, rated, set_judge
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.live_changes import until
from journeys.support.provider_wires import CHAT, MESSAGES, WIRES
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted

NO_JUDGE = "Your tenant has no judge, so evaluate is not supported. An administrator can set judge_model."


async def test_without_a_judge_no_call_can_be_evaluated(all_wires_server: Server) -> None:
    async with rated(all_wires_server) as caller:
        await set_judge(all_wires_server, caller, None)
        off = await caller.query(caller.marker, evaluate=True)
        assert (off.status, off.code, off.body["detail"]) == (400, "unsupported_parameter", NO_JUDGE)
        plain = await caller.query(caller.marker)
        assert (plain.body["quality_score"], plain.body["quality_score_reason"], plain.body["judge"]) == (None,) * 3


@pytest.mark.prove_only_on_postgres
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.model)
async def test_the_judge_rates_the_answer_by_the_tenants_rubric(
    all_wires_server: Server, upstream: Upstream, wire: Any
) -> None:
    async with rated(all_wires_server, wire.model, "Does it rhyme?") as caller:
        answering = CHAT.model if wire is not CHAT else MESSAGES.model
        prompt = judged(caller.marker, {"score": 80}, wire.model)
        reply = await caller.query(prompt, model=answering, evaluate=True)
        assert reply.status == 200, reply
        assert_rated(reply.body, 80, wire.model)
        _, sent = upstream.requests(caller.marker)
        asked = json.dumps(sent["body"])
        for text in ("Does it rhyme?", caller.marker, reply.body["answer"]):
            assert text in asked
        judge, first = await caller.charges()
        assert (judge["surface"], judge["model"]) == ("evaluation", wire.model)
        assert (first["surface"], first["model"]) == ("query", answering)
        ids = [reply.body["judge"]["query_id"], reply.body["query_id"]]
        assert [judge["id"], first["id"]] == ids
        assert judge["cost"] == reply.body["judge"]["cost"] > 0


def assert_rated(body: dict[str, Any], score: int, model: str) -> None:
    assert (body["quality_score"], body["quality_score_reason"]) == (score, None), body
    assert body["judge"]["model"] == model
    assert body["quota"]["reserved"] == 0


NONSENSE: tuple[object, ...] = (
    "A fine answer, 95 of 100.",
    {"score": 101},
    {"score": -1},
    {"score": True},
    {"score": "90"},
    {"score": 90.5},
    {"points": 90},
    '{"score": 90} {"score": 10}',
    [90],
)


async def test_a_judge_that_writes_nonsense_is_paid_and_gives_no_number(all_wires_server: Server) -> None:
    async with rated(all_wires_server) as caller:
        for verdict in NONSENSE:
            reply = await caller.query(judged(caller.marker, verdict), model=CHAT.model, evaluate=True)
            assert reply.status == 200, reply
            assert (reply.body["quality_score"], reply.body["quality_score_reason"]) == (None, "no_score"), verdict
            assert reply.body["judge"]["cost"] > 0
        charges = await caller.charges()
        assert [one["surface"] for one in charges] == ["evaluation", "query"] * len(NONSENSE)
        assert {one["basis"] for one in charges} == {"provider"}


async def test_a_judge_that_fails_costs_nothing_and_the_answer_stands(all_wires_server: Server) -> None:
    async with rated(all_wires_server) as caller:
        reply = await caller.query(judged(caller.marker, {"score": 9}, status=500), model=CHAT.model, evaluate=True)
        assert (reply.status, reply.body["quality_score_reason"]) == (200, "judge_failed"), reply
        assert (reply.body["quality_score"], reply.body["judge"]["cost"]) == (None, 0)
        judge, first = await caller.charges()
        assert [(one["basis"], one["cost"] > 0) for one in (judge, first)] == [("none", False), ("provider", True)]


async def test_a_call_that_fails_is_not_judged_and_the_second_hold_is_given_back(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with rated(all_wires_server) as caller:
        reply = await caller.query(scripted(caller.marker, status=400), model=CHAT.model, evaluate=True)
        assert reply.status >= 400
        judge, first = await caller.charges()
        assert [(one["state"], one["cost"], one["error"]) for one in (judge, first)] == [
            ("released", 0, "not_started"),
            ("released", 0, first["error"]),
        ]
        assert {one["body"]["model"] for one in upstream.requests(caller.marker)} == {CHAT.model}
        assert (await caller.get("/me/quota")).body["quotas"][0]["reserved"] == 0


async def test_without_room_for_both_nothing_is_spent(all_wires_server: Server, upstream: Upstream) -> None:
    async with rated(all_wires_server) as caller:
        limits = {"max_tokens": 50, "context_allocation": 400}
        small = await caller.query(caller.marker, model=CHAT.model, evaluate=True, **limits)
        assert (small.status, small.code) == (422, "invalid_request"), small
        enough = await caller.query(caller.marker, model=CHAT.model, **limits)
        assert enough.status == 200
        async with new_user(all_wires_server, tenant_id=caller.principal.tenant_id, limit=400) as poor:
            refused = await poor.query(poor.marker, model=CHAT.model, evaluate=True, max_tokens=50)
            assert (refused.status, refused.code) == (429, "quota_exceeded"), refused
            assert (await poor.charges(), upstream.requests(poor.marker)) == ([], [])
            assert (await poor.query(poor.marker, model=CHAT.model, max_tokens=50)).status == 200


async def query_with(caller: ApiUser, prompt: str, headers: dict[str, str]) -> dict[str, Any]:
    document = {"prompt": prompt, "model": CHAT.model, "evaluate": True}
    headers = caller.auth_headers | headers
    async with caller.http.post("/ai/query", json=document, headers=headers) as response:
        assert response.status == 200
        body: dict[str, Any] = await response.json()
        return body


async def test_a_repeated_call_gets_the_same_score_and_no_further_judge(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with rated(all_wires_server) as caller:
        prompt = judged(caller.marker, {"score": 71})
        first, again = [await query_with(caller, prompt, {"Idempotency-Key": "rated-once"}) for _ in range(2)]
        assert first["quality_score"] == 71
        assert again == first
        assert len(upstream.requests(caller.marker)) == 2
        assert [one["basis"] for one in await caller.charges()] == ["cache", "provider", "provider"]


async def test_a_job_is_rated_and_its_judge_is_reserved_with_it(all_wires_server: Server, upstream: Upstream) -> None:
    async with rated(all_wires_server) as caller:
        prompt = judged(caller.marker, {"score": 64}, gate=caller.marker)
        with upstream.gate(caller.marker):
            job_id = await submitted(caller, prompt, model=CHAT.model, max_tokens=50, evaluate=True)
            pair = [(one["surface"], one["state"]) for one in await caller.charges()]
            assert [surface for surface, _ in pair] == ["evaluation", "jobs"], "both are reserved at the submission"
        job = await ended(caller, job_id)
        assert job["status"] == "completed", job
        assert_rated(job["result"], 64, MESSAGES.model)
        judge, first = await caller.charges()
        assert [judge["id"], first["id"]] == [job["result"]["judge"]["query_id"], job["result"]["query_id"]]
        assert [one["basis"] for one in (judge, first)] == ["provider"] * 2
        assert len(upstream.requests(caller.marker)) == 2
        await set_judge(all_wires_server, caller, None)
        off = await submit(caller, caller.marker, evaluate=True)
        assert (off.status, off.code) == (400, "unsupported_parameter")
    await assert_ledger_is_consistent(all_wires_server.database_url)


async def test_a_client_that_disconnects_pays_for_both(all_wires_server: Server, upstream: Upstream) -> None:
    async with rated(all_wires_server) as caller:
        prompt = judged(caller.marker, {"score": 60}, delay=0.5)
        asked = asyncio.create_task(caller.query(prompt, model=CHAT.model, evaluate=True))

        async def is_judged() -> bool:
            return len(upstream.requests(caller.marker)) == 2

        await until(is_judged)
        asked.cancel()

        async def is_closed() -> bool:
            return {one["state"] for one in await caller.charges()} == {"settled"}

        await until(is_closed)
        assert [one["basis"] for one in await caller.charges()] == ["provider", "provider"]


LEASES = {"TOLLKEEPER_LEASE_SECONDS": "1", "TOLLKEEPER_SWEEP_SECONDS": "0.2"}


@pytest.mark.exhaustive
@pytest.mark.exhaustive_on_postgres
async def test_a_server_that_is_killed_while_the_judge_works_books_both(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=own_upstream.base_url, **LEASES)
    server.start()
    async with new_user(server) as caller:
        model = (await caller.get("/ai/models")).body["data"][0]["id"]
        await set_judge(server, caller, model)
        prompt = scripted(caller.marker, delay=2)
        asked = asyncio.create_task(caller.query(prompt, model=model, evaluate=True))

        async def is_judged() -> bool:
            return len(own_upstream.requests(caller.marker)) == 2

        await until(is_judged)
        server.program.kill()
        await asyncio.gather(asked, return_exceptions=True)
        server.start()

        async def is_closed() -> bool:
            return {one["state"] for one in await caller.charges()} == {"settled"}

        await until(is_closed)
        judge, first = await caller.charges()
        assert (judge["surface"], judge["basis"], first["basis"]) == ("evaluation", "unknown", "unknown")
        assert first["output_tokens"] > 0, "the answer was complete"
    assert "open holds: 0\n" in server.command("ledger", "verify")
    server.stop()
