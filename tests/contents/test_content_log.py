"""Contents of calls are stored for tenants that want it, encrypted, behind the calls, and never after an erasure."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from sqlmodel import col, select, update

from support.factories import FakeClock, make_principal
from support.gateway import GatewayUnderTest, final_chunks, open_gateway, text_chunk
from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Image, Message, Reasoning, ToolCall, ToolResult, Usage
from tollkeeper.contents import content_log
from tollkeeper.contents.cipher import unseal
from tollkeeper.contents.content_log import Content, ContentLog
from tollkeeper.contents.models import StoredContent
from tollkeeper.contents.retention import ContentRetention
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import DatabaseUnavailable, InvalidRequest, SealBroken
from tollkeeper.gateway import attempts, recorded_content
from tollkeeper.gateway.results import CallFailed, IdempotentCall
from tollkeeper.identity.models import Tenant, User
from tollkeeper.providers.base import CallInput
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse

pytestmark = pytest.mark.exhaustive_on_postgres

DAY_MS = 86_400_000


@pytest.fixture
async def gateway(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(database_url) as opened:
        opened.contents.configure([opened.caller.tenant_id])
        yield opened


async def stored(gateway: GatewayUnderTest) -> list[StoredContent]:
    await gateway.contents.write_queued()
    async with gateway.database.session() as session:
        return list((await session.exec(select(StoredContent).order_by(col(StoredContent.charge_id)))).all())


def read(keys: DataKeys, row: StoredContent) -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(unseal(keys, row))
    return content


def make_input(*messages: Message) -> CallInput:
    return CallInput(lambda: ChatRequest(messages))


async def test_a_call_is_stored_with_its_messages_and_its_answer(gateway: GatewayUnderTest) -> None:
    call = ToolCall("c", "weather", '{"in": "Basel"}')
    answer = Completion("Hello.", "stop", Usage(40, 10), (call,), reasoning="hm", refusal="No.")
    gateway.provider.completions = [answer]
    await gateway.complete(
        input=make_input(
            Message("system", "Be brief."),
            Message("user", ("Look:", Image("https://example.com/secret.png"))),
            Message("assistant", (Reasoning("let me see"), call)),
            Message("user", (ToolResult("c", "rain"),)),
        )
    )
    [row] = await stored(gateway)
    charge = await gateway.charge()
    assert (row.tenant_id, row.user_id, row.charge_id) == (charge.tenant_id, charge.user_id, charge.id)
    assert (row.surface, row.provider, row.model) == ("query", "fake", "m")
    tool_call = {"type": "tool_call", "name": "weather", "text": '{"in": "Basel"}'}
    assert read(gateway.keys, row) == {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image"}]},
            {"role": "assistant", "content": [{"type": "reasoning", "text": "let me see"}, tool_call]},
            {"role": "user", "content": [{"type": "tool_result", "text": "rain"}]},
        ],
        "answer": {
            "content": [
                {"type": "reasoning", "text": "hm"},
                {"type": "text", "text": "Hello."},
                tool_call,
                {"type": "text", "text": "No."},
            ],
            "finish_reason": "stop",
        },
        "error": None,
        "truncated": False,
    }
    assert b"Hello" not in row.sealed_content


async def test_streams_failures_and_repeats(gateway: GatewayUnderTest) -> None:
    """A stream is stored as a whole; a failed call without an answer; a repeated one, and a refused one, not at all."""
    gateway.provider.streams = [[text_chunk("ye"), text_chunk("s"), *final_chunks()]]
    key = IdempotentCall(KeyedRequest("k", "f"), lambda result: StoredResponse(200, "application/json", b"{}"))
    await gateway.stream(idempotent=key)
    await gateway.replay(key)
    with pytest.raises(errors.ModelNotFound):
        await gateway.complete(model="other")
    gateway.provider.completions = [errors.ProviderRejected()]
    with pytest.raises(CallFailed):
        await gateway.complete()
    streamed, failed = [read(gateway.keys, row) for row in await stored(gateway)]
    assert streamed["answer"]["content"] == [{"type": "text", "text": "yes"}]
    assert (failed["answer"], failed["error"], failed["messages"][0]["role"]) == (None, "provider_rejected", "user")


async def test_an_input_that_is_no_chat_is_stored_as_its_texts(gateway: GatewayUnderTest) -> None:
    def refuse() -> ChatRequest:
        raise InvalidRequest

    await gateway.complete(input=CallInput(refuse))
    [row] = await stored(gateway)
    assert read(gateway.keys, row)["messages"] == []


async def test_texts_are_cut_at_their_limit(gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_content, "MAX_TEXT", 10)
    await gateway.complete(input=make_input(Message("user", "0123456789abc\ud800")))
    [row] = await stored(gateway)
    content = read(gateway.keys, row)
    assert content["truncated"]
    assert len(content["messages"][0]["content"][0]["text"]) + len(content["answer"]["content"][0]["text"]) == 10


async def test_nothing_is_stored_of_other_tenants_and_after_it_is_turned_off(gateway: GatewayUnderTest) -> None:
    gateway.contents.configure([gateway.caller.tenant_id + 1])
    await gateway.complete()
    assert (await stored(gateway), gateway.contents.dropped) == ([], 0)


async def test_a_content_is_readable_in_its_own_row_only(gateway: GatewayUnderTest) -> None:
    await gateway.complete()
    [row] = await stored(gateway)
    for change in ({"tenant_id": row.tenant_id + 1}, {"charge_id": "chg_0"}):
        with pytest.raises(SealBroken):
            unseal(gateway.keys, StoredContent(**row.model_dump() | change))


async def test_what_an_erased_user_has_in_the_queue_is_not_stored(gateway: GatewayUnderTest) -> None:
    await gateway.complete()
    erased = update(User).where(col(User.id) == gateway.caller.user_id).values(erased_at=datetime.now(UTC))
    async with gateway.database.session() as session:
        await session.exec(erased)
    assert await stored(gateway) == []


async def test_a_batch_that_is_written_twice_is_stored_once(gateway: GatewayUnderTest) -> None:
    await gateway.complete()
    queue = gateway.contents._queue.copy()
    assert len(await stored(gateway)) == 1
    gateway.contents._queue = queue
    assert len(await stored(gateway)) == 1


async def test_an_outage_keeps_what_is_queued_and_a_full_queue_drops_and_counts(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_log, "MAX_QUEUED", 2)
    monkeypatch.setattr(content_log, "INTERVAL_S", 0.001)
    monkeypatch.setattr(content_log, "OUTAGE_PAUSE_S", 0.001)
    real, tried = gateway.contents._write, []

    async def fail(batch: Any) -> None:
        tried.append(batch)
        if len(tried) == 3:
            monkeypatch.setattr(gateway.contents, "_write", real)
        raise DatabaseUnavailable

    monkeypatch.setattr(gateway.contents, "_write", fail)
    for _ in range(3):
        await gateway.complete()
    assert gateway.contents.dropped == 1
    gateway.contents.start()
    while len(tried) < 3:
        await gateway.complete()
    await gateway.contents.stop()
    assert len(await stored(gateway)) >= 2


async def test_a_content_that_cannot_be_read_is_dropped_alone(gateway: GatewayUnderTest) -> None:
    def fail() -> bytes:
        raise ZeroDivisionError

    await gateway.complete()
    gateway.contents.put(Content(gateway.caller, "chg_x", "query", "p", "m", 1, fail))
    await gateway.complete()
    assert (len(await stored(gateway)), gateway.contents.dropped) == (2, 1)


async def test_contents_are_deleted_after_the_tenants_days_and_at_the_latest_after_the_operators(
    gateway: GatewayUnderTest,
) -> None:
    clock = FakeClock()
    short, default, long = [await make_principal(gateway.database) for _ in range(3)]
    log = ContentLog(gateway.database, gateway.keys, clock)
    for day in range(10):
        for owner in (short, default, long):
            number = (day << 8) + owner.tenant_id
            log.put(Content(owner, f"chg_{number:032x}", "query", "p", "m", 1, lambda: b"{}"))
        await log.write_queued()
        clock.ms += DAY_MS
    async with gateway.database.session() as session:
        for owner, days in ((short, 2), (long, 100)):
            await session.exec(update(Tenant).where(col(Tenant.id) == owner.tenant_id).values(content_days=days))
    await ContentRetention(gateway.database, max_days=5, clock=clock).delete_due()
    rows = await stored(gateway)
    assert [sum(row.tenant_id == owner.tenant_id for row in rows) for owner in (short, default, long)] == [2, 5, 5]
    assert min(row.created_ms for row in rows) >= clock.ms - 5 * DAY_MS
