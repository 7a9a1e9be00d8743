"""How a call's quota is reserved: by its bytes, then by an exact count if a quota refuses the bytes."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from support.factories import set_limit, user_quota
from support.gateway import EXACT_INPUT_BOUND, INPUT_BOUND, INPUT_TOKENS, GatewayUnderTest, open_gateway
from tollkeeper.errors import QuotaExceeded, Unauthenticated


@pytest.fixture
async def gateway(sqlite_url: str) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(sqlite_url) as opened:
        yield opened


async def test_a_call_that_fits_by_bytes_is_not_counted(gateway: GatewayUnderTest) -> None:
    await gateway.complete(max_output=100)
    assert (gateway.provider.input_counts, (await gateway.charge()).held_tokens) == (0, INPUT_BOUND + 100)


async def test_a_call_that_only_fits_exactly_is_counted_and_clamped(gateway: GatewayUnderTest) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), EXACT_INPUT_BOUND + 50)
    await gateway.complete()
    charge = await gateway.charge()
    assert (gateway.provider.limits, charge.held_tokens, charge.input_bound) == (
        [50],
        EXACT_INPUT_BOUND + 50,
        EXACT_INPUT_BOUND,
    )
    assert gateway.provider.input_counts > 0


async def test_a_call_that_does_not_fit_exactly_either_is_refused_and_not_sent(gateway: GatewayUnderTest) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), INPUT_TOKENS)
    with pytest.raises(QuotaExceeded):
        await gateway.complete()
    assert (gateway.provider.calls, await gateway.charges(), gateway.ledger.in_flight) == ([], [], 0)


async def test_the_input_of_a_caller_whose_token_was_revoked_is_not_counted(gateway: GatewayUnderTest) -> None:
    gateway.caller = replace(gateway.caller, token_version=1)
    with pytest.raises(Unauthenticated):
        await gateway.complete()
    assert gateway.provider.input_counts == 0


async def test_the_input_of_a_caller_without_any_quota_is_not_counted(gateway: GatewayUnderTest) -> None:
    async with gateway.database.session() as session:
        connection = await session.connection()
        await connection.exec_driver_sql("DELETE FROM entries")
        await connection.exec_driver_sql("DELETE FROM windows")
        await connection.exec_driver_sql("DELETE FROM quotas")
    with pytest.raises(QuotaExceeded, match="no token quota"):
        await gateway.complete()
    assert gateway.provider.input_counts == 0
