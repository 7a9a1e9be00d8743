"""Deliveries: signed, tried again, given up; and what a receiver that fails, stalls or lies can do."""

import asyncio

import pytest
from aiohttp import web

from support.receivers import receiving
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.webhooks import sender
from tollkeeper.webhooks.attempts import Result
from tollkeeper.webhooks.events import EventType
from tollkeeper.webhooks.queue import CLAIM_MS, DISABLE_AFTER_MS, GIVE_UP_MS, MAX_TRIES, RETRY_S
from tollkeeper.webhooks.signatures import new_secret
from tollkeeper.webhooks.upkeep import DAY_MS, WebhookUpkeep
from webhooks.conftest import Outbox

NOWHERE = "http://127.0.0.1:1/hook"


async def test_a_delivery_is_signed_and_sent_once(outbox: Outbox) -> None:
    async with receiving() as receiver:
        tenant_id, secret = await outbox.tenant(), new_secret()
        await outbox.webhook(tenant_id, receiver.url, secret=secret)
        await outbox.put(tenant_id, name=1)
        assert (await outbox.send(), await outbox.send()) == (1, 0)
    [message], [delivery], [attempt] = receiver.messages, await outbox.deliveries(), await outbox.attempts_made()
    assert message.is_signed_with(secret)
    assert not message.is_signed_with(new_secret())
    assert message.id == delivery.event_id == f"evt_{1:032x}"
    assert message.headers["webhook-timestamp"] == str(outbox.clock.ms // 1000)
    assert message.headers["content-type"] == "application/json"
    created = "2023-11-14T22:13:20.000Z"
    assert message.document == {"type": "job.completed", "timestamp": created, "data": {"tenant_id": tenant_id, "n": 1}}
    assert (delivery.status, delivery.completed_ms, delivery.attempts) == ("delivered", outbox.clock.ms, 1)
    assert (attempt.number, attempt.status, attempt.error) == (1, 204, None)
    assert outbox.attempts.results == {Result.DELIVERED: 1}


@pytest.mark.prove_only_on_postgres
async def test_a_delivery_that_fails_is_tried_on_the_schedule_and_then_dead(outbox: Outbox) -> None:
    async with receiving() as receiver:
        receiver.status = 500
        tenant_id = await outbox.tenant()
        webhook = await outbox.webhook(tenant_id, receiver.url)
        await outbox.put(tenant_id, name=1)
        for number, pause_s in enumerate(RETRY_S, 1):
            assert await outbox.send() == 1
            [delivery] = await outbox.deliveries()
            assert (delivery.status, delivery.tries) == ("pending", number)
            assert delivery.available_ms == outbox.clock.ms + pause_s * 1000
            outbox.clock.step(pause_s - 1)
            assert await outbox.send() == 0
            outbox.clock.step(1)
        assert await outbox.send() == 1
    [delivery], attempts = await outbox.deliveries(), await outbox.attempts_made()
    assert (delivery.status, delivery.attempts, delivery.completed_ms) == ("dead", MAX_TRIES, outbox.clock.ms)
    assert [(one.number, one.status, one.error) for one in attempts] == [
        (number, 500, None) for number in range(1, MAX_TRIES + 1)
    ]
    assert {message.id for message in receiver.messages} == {delivery.event_id}
    assert {message.body for message in receiver.messages} == {receiver.messages[0].body}
    assert len({message.headers["webhook-timestamp"] for message in receiver.messages}) == MAX_TRIES
    assert outbox.attempts.results == {Result.FAILED: MAX_TRIES - 1, Result.DEAD: 1}
    assert (await outbox.row(webhook)).failures == MAX_TRIES


@pytest.mark.prove_only_on_postgres
async def test_a_webhook_whose_receiver_is_away_tries_seldom_and_has_everything_when_it_is_back(outbox: Outbox) -> None:
    tenant_id = await outbox.tenant()
    async with receiving() as receiver:
        webhook = await outbox.webhook(tenant_id, receiver.url)
    port = int(receiver.url.split(":")[2].split("/")[0])
    for name in range(10):
        await outbox.put(tenant_id, name=name)
    tried = await outbox.send()
    for _ in range(59):
        outbox.clock.step(60)
        tried += await outbox.send()
    assert 4 < tried < 25, "at most four at once, then one, with pauses up to five minutes"
    failing = await outbox.row(webhook)
    assert (failing.failing_since_ms, failing.disabled_ms) == (1_700_000_000_000, None)
    [first, *_] = await outbox.attempts_made()
    assert (first.status, first.error) == (None, "The host cannot be reached.")
    async with receiving(port) as back:
        for _ in range(200):
            outbox.clock.step(60)
            if await outbox.send() and len(back.messages) >= 10:
                break
    assert {message.document["data"]["n"] for message in back.messages} == set(range(10))
    works = await outbox.row(webhook)
    assert (works.failures, works.failing_since_ms, works.available_ms) == (0, None, 0)


@pytest.mark.prove_only_on_postgres
async def test_redirects_private_addresses_and_long_answers_gain_nothing(outbox: Outbox) -> None:
    async with receiving() as receiver, receiving() as target:

        async def redirect(_: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": target.url})

        receiver.respond = redirect
        tenant_id = await outbox.tenant()
        await outbox.webhook(tenant_id, receiver.url)
        await outbox.webhook(tenant_id, "http://10.0.0.1/hook")
        await outbox.webhook(tenant_id, "http://[::ffff:169.254.169.254]/latest")
        await outbox.put(tenant_id, name=1)
        await outbox.send()
        assert target.messages == []
        found = {(one.status, one.error) for one in await outbox.attempts_made()}
        refused = "The host is, or may be, in a private network. Only public addresses are allowed."
        assert found == {(307, None), (None, refused)}
        assert {one.status for one in await outbox.deliveries()} == {"pending"}

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x" * 1_000_000)
            return response

        receiver.respond = endless
        outbox.clock.step(5)
        await outbox.send()
        assert "delivered" in {one.status for one in await outbox.deliveries()}, "the body is not read"


async def test_a_receiver_that_fails_for_days_is_disabled_and_the_tenant_is_notified(outbox: Outbox) -> None:
    tenant_id, other = await outbox.tenant(), await outbox.tenant()
    async with receiving() as receiver:
        webhook = await outbox.webhook(tenant_id, NOWHERE)
        await outbox.webhook(tenant_id, receiver.url, EventType.WEBHOOK_DISABLED)
        await outbox.webhook(other, receiver.url, EventType.WEBHOOK_DISABLED)
        await outbox.put(tenant_id, name=1)
        await outbox.send()
        outbox.clock.step(DISABLE_AFTER_MS / 1000 - 1)
        await outbox.put(tenant_id, name=2)
        await outbox.send()
        assert (await outbox.row(webhook)).disabled_ms is None
        outbox.clock.step(10)
        await outbox.send()
        row = await outbox.row(webhook)
        assert (row.disabled_ms, row.disabled_reason) == (outbox.clock.ms, "failing")
        await outbox.put(tenant_id, name=3)
        outbox.clock.step(100)
        await outbox.send()
    assert len(await outbox.deliveries()) == 3, "a disabled webhook gets no events"
    [message] = receiver.messages
    assert message.document["type"] == "webhook.disabled"
    assert message.document["data"] == {"tenant_id": tenant_id, "webhook_id": webhook.id, "reason": "failing"}
    assert outbox.attempts.disabled == 1
    lines = "SELECT count(*) FROM audit_lines WHERE action = 'webhook.disable' AND actor = 'webhooks'"
    async with outbox.database.session() as session:
        assert (await (await session.connection()).exec_driver_sql(lines)).scalar_one() == 1


@pytest.mark.prove_only_on_postgres
async def test_a_receiver_that_is_gone_is_disabled_at_once(outbox: Outbox) -> None:
    async with receiving() as receiver:
        receiver.status = 410
        tenant_id = await outbox.tenant()
        webhook = await outbox.webhook(tenant_id, receiver.url)
        for name in range(5):
            await outbox.put(tenant_id, name=name)
        await outbox.send()
        outbox.clock.step(3600)
        assert await outbox.send() == 0
    row = await outbox.row(webhook)
    assert (row.disabled_reason, outbox.attempts.disabled) == ("gone", 1)


async def test_what_a_process_that_died_has_claimed_is_sent_again_after_its_lease(outbox: Outbox) -> None:
    """It may have been received before: the id is the same."""
    async with receiving() as receiver:
        tenant_id = await outbox.tenant()
        await outbox.webhook(tenant_id, receiver.url)
        await outbox.put(tenant_id, name=1)
        claimed = await outbox.new_sender()._claim(32)
        assert [one.number for one in claimed] == [1]
        assert await outbox.send() == 0
        outbox.clock.step(CLAIM_MS / 1000)
        assert await outbox.send() == 1
        await outbox.attempts.make(claimed[0])
    assert len({message.id for message in receiver.messages}) == 1 < len(receiver.messages)
    [delivery] = await outbox.deliveries()
    assert (delivery.status, [one.number for one in await outbox.attempts_made()]) == ("delivered", [1, 2])


async def test_many_senders_never_claim_the_same_delivery(outbox: Outbox) -> None:
    async with receiving() as receiver:
        tenant_id = await outbox.tenant()
        await outbox.webhook(tenant_id, receiver.url)
        for name in range(12):
            await outbox.put(tenant_id, name=name)
        senders = [outbox.new_sender() for _ in range(2)]  # as many as one client serves of one tenant
        async with asyncio.timeout(20):
            while {one.status for one in await outbox.deliveries()} != {"delivered"}:
                await asyncio.gather(*(_try_to_send(outbox, one) for one in senders))
    assert sorted(message.document["data"]["n"] for message in receiver.messages) == list(range(12))


async def _try_to_send(outbox: Outbox, one: sender.WebhookSender) -> None:
    try:
        await outbox.send(one)
    except DatabaseUnavailable:  # SQLite refuses a snapshot that another has changed
        await asyncio.sleep(0.01)


async def test_slow_receivers_of_one_tenant_leave_room_for_others(outbox: Outbox) -> None:
    async with receiving() as slow, receiving() as fast:
        never = asyncio.Event()

        async def stall(_: web.Request) -> web.Response:
            await never.wait()
            raise AssertionError

        slow.respond = stall
        hostile, other = await outbox.tenant(), await outbox.tenant()
        for _ in range(3):
            await outbox.webhook(hostile, slow.url)
        await outbox.webhook(other, fast.url)
        for name in range(20):
            await outbox.put(hostile, name=name)
        one = outbox.new_sender(concurrency=10)
        assert await one.send_due() == sender.MAX_PER_TENANT == 8
        for name in range(3):
            await outbox.put(other, name=name)
        assert await one.send_due() == 2
        await fast.wait_for(2)
        while len(one) > 8:
            await asyncio.sleep(0.005)
        assert await one.send_due() == 1
        await fast.wait_for(3)
        assert len(slow.messages) == 8
        await one.stop()
        never.set()


async def test_while_secrets_overlap_each_signs(outbox: Outbox) -> None:
    async with receiving() as receiver:
        tenant_id, old, new = await outbox.tenant(), new_secret(), new_secret()
        webhook = await outbox.webhook(tenant_id, receiver.url, secret=old)
        async with outbox.database.session() as session:
            row = await session.merge(webhook)
            outbox.secrets.replace_secret(row, new, outbox.clock.ms + 3_600_000)
        for name in range(2):
            await outbox.put(tenant_id, name=name)
            await outbox.send()
            outbox.clock.step(3_600)
    assert [message.is_signed_with(new) for message in receiver.messages] == [True, True]
    assert [message.is_signed_with(old) for message in receiver.messages] == [True, False]


@pytest.mark.prove_only_on_postgres
async def test_a_row_that_was_moved_to_another_webhook_is_not_sent(outbox: Outbox) -> None:
    async with receiving() as receiver:
        tenant_id = await outbox.tenant()
        one, other = [await outbox.webhook(tenant_id, receiver.url) for _ in range(2)]
        moved = "UPDATE webhooks SET sealed_url = (SELECT sealed_url FROM webhooks WHERE id = :one) WHERE id = :other"
        assert await outbox.execute(moved, one=one.id, other=other.id) == 1
        await outbox.put(tenant_id, name=1)
        await outbox.send()
    assert len(receiver.messages) == 1
    assert {one.status for one in await outbox.attempts_made()} == {204, None}


async def test_the_upkeep_gives_up_deletes_and_counts(outbox: Outbox) -> None:
    upkeep = WebhookUpkeep(outbox.database, outbox.clock, days=30)
    tenant_id = await outbox.tenant()
    await outbox.webhook(tenant_id, NOWHERE, disabled_ms=None)
    deleted = await outbox.webhook(tenant_id, NOWHERE)
    for name in range(3):
        await outbox.put(tenant_id, name=name)
    await outbox.execute("UPDATE webhooks SET deleted_ms = 1 WHERE id = :id", id=deleted.id)
    outbox.clock.step(10)
    await upkeep.run_once()
    assert upkeep.state == (3, 10.0, 0, 0)
    assert len(await outbox.deliveries()) == 3
    assert await outbox.execute("DELETE FROM webhooks WHERE id = :id", id=deleted.id) == 0, "it is gone already"
    await outbox.send()
    await upkeep.run_once()
    assert upkeep.state == (3, 0.0, 1, 0), "what waits for a receiver that fails is not overdue"
    outbox.clock.ms += GIVE_UP_MS
    await upkeep.run_once()
    assert {one.status for one in await outbox.deliveries()} == {"dead"}
    outbox.clock.ms += 30 * DAY_MS
    await upkeep.run_once()
    assert len(await outbox.deliveries()) == 3
    outbox.clock.ms += 1
    await upkeep.run_once()
    assert (await outbox.deliveries(), await outbox.attempts_made()) == ([], [])


@pytest.mark.prove_only_on_postgres
async def test_the_loop_sends_and_survives_an_outage(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "INTERVAL_S", 0.01)
    async with receiving() as receiver:
        tenant_id = await outbox.tenant()
        await outbox.webhook(tenant_id, receiver.url)
        await outbox.put(tenant_id, name=1)
        claim, errors = outbox.sender._claim, [DatabaseUnavailable(), DatabaseUnavailable(), ValueError()]

        async def failing(room: int) -> object:
            if errors:
                raise errors.pop(0)
            return await claim(room)

        monkeypatch.setattr(outbox.sender, "_claim", failing)
        outbox.sender.start()
        await receiver.wait_for(1)
        await outbox.sender.stop()
    assert errors == []


@pytest.mark.prove_only_on_postgres
async def test_a_draining_server_starts_no_delivery(outbox: Outbox) -> None:
    tenant_id = await outbox.tenant()
    await outbox.webhook(tenant_id, NOWHERE)
    await outbox.put(tenant_id, name=1)
    draining = sender.WebhookSender(
        outbox.database, outbox.attempts, outbox.clock, concurrency=1, is_draining=lambda: True
    )
    assert await draining.send_due() == 0


@pytest.mark.prove_only_on_postgres
async def test_a_receiver_has_a_time_limit(outbox: Outbox) -> None:
    async with receiving() as receiver:

        async def stall(_: web.Request) -> web.Response:
            await asyncio.sleep(30)
            raise AssertionError

        receiver.respond = stall
        outbound = OutboundClient("127.0.0.0/8", total_s=0.1)
        outbox.attempts._outbound = outbound
        tenant_id = await outbox.tenant()
        await outbox.webhook(tenant_id, receiver.url)
        await outbox.put(tenant_id, name=1)
        await outbox.send()
        outbound.close()
    [attempt] = await outbox.attempts_made()
    assert (attempt.status, attempt.error) == (None, "The host did not answer within 0.1 seconds.")
    assert attempt.duration_ms >= 90
