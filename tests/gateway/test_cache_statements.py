"""Where the cache is off, a call sends PostgreSQL the statements that it sends without the cache; so does a miss."""

from typing import Any

import pytest

from support.gateway import GatewayUnderTest, open_gateway
from support.sent_statements import record_statements


async def statements_of(gateway: GatewayUnderTest, sent: list[str], **changes: Any) -> list[str]:
    sent.clear()
    await gateway.complete(**changes)
    return list(sent)


async def test_a_call_with_the_cache_off_and_a_miss_send_no_further_statement_and_a_hit_sends_fewer(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gateway(postgres_url) as gateway:
        sent = record_statements(monkeypatch)
        await gateway.complete()
        usual = await statements_of(gateway, sent)
        assert usual
        assert await statements_of(gateway, sent, cache=False) == usual
        assert await statements_of(gateway, sent, cache=True) == usual
        hit = await statements_of(gateway, sent, cache=True)
        assert gateway.cache.hits == 1
        assert len(hit) < len(usual)
