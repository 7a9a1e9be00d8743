"""Files and batches: who may reach them, what is refused, what each line costs, and how a batch ends."""

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import text

from journeys.support import batches
from journeys.support.batches import CHAT, chat_line, message, request
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user, set_limit
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.database.engine import Database
from tollkeeper.quota.rules.windows import Period

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(
        but=(
            "test_what_a_line_costs_by_how_it_has_ended",
            "test_a_cancelled_batch_ends_its_running_calls_and_begins_no_other",
            "test_the_same_key_and_body_are_one_batch",
            "test_only_the_user_reaches_a_file_or_a_batch",
        )
    ),
]

USAGE = {"input": 11, "output": 7}
ANTHROPIC = {"anthropic-version": "2023-06-01"}


async def test_each_line_is_a_call_of_its_endpoint_with_a_charge_of_its_own(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        answered = scripted(caller.marker, usage=USAGE, answer="yes")
        bodies: dict[str, Any] = {
            CHAT: chat_line("a", answered)["body"],
            "/v1/responses": {"model": batches.MODEL, "input": answered, "max_output_tokens": 50},
            "/v1/completions": {"model": batches.MODEL, "prompt": answered, "max_tokens": 50},
            "/v1/embeddings": {"model": "text-embedding-3-small", "input": answered},
        }

        async def run(endpoint: str) -> Any:
            lines = [
                {"custom_id": f"{n}", "method": "POST", "url": endpoint, "body": bodies[endpoint]} for n in range(2)
            ]
            return await batches.results(caller, await batches.run(caller, lines, endpoint))

        chat, responses, completions, embeddings = await asyncio.gather(*map(run, bodies))
        assert chat["0"]["response"]["body"]["choices"][0]["message"]["content"] == "yes"
        assert responses["1"]["response"]["body"]["output"][0]["content"][0]["text"] == "yes"
        assert completions["0"]["response"]["body"]["choices"][0]["text"] == "yes"
        assert len(embeddings["1"]["response"]["body"]["data"]) == 1
        charges = {charge["id"]: charge for charge in await caller.charges()}
        assert len(charges) == len(upstream.requests(caller.marker)) == 8
        assert {charge["surface"] for charge in charges.values()} == {"batches"}
        paid = charges[chat["0"]["response"]["request_id"]]
        assert (paid["cost"], paid["basis"], paid["state"]) == (18, "provider", "settled")
        sent = json.dumps(upstream.requests(caller.marker))
        assert '"stream": true' not in sent, "the answers are those of calls that are not streamed"
    assert caller.marker.encode() not in await _stored(server), "something was stored in plain text"
    await assert_ledger_is_consistent(server.database_url)


async def test_what_a_line_costs_by_how_it_has_ended(server: Server) -> None:
    """The row `batch line` of the table "Who pays"."""
    async with new_user(server, limit=5_000) as caller:
        lines = [
            chat_line("reported", scripted(caller.marker, usage=USAGE)),
            chat_line("not-reported", scripted(caller.marker, answer="one two three", usage=None)),
            chat_line("refused", scripted(caller.marker, status=400)),
            chat_line("broken", scripted(caller.marker, status=500)),
            chat_line("no-model", caller.marker, model="not a name"),
            chat_line("streamed", caller.marker, stream=True),
            chat_line("unknown-field", caller.marker, no_such_field=1),
            chat_line("too-large", caller.marker, max_tokens=5_000),
        ]
        batch = await batches.run(caller, lines)
        found = await batches.results(caller, batch)
        assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 8, "completed": 2, "failed": 6})
        ends = {
            line_id: (one["response"]["status_code"], one["response"]["body"].get("error", {}).get("code"))
            for line_id, one in found.items()
        }
        assert ends == {
            "reported": (200, None),
            "not-reported": (200, None),
            "refused": (400, None),
            "broken": (502, "provider_error"),
            "no-model": (400, None),
            "streamed": (400, "unsupported_parameter"),
            "unknown-field": (400, "unsupported_parameter"),
            "too-large": (429, "insufficient_quota"),
        }
        charges = await caller.charges()
        assert sorted((one["state"], one["basis"]) for one in charges) == [
            ("released", "none"),
            ("released", "none"),
            ("settled", "counted"),
            ("settled", "provider"),
        ]
        assert (await caller.quota())["reserved"] == 0
    await assert_ledger_is_consistent(server.database_url)


