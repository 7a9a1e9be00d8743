"""Webhooks of a running server: registered by a tenant's administrator, received by a real receiver, never lost."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import text

from journeys.support import batches
from journeys.support.admins import Admin, new_admin
from journeys.support.jobs import cancel, ended, submitted
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.receivers import receiving
from tollkeeper.database.engine import Database
from tollkeeper.principal import Role

pytestmark = pytest.mark.prove_only_on_postgres(
    but=(
        "test_a_job_that_ends_is_notified_signed_logged_and_replayed",
        "test_what_a_killed_server_had_to_send_is_sent_by_the_next_one_or_by_a_worker",
    )
)

JOB_EVENTS = ["job.cancelled", "job.completed", "job.failed"]
BATCH_EVENTS = ["batch.cancelled", "batch.completed", "batch.expired", "batch.failed"]


@asynccontextmanager
async def new_tenant(server: Server) -> AsyncIterator[tuple[Admin, ApiUser]]:
    async with new_admin(server) as admin, new_user(server, tenant_id=admin.principal.tenant_id) as member:
        yield admin, member


async def register(admin: Admin, url: str, *events: str) -> dict[str, Any]:
    made = await admin.post("/admin/webhooks", {"url": url, "events": list(events or JOB_EVENTS)})
    assert made.status == 201, made
    found: dict[str, Any] = made.body
    return found


async def delivered(admin: Admin, webhook_id: str, event_id: str) -> dict[str, Any]:
    """The delivery of an event with its attempts, once it is noted as delivered."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            found: dict[str, Any] = (await admin.get(f"/admin/webhooks/{webhook_id}/deliveries/{event_id}")).body
            if found["status"] == "delivered":
                return found
            await asyncio.sleep(0.05)


async def execute(server: Server, statement: str) -> list[tuple[Any, ...]]:
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            result = await (await session.connection()).execute(text(statement))
            return [tuple(row) for row in result.all()] if result.returns_rows else []
    finally:
        await database.close()


async def test_a_job_that_ends_is_notified_signed_logged_and_replayed(server: Server) -> None:
    async with new_tenant(server) as (admin, member), receiving() as receiver:
        made = await register(admin, receiver.url)
        jobs = {"completed": await submitted(member, member.marker)}
        await ended(member, jobs["completed"])
        [first] = await receiver.wait_for(1)
        jobs["failed"] = await submitted(member, scripted(member.marker, status=400))
        await ended(member, jobs["failed"])
        messages = await receiver.wait_for(2)
        for message, status in zip(messages, ("completed", "failed"), strict=True):
            assert message.is_signed_with(made["secret"])
            assert message.document["type"] == f"job.{status}"
            assert message.document["data"] == {
                "tenant_id": member.principal.tenant_id,
                "job_id": jobs[status],
                "user_id": member.principal.user_id,
                "status": status,
            }
            assert member.marker not in str(message)
        path = f"/admin/webhooks/{made['id']}"
        delivery = await delivered(admin, made["id"], messages[1].id)
        assert delivery["body"] == messages[1].document
        await delivered(admin, made["id"], first.id)
        listed = (await admin.get(f"{path}/deliveries?status=delivered&limit=1")).body
        assert [one["id"] for one in listed["data"]] == [messages[1].id]
        listed = (await admin.get(f"{path}/deliveries?cursor={listed['next_cursor']}")).body
        assert ([one["id"] for one in listed["data"]], listed["next_cursor"]) == ([first.id], None)
        [attempt] = delivery["attempt_log"]
        assert (attempt["number"], attempt["status"], attempt["error"]) == (1, 204, None)

        replay = f"{path}/deliveries/{first.id}/replay"
        replies = [await admin.post(replay, {}, Idempotency_Key="again") for _ in range(2)]
        assert [(reply.status, reply.body["status"]) for reply in replies] == [(202, "pending")] * 2
        again = (await receiver.wait_for(3))[2]
        assert (again.id, again.body, again.is_signed_with(made["secret"])) == (first.id, first.body, True)
        assert [line["action"] for line in (await admin.get("/admin/audit")).body["data"]][:2] == [
            "webhook.replay",
            "webhook.create",
        ]


