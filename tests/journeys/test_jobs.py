"""Background jobs: reserved when submitted, made once, charged as calls are, cancelled with what they cost by then."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from journeys.support.compat_requests import post
from journeys.support.jobs import cancel, ended, read, submit, submitted, wait_until
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import new_user, set_limit
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.database.engine import Database
from tollkeeper.quota.rules.windows import Period

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(
        but=(
            "test_a_job_is_reserved_made_once_and_charged_as_reported",
            "test_the_same_key_and_body_are_one_job",
            "test_a_pending_job_that_is_cancelled_costs_nothing",
        )
    ),
]

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
USAGE = {"input": 11, "output": 7}
CONCURRENCY = 8


async def test_a_job_is_reserved_made_once_and_charged_as_reported(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, usage=USAGE, gate=caller.marker)
            job_id = await submitted(caller, prompt, max_tokens=50)
            processing = await wait_until(caller, job_id, "processing")
            held = (await caller.quota())["reserved"]
            assert held >= 61
            assert (processing["result"], processing["completed_at"]) == (None, None)
        job = await ended(caller, job_id)
        assert (job["status"], job["error"], job["type"]) == ("completed", None, "query")
        assert job["created_at"] <= job["started_at"] <= job["completed_at"] <= job["deadline"]
        result = job["result"]
        assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"], result["cost"]) == (11, 7, 18)
        [charge] = await caller.charges()
        assert (charge["id"], charge["surface"], charge["basis"]) == (result["query_id"], "jobs", "provider")
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"], result["quota"]["used"]) == (18, 0, 18)
        assert len(upstream.requests(caller.marker)) == 1
    assert caller.marker.encode() not in await _rows_of_jobs(server), "a request was stored in plain text"
    await assert_ledger_is_consistent(server.database_url)


async def test_a_chat_is_made_in_the_trace_of_its_submission(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        document = {"type": "chat", "request": {"messages": [{"role": "user", "content": caller.marker}]}}
        headers = caller.auth_headers | {
            "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01",
            "X-Correlation-ID": f"of-{caller.marker}",
        }
        async with caller.http.post("/ai/jobs", json=document, headers=headers) as response:
            job_id = (await response.json())["job_id"]
        assert (await ended(caller, job_id))["result"]["answer"]
        [request] = upstream.requests(caller.marker)
        sent = {name.lower(): value for name, value in dict(request["headers"]).items()}
        assert sent["traceparent"].split("-")[1] == TRACE_ID
        assert sent["x-client-request-id"] == f"of-{caller.marker}"


async def test_the_same_key_and_body_are_one_job(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        replies = await asyncio.gather(*(submit(caller, caller.marker, key="key") for _ in range(5)))
        ids = {reply.body["job_id"] for reply in replies if reply.status == 202}
        assert len(ids) == 1
        assert {reply.status for reply in replies} <= {202, 409}, replies
        [job_id] = ids
        await ended(caller, job_id)
        again = await submit(caller, caller.marker, key="key")
        assert (again.status, again.body["job_id"], again.body["status"]) == (202, job_id, "completed")
        assert again.headers["Idempotent-Replayed"] == "true"
        other = await submit(caller, caller.marker + "!", key="key")
        assert (other.status, other.code) == (422, "idempotency_key_reused")
        assert len(upstream.requests(caller.marker)) == len(await caller.charges()) == 1


async def test_jobs_are_listed_the_newest_first_and_deleted_when_they_have_ended(server: Server) -> None:
    async with new_user(server) as caller, new_user(server) as other:
        ids = [await submitted(caller, caller.marker) for _ in range(3)]
        for job_id in ids:
            await ended(caller, job_id)
        first = (await caller.get("/ai/jobs?limit=2")).body
        assert [job["job_id"] for job in first["data"]] == ids[:0:-1]
        second = (await caller.get(f"/ai/jobs?limit=2&cursor={first['next_cursor']}")).body
        assert ([job["job_id"] for job in second["data"]], second["next_cursor"]) == (ids[:1], None)
        assert len((await caller.get("/ai/jobs?status=completed")).body["data"]) == 3
        assert (await caller.get("/ai/jobs?status=failed")).body["data"] == []
        assert (await other.get("/ai/jobs")).body["data"] == []
        assert (await other.get(f"/ai/jobs/{ids[0]}")).status == (await cancel(other, ids[0])).status == 404
        deleted = await cancel(caller, ids[0])
        assert (deleted.status, deleted.body["status"]) == (200, "completed")
        assert (await caller.get(f"/ai/jobs/{ids[0]}")).status == 404
        assert len(await caller.charges()) == 3, "charges stay"


async def test_what_is_not_accepted_reserves_nothing_and_is_no_job(server: Server) -> None:
    async with new_user(server, limit=50) as caller:
        for request, status, code in (
            ({"prompt": "x", "session_id": "s"}, 400, "unsupported_parameter"),
            ({"prompt": 1}, 422, "invalid_request"),
            ({"prompt": "x", "max_tokens": 100}, 429, "quota_exceeded"),
        ):
            reply = await post(caller, "/ai/jobs", type="query", request=request)
            assert (reply.status, reply.code) == (status, code), request
        for document in (
            {"type": "chat", "request": {"message": "x", "stream": True}},
            {"type": "none", "request": {"prompt": "x"}},
            {"type": "query", "request": {"prompt": "x"}, "priority": 10},
            {"type": "query"},
        ):
            assert (await post(caller, "/ai/jobs", **document)).status in (400, 422), document
        for limits in ({"surfaces": ["query"]}, {"models": ["another"]}):
            assert (await submit(await caller.with_api_key(**limits), "x")).code == "forbidden"
        assert (await caller.get("/ai/jobs/unknown")).status == 404
        assert (await caller.get("/ai/jobs")).body["data"] == []
        assert (await caller.quota())["reserved"] == 0
    assert b"new" not in await _rows_of_jobs(server, "status")


async def test_a_failure_of_the_provider_fails_the_job_and_costs_nothing(server: Server) -> None:
    async with new_user(server) as caller:
        job = await ended(caller, await submitted(caller, scripted(caller.marker, status=400)))
        assert (job["status"], job["result"]) == ("failed", None)
        assert (job["error"]["code"], job["error"]["status"]) == ("provider_rejected", 400)
        assert "SECRET" not in str(job)
        [charge] = await caller.charges()
        assert (charge["state"], charge["cost"]) == ("released", 0)


async def test_a_running_job_that_is_cancelled_costs_what_was_received(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, answer="one two three four", gate_after=[2, caller.marker])
            job_id = await submitted(caller, prompt)
            async with asyncio.timeout(TEST_DEADLINE_S):
                while not [one for one in upstream.sent(caller.marker) if one.tokens == 2]:
                    await asyncio.sleep(0.05)
            assert (await cancel(caller, job_id)).status == 200
            job = await wait_until(caller, job_id, "cancelled")
        assert (job["result"], job["error"]) == (None, None)
        [charge] = await caller.charges()
        assert (charge["basis"], charge["output_tokens"], charge["state"]) == ("counted", 2, "settled")
        [sent] = upstream.sent(caller.marker)
        assert (sent.cancelled, sent.finished) == (True, False)


async def test_a_pending_job_that_is_cancelled_costs_nothing(server: Server, upstream: Upstream) -> None:
    """As many jobs as the server runs at a time keep it from starting another."""
    async with new_user(server) as caller:
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, gate=caller.marker)
            running = [await submitted(caller, prompt) for _ in range(CONCURRENCY)]
            for job_id in running:
                await wait_until(caller, job_id, "processing")
            waiting = await submitted(caller, f"waiting-{caller.marker}")
            cancelled = await cancel(caller, waiting)
            assert (cancelled.status, cancelled.body["status"]) == (200, "cancelled")
            held_by_waiting = (await caller.charges())[0]
            assert (held_by_waiting["state"], held_by_waiting["cost"]) == ("released", 0)
            lost_access = await submitted(await caller.with_api_key(), f"lost-{caller.marker}")
            await _execute(server, f"UPDATE api_keys SET revoked_ms = 1 WHERE user_id = {caller.principal.user_id}")
        for job_id in running:
            assert (await ended(caller, job_id))["status"] == "completed"
        lost = await ended(caller, lost_access)
        assert (lost["status"], lost["error"]["code"]) == ("failed", "unauthenticated")
        assert upstream.requests(f"waiting-{caller.marker}") == upstream.requests(f"lost-{caller.marker}") == []
        assert (await caller.quota())["reserved"] == 0
        assert (await read(caller, waiting))["status"] == "cancelled"


async def test_a_job_without_room_in_a_quota_that_is_newer_waits_and_fails_if_it_never_fits(
    server: Server, upstream: Upstream
) -> None:
    """Other jobs keep the server busy, until the quota is there and a call holds most of it."""
    async with new_user(server) as others, new_user(server) as caller:
        slots, call = f"slots-{others.marker}", f"call-{caller.marker}"
        with upstream.gate(call):
            with upstream.gate(slots):
                running = [await submitted(others, scripted(others.marker, gate=slots)) for _ in range(CONCURRENCY)]
                for job_id in running:
                    await wait_until(others, job_id, "processing")
                waits = await submitted(caller, scripted(caller.marker, usage=USAGE), max_tokens=50)
                too_large = await submitted(caller, caller.marker, max_tokens=5_000)
                await set_limit(server, caller.principal, 700, Period.DAY)
                calling = asyncio.create_task(caller.query(scripted(caller.marker, gate=call), max_tokens=500))
                async with asyncio.timeout(TEST_DEADLINE_S):
                    while not upstream.waiting(call):
                        await asyncio.sleep(0.05)
            failed = await ended(caller, too_large)
            assert (failed["status"], failed["error"]["code"]) == ("failed", "quota_exceeded")
            assert (await read(caller, waits))["status"] == "pending"
        assert (await calling).status == 200
        done = await ended(caller, waits)
        assert (done["status"], done["result"]["cost"]) == ("completed", 18)
        states = sorted((charge["surface"], charge["state"]) for charge in await caller.charges())
        assert states == [("jobs", "released"), ("jobs", "released"), ("jobs", "settled"), ("query", "settled")]
    await assert_ledger_is_consistent(server.database_url)


async def _rows_of_jobs(server: Server, columns: str = "*") -> bytes:
    return repr(await _execute(server, f"SELECT {columns} FROM jobs")).encode()


async def _execute(server: Server, statement: str) -> list[tuple[Any, ...]]:
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            result = await (await session.connection()).execute(text(statement))
            return [tuple(row) for row in result.all()] if result.returns_rows else []
    finally:
        await database.close()
