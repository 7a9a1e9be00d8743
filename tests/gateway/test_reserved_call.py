"""How a call's quota is reserved: by bytes first, by an exact count where a quota refuses that."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from factories import set_limit, user_quota
from house import BOUND, EXACT, INPUT_TOKENS, House, open_house
from tollkeeper.errors import QuotaExceeded, Unauthenticated


@pytest.fixture
async def house(sqlite_url: str) -> AsyncIterator[House]:
    async with open_house(sqlite_url) as made:
        yield made


async def test_a_call_that_fits_by_bytes_is_not_counted(house: House) -> None:
    await house.ask(max_output=100)
    assert (house.provider.counted, (await house.charge()).held_tokens) == (0, BOUND + 100)


async def test_a_call_that_only_fits_exactly_is_counted_and_clamped(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), EXACT + 50)
    await house.ask()
    charge = await house.charge()
    assert (house.provider.limits, charge.held_tokens, charge.input_bound) == ([50], EXACT + 50, EXACT)
    assert house.provider.counted > 0


async def test_a_call_that_does_not_fit_exactly_either_is_refused_and_not_sent(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), INPUT_TOKENS)
    with pytest.raises(QuotaExceeded):
        await house.ask()
    assert (house.provider.asked, await house.charges(), house.ledger.in_flight) == ([], [], 0)


async def test_the_input_of_a_caller_who_is_no_longer_good_is_not_counted(house: House) -> None:
    house.caller = replace(house.caller, token_version=1)
    with pytest.raises(Unauthenticated):
        await house.ask()
    assert house.provider.counted == 0


async def test_the_input_of_a_caller_without_any_quota_is_not_counted(house: House) -> None:
    async with house.database.session() as session:
        connection = await session.connection()
        await connection.exec_driver_sql("DELETE FROM entries")
        await connection.exec_driver_sql("DELETE FROM windows")
        await connection.exec_driver_sql("DELETE FROM quotas")
    with pytest.raises(QuotaExceeded, match="no token quota"):
        await house.ask()
    assert house.provider.counted == 0