async def test_a_line_waits_for_a_window_that_ends_and_fails_where_it_never_fits(server: Server) -> None:
    async with new_user(server, limit=50) as poor, new_user(server, limit=None) as penniless:
        lines = [chat_line("a", poor.marker)]
        failed, none = await asyncio.gather(batches.run(poor, lines), batches.run(penniless, lines))
        for caller, batch in ((poor, failed), (penniless, none)):
            [line] = (await batches.results(caller, batch)).values()
            assert line["response"]["body"]["error"]["code"] == "insufficient_quota"
            assert await caller.charges() == []
        await set_limit(server, poor.principal, 10_000, Period.TOTAL)
        await set_limit(server, poor.principal, 500, Period.DAY)
        lines = [chat_line(f"{n}", scripted(poor.marker, usage={"input": 350, "output": 50})) for n in range(2)]
        batch = await batches.created(poor, await batches.uploaded(poor, lines))
        await _wait_until(lambda: _has_counts(poor, batch["id"], completed=1))
        waiting = (await request(poor, "GET", f"/v1/batches/{batch['id']}")).body
        assert (waiting["status"], waiting["request_counts"]["failed"]) == ("in_progress", 0)
        await set_limit(server, poor.principal, 10_000, Period.DAY)
        await _execute(server, "UPDATE jobs SET available_ms = 1 WHERE batch_id = :id", id=batch["id"])
        assert (await batches.ended(poor, batch["id"]))["request_counts"]["completed"] == 2