async def test_each_batch_that_ends_is_notified_once(server: Server, upstream: Upstream) -> None:
    async with new_tenant(server) as (admin, member), receiving() as receiver:
        await register(admin, receiver.url, *BATCH_EVENTS)
        answered = batches.chat_line("a", scripted(member.marker, usage={"input": 11, "output": 7}))
        completed = (await batches.run(member, [answered]))["id"]
        failed = (await batches.run(member, [answered, answered]))["id"]
        with upstream.gate(member.marker):
            waiting = batches.chat_line("a", scripted(member.marker, gate=member.marker))
            cancelled = (await batches.created(member, await batches.uploaded(member, [waiting])))["id"]
            assert (await batches.request(member, "POST", f"/v1/batches/{cancelled}/cancel")).status == 200
        await batches.ended(member, cancelled)
        messages = await receiver.wait_for(3)
        assert {one.document["type"]: one.document["data"] for one in messages} == {
            f"batch.{status}": {
                "tenant_id": member.principal.tenant_id,
                "batch_id": batch_id,
                "user_id": member.principal.user_id,
                "status": status,
            }
            for batch_id, status in ((completed, "completed"), (failed, "failed"), (cancelled, "cancelled"))
        }
        assert len({one.id for one in messages}) == 3


async def test_a_webhook_is_tested_changed_rotated_disabled_and_deleted(server: Server) -> None:
    async with new_tenant(server) as (admin, member), receiving() as receiver:
        made = await register(admin, receiver.url)
        path = f"/admin/webhooks/{made['id']}"
        assert (await admin.post(f"{path}/test", None)).status == 202
        [message] = await receiver.wait_for(1)
        assert (message.document["type"], message.is_signed_with(made["secret"])) == ("webhook.test", True)

        rotated = (await admin.post(f"{path}/rotate-secret", {"overlap_hours": 1})).body
        assert (await admin.get(path)).body["previous_secret_until"] == rotated["previous_secret_until"] is not None
        await delivered(admin, made["id"], message.id)
        await admin.post(f"{path}/test", {})
        message = (await receiver.wait_for(2))[1]
        assert message.is_signed_with(made["secret"])
        assert message.is_signed_with(rotated["secret"])

        found = await admin.get(path)
        assert "secret" not in found.body
        etag = found.headers["ETag"]
        changed = await admin.patch(path, {"disabled": True, "events": ["job.failed"]}, If_Match=etag)
        assert (changed.status, changed.body["disabled_reason"]) == (200, "administrator")
        assert (await admin.patch(path, {"disabled": False}, If_Match=etag)).status == 412
        assert (await admin.post(f"{path}/test", {})).code == "invalid_request"
        await ended(member, await submitted(member, scripted(member.marker, status=400)))
        assert (await admin.patch(path, {"disabled": False})).body["disabled"] is False
        assert len((await admin.get(f"{path}/deliveries")).body["data"]) == 2
        listed = (await admin.get("/admin/webhooks")).body["data"]
        assert [(one["id"], one["url"], one["events"]) for one in listed] == [
            (made["id"], receiver.url, ["job.failed"])
        ]
        stored = repr(await execute(server, "SELECT * FROM webhooks"))
        for secret in (made["secret"], rotated["secret"], receiver.url):
            assert secret not in stored
        assert (await admin.send("DELETE", path)).status == 204
        assert (await admin.get(path)).status == (await admin.send("DELETE", path)).status == 404
        assert (await admin.get("/admin/webhooks")).body["data"] == []


