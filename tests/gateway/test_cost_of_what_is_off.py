"""What is off costs a call nothing: no statement, and no commit beside those of its charge."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event

from support.gateway import GatewayUnderTest, open_gateway
from tollkeeper.gateway.evaluation import Judge


@pytest.fixture
async def gateway(sqlite_url: str) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(sqlite_url) as opened:
        yield opened


async def test_without_moderation_and_judges_a_call_is_its_two_commits(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    batches: list[int] = []
    journal = gateway.ledger._journal
    monkeypatch.setattr(journal, "_on_batch", lambda count, _: batches.append(count))

    @event.listens_for(gateway.database._engine.sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    for _ in range(2):
        await gateway.complete()
        await gateway.stream()
    assert (statements, batches) == ([], [1] * 8), "a reserve and a settle for each"
    gateway.judges.configure({gateway.caller.tenant_id: Judge("m", None)})  # it rates nothing that nobody asked for
    await gateway.complete()
    assert (statements, len(batches), gateway.rated) == ([], 10, [])