async def test_a_cancelled_batch_ends_its_running_calls_and_begins_no_other(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller, new_user(server) as other:
        prompt = scripted(caller.marker, usage=USAGE, gate=caller.marker)
        with upstream.gate(caller.marker):
            lines = [chat_line(f"line-{n}", prompt) for n in range(300)]
            batch = await batches.created(caller, await batches.uploaded(caller, lines))
            await _wait_until(lambda: asyncio.sleep(0, upstream.waiting(caller.marker) > 0))
            running = upstream.waiting(caller.marker)
            assert (await request(other, "POST", f"/v1/batches/{batch['id']}/cancel")).status == 404
            cancelling = (await request(caller, "POST", f"/v1/batches/{batch['id']}/cancel")).body
            assert (cancelling["status"], cancelling["output_file_id"]) == ("cancelling", None)
            again = (await request(caller, "POST", f"/v1/batches/{batch['id']}/cancel")).body
            assert again["cancelling_at"] == cancelling["cancelling_at"]
        cancelled = await batches.ended(caller, batch["id"])
        found = await batches.results(caller, cancelled)
        made = [one for one in found.values() if one["error"] is None]
        counts = cancelled["request_counts"]
        assert cancelled["status"] == "cancelled"
        assert (counts["total"], counts["completed"] + counts["failed"], len(found)) == (300, 300, 300)
        assert running <= len(made) == counts["completed"] == len(upstream.requests(caller.marker)) < 50
        assert {one["error"]["code"] for one in found.values() if one["error"]} == {"batch_cancelled"}
        assert len(await caller.charges()) == len(made)
        assert (await caller.quota())["reserved"] == 0
    await assert_ledger_is_consistent(server.database_url)


async def test_a_batch_that_was_not_done_in_time_has_expired(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, usage=USAGE, gate=caller.marker)
        with upstream.gate(caller.marker):
            made = await batches.created_messages(caller, [message(f"line-{n}", prompt) for n in range(20)])
            await _wait_until(lambda: asyncio.sleep(0, upstream.waiting(caller.marker) > 0))
            running = (await request(caller, "GET", f"/v1/messages/batches/{made['id']}")).body
            assert running["request_counts"]["processing"] == 20
            early = await request(caller, "GET", f"/v1/messages/batches/{made['id']}/results")
            deletion = await request(caller, "DELETE", f"/v1/messages/batches/{made['id']}")
            assert (early.status, deletion.status) == (409, 409)
            await _execute(server, "UPDATE batches SET deadline_ms = 1 WHERE id = :id", id=made["id"])
            pending = "SELECT count(*) FROM jobs WHERE batch_id = :id AND status = 'pending'"
            await _wait_until(lambda: _is_none(server, pending, made["id"]))
        over = await batches.ended_messages(caller, made["id"])
        counts = over["request_counts"]
        found = await batches.message_results(caller, made["id"])
        assert counts["processing"] == counts["canceled"] == counts["errored"] == 0
        assert counts["succeeded"] + counts["expired"] == 20
        assert counts["expired"] > 0
        assert sorted(one["type"] for one in found.values()) == sorted(
            ["succeeded"] * counts["succeeded"] + ["expired"] * counts["expired"]
        )
        assert over["results_url"].endswith(f"/v1/messages/batches/{made['id']}/results")


async def test_a_batch_ends_with_the_access_of_its_submitter(server: Server, upstream: Upstream) -> None:
    """The key is checked again before each line: its models, its surfaces, and whether it is revoked."""
    async with new_user(server) as caller:
        made = await caller.make_key(models=[batches.MODEL])
        limited = await caller.with_api_key(models=["another"])
        found = await batches.results(limited, await batches.run(limited, [chat_line("a", caller.marker)]))
        assert found["a"]["response"]["status_code"] == 403
        keyed = ApiUser(caller.principal, caller.email, made.body["key"], caller.marker, caller.http)
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, usage=USAGE, gate=caller.marker)
            lines = [chat_line(f"{n}", prompt) for n in range(30)]
            batch = await batches.created(keyed, await batches.uploaded(keyed, lines))
            await _wait_until(lambda: asyncio.sleep(0, upstream.waiting(caller.marker) > 0))
            assert (await request(caller, "DELETE", f"/auth/keys/{made.body['id']}")).status in (200, 204)
        over = await batches.ended(caller, batch["id"])
        ends = [one["response"]["status_code"] for one in (await batches.results(caller, over)).values()]
        assert set(ends) == {200, 401}
        assert ends.count(200) == len(upstream.requests(caller.marker))
        for limits in ({"surfaces": ["chat/completions"]}, {"surfaces": ["batches"]}, {"scopes": ["me"]}):
            refused = await batches.create(await caller.with_api_key(**limits), batch["input_file_id"])
            assert refused.status == 403, limits


async def test_the_same_key_and_body_are_one_batch(server: Server) -> None:
    async with new_user(server) as caller:
        file_id = await batches.uploaded(caller, [chat_line("a", caller.marker)])
        replies = await asyncio.gather(*(batches.create(caller, file_id, key="key") for _ in range(4)))
        [batch_id] = {reply.body["id"] for reply in replies}
        assert [reply.headers.get("Idempotent-Replayed") for reply in replies].count("true") == 3
        other = await batches.create(caller, file_id, key="key", metadata={"of": "another"})
        assert (other.status, other.body["error"]["type"]) == (422, "invalid_request_error")
        await batches.ended(caller, batch_id)
        document = {"requests": [message("a", caller.marker)]}
        headers = {"Idempotency-Key": "messages"}
        first, second = [await request(caller, "POST", "/v1/messages/batches", document, **headers) for _ in range(2)]
        assert first.body["id"] == second.body["id"]
        await batches.ended_messages(caller, first.body["id"])
        assert len(await caller.charges()) == 2