@pytest.mark.exhaustive_on_postgres
async def test_what_is_no_webhook_is_refused(server: Server) -> None:
    async with new_tenant(server) as (admin, _), new_admin(server, Role.OPERATOR) as operator:
        for url in (
            "http://10.0.0.1/hook",
            "https://10.0.0.1/hook",
            "https://[::ffff:169.254.169.254]/latest/meta-data",
            "https://0x7f000001/",
            "http://93.184.216.34/hook",
            "ftp://127.0.0.1/",
            "https://user:password@127.0.0.1/",
            "https://hooks.invalid/",
            "x",
        ):
            reply = await admin.post("/admin/webhooks", {"url": url, "events": ["job.failed"]})
            assert (reply.status, reply.code) == (422, "invalid_request"), url
            assert "password" not in str(reply.body)
        url = "http://127.0.0.1:1/hook"
        for document in (
            {"url": url},
            {"url": url, "events": []},
            {"url": url, "events": ["job.unknown"]},
            {"url": url, "events": ["webhook.test"]},
            {"url": url, "events": ["job.failed"], "secret": "whsec_x"},
            {"url": url, "events": ["job.failed"], "description": "x\ny"},
        ):
            assert (await admin.post("/admin/webhooks", document)).status == 422, document
        assert (await admin.get("/admin/webhooks")).body["data"] == []
        tenant_id = admin.principal.tenant_id
        for _ in range(20):
            made = await operator.post(
                "/admin/webhooks", {"url": url, "events": ["job.failed"], "tenant_id": tenant_id}
            )
            assert (made.status, made.body["tenant_id"]) == (201, tenant_id)
        one_more = await admin.post("/admin/webhooks", {"url": url, "events": ["job.failed"]})
        assert (one_more.status, one_more.code) == (422, "invalid_request")
        first = (await admin.get("/admin/webhooks?limit=15")).body
        rest = (await admin.get(f"/admin/webhooks?limit=15&cursor={first['next_cursor']}")).body
        assert (len(first["data"]), len(rest["data"]), rest["next_cursor"]) == (15, 5, None)


async def test_what_a_killed_server_had_to_send_is_sent_by_the_next_one_or_by_a_worker(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream
) -> None:
    """The first server dies between the end of the job and the delivery; the second while the receiver thinks."""
    loopback = {"TOLLKEEPER_PRIVATE_NETWORKS": "127.0.0.0/8", "OPENAI_BASE_URL": own_upstream.base_url}
    server = make_server(database_url, **loopback).start(TOLLKEEPER_WEBHOOKS="off")
    async with new_tenant(server) as (admin, member), receiving() as receiver:
        made = await register(admin, receiver.url)
        job_id = await submitted(member, member.marker)
        await ended(member, job_id)
        server.program.kill()
        assert receiver.messages == []
        never = asyncio.Event()

        async def stall(_: web.Request) -> web.Response:
            await never.wait()
            return web.Response()

        receiver.respond = stall
        server.start()
        await receiver.wait_for(1)
        server.program.kill()
        receiver.respond = None
        never.set()
        await execute(server, "UPDATE webhook_deliveries SET available_ms = 0")  # the lease is over
        server.start(TOLLKEEPER_WEBHOOKS="off")
        worker = server.background("worker")
        first, second = await receiver.wait_for(2)
        assert (first.id, first.body) == (second.id, second.body)
        assert second.document["data"]["job_id"] == job_id
        assert second.is_signed_with(made["secret"])
        delivery = await delivered(admin, made["id"], second.id)
        assert [one["number"] for one in delivery["attempt_log"]] == [2]
        assert await asyncio.to_thread(worker.terminate) == 0, worker.output
    server.stop()


@pytest.mark.exhaustive_on_postgres
async def test_a_user_has_a_limited_number_of_jobs_that_have_not_ended(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream
) -> None:
    server = make_server(
        database_url, OPENAI_BASE_URL=own_upstream.base_url, TOLLKEEPER_JOBS_PER_USER="2", TOLLKEEPER_JOBS="off"
    ).start()
    async with new_user(server) as caller, new_user(server) as other:
        waiting = [await submitted(caller, f"{caller.marker}-{number}") for number in range(2)]
        held = (await caller.quota())["reserved"]
        document = {"type": "query", "request": {"prompt": secrets.token_hex(4)}}
        async with caller.http.post("/ai/jobs", json=document, headers=caller.auth_headers) as refused:
            body = await refused.json(content_type=None)
            assert (refused.status, body["code"], refused.headers["Retry-After"]) == (429, "too_many_jobs", "10")
            assert "TOLLKEEPER_JOBS_PER_USER" in body["detail"]
        assert (await caller.quota())["reserved"] == held
        await submitted(other, other.marker)
        assert (await cancel(caller, waiting[0])).status == 200
        await submitted(caller, caller.marker)
        metrics = await (await caller.http.get("/metrics")).text()
        assert 'tollkeeper_refusals_by_limit_total{setting="TOLLKEEPER_JOBS_PER_USER"} 1.0' in metrics
    server.stop()
