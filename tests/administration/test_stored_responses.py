"""The stored response of an administrative request: for how long, and for whom it is repeated."""

import pytest

from support.factories import FakeClock, make_principal
from tollkeeper.api.admin.idempotency import LIFETIME_MS, Repeatable, find_response, store_response
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import IdempotencyMismatch


async def test_a_response_is_repeated_for_a_day_and_then_the_key_is_free(
    database: Database, data_keys: DataKeys, clock: FakeClock
) -> None:
    request = Repeatable(await make_principal(database), "key", "the same request")
    for body in (b"first", b"second"):
        async with database.session() as session:
            assert await find_response(session, data_keys, request, clock.ms) is None
            await store_response(session, data_keys, request, 201, body, clock.ms)
        clock.ms += LIFETIME_MS
        async with database.session() as session:
            assert await find_response(session, data_keys, request, clock.ms) == (201, body)
            with pytest.raises(IdempotencyMismatch):
                await find_response(session, data_keys, request._replace(fingerprint="another"), clock.ms)
        clock.ms += 1