async def test_only_the_user_reaches_a_file_or_a_batch(server: Server) -> None:
    async with new_user(server) as caller, new_user(server, tenant_id=caller.principal.tenant_id) as colleague:
        batch = await batches.run(caller, [chat_line("a", caller.marker)])
        made = await batches.created_messages(caller, [message("a", caller.marker)])
        await batches.ended_messages(caller, made["id"])
        file_id = batch["input_file_id"]
        assert (await batches.create(colleague, file_id)).status == 404
        for path in (
            f"/v1/files/{file_id}",
            f"/v1/files/{file_id}/content",
            f"/v1/files/{batch['output_file_id']}/content",
            f"/v1/batches/{batch['id']}",
            f"/v1/messages/batches/{made['id']}",
            f"/v1/messages/batches/{made['id']}/results",
        ):
            assert (await request(caller, "GET", path)).status == 200, path
            assert (await request(colleague, "GET", path)).status == 404, path
        for path in (f"/v1/files/{file_id}", f"/v1/messages/batches/{made['id']}"):
            assert (await request(colleague, "DELETE", path)).status == 404, path
        for path in ("/v1/files", "/v1/batches", "/v1/messages/batches"):
            assert (await request(colleague, "GET", path)).body["data"] == [], path
        assert (await request(caller, "GET", f"/v1/batches/{made['id']}")).status == 404, "it is of another API"
        assert (await request(caller, "GET", f"/v1/messages/batches/{batch['id']}")).status == 404


async def test_lists_have_pages_in_both_apis(server: Server) -> None:
    async with new_user(server) as caller:
        files = [await batches.uploaded(caller, b"{}") for _ in range(3)]
        first = (await request(caller, "GET", "/v1/files?limit=2")).body
        assert ([one["id"] for one in first["data"]], first["has_more"]) == (files[:0:-1], True)
        second = (await request(caller, "GET", f"/v1/files?after={first['last_id']}")).body
        assert ([one["id"] for one in second["data"]], second["has_more"]) == (files[:1], False)
        oldest = (await request(caller, "GET", "/v1/files?order=asc&limit=1")).body
        assert [one["id"] for one in oldest["data"]] == files[:1]
        ids = [(await batches.created_messages(caller, [message("a", caller.marker)]))["id"] for _ in range(3)]
        page = (await request(caller, "GET", "/v1/messages/batches?limit=2")).body
        assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[:0:-1], True)
        older = (await request(caller, "GET", f"/v1/messages/batches?after_id={page['last_id']}")).body
        newer = (await request(caller, "GET", f"/v1/messages/batches?limit=1&before_id={ids[0]}")).body
        assert [one["id"] for one in older["data"]] == ids[:1]
        assert ([one["id"] for one in newer["data"]], newer["has_more"]) == ([ids[1]], True)
        for batch_id in ids:
            await batches.ended_messages(caller, batch_id)


async def test_a_client_of_anthropic_s_files_is_refused_in_its_format(server: Server) -> None:
    async with new_user(server) as caller:
        for method in ("GET", "POST"):
            reply = await request(caller, method, "/v1/files", **ANTHROPIC)
            assert (reply.status, reply.body["type"], reply.body["error"]["type"]) == (404, "error", "not_found_error")


async def _has_counts(caller: ApiUser, batch_id: str, **counts: int) -> bool:
    found: dict[str, int] = (await request(caller, "GET", f"/v1/batches/{batch_id}")).body["request_counts"]
    return counts.items() <= found.items()


async def _wait_until(is_so: Any) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not await is_so():
            await asyncio.sleep(0.05)


async def _execute(server: Server, statement: str, **values: Any) -> None:
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            await (await session.connection()).execute(text(statement), values)
    finally:
        await database.close()


async def _is_none(server: Server, query: str, batch_id: str) -> bool:
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            found = (await (await session.connection()).execute(text(query), {"id": batch_id})).scalar_one()
    finally:
        await database.close()
    return int(found) == 0


async def _stored(server: Server) -> bytes:
    """What is stored of files, batches and jobs."""
    found = b""
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            connection = await session.connection()
            for table in ("files", "file_chunks", "batches", "jobs"):
                rows = (await connection.execute(text(f"SELECT * FROM {table}"))).all()
                found += repr([tuple(row) for row in rows]).encode()
    finally:
        await database.close()
    return found
