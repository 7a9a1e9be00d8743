"""The tags in API keys: forged keys are refused without a query, genuine ones are not delayed by them."""

import asyncio

import pytest
from sqlmodel import select

from support.factories import FakeClock, make_principal
from tollkeeper.database.engine import Database
from tollkeeper.errors import Unauthenticated
from tollkeeper.identity import key_tags, keys
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.models import ApiKey, KeyTagSecret, User
from tollkeeper.principal import Access

ADDRESS = "192.0.2.1"

SCOPES = {Access.AI}


async def make_key(database: Database) -> str:
    caller = await make_principal(database)
    async with database.session() as session:
        user = await session.get_one(User, caller.user_id)
        return (await keys.create(session, user, "robot", SCOPES, None, FakeClock().now_ms())).secret


async def make_untagged(database: Database) -> str:
    """A key without a tag, as earlier versions created them."""
    secret = await make_key(database)
    untagged = "tk-" + "u" * 43
    async with database.session() as session:
        row = (await session.exec(select(ApiKey).where(ApiKey.key_hash == keys._hash(secret)))).one()
        row.key_hash = keys._hash(untagged)
        session.add(row)
    return untagged


def forged(number: int) -> str:
    return key_tags.TAGGED_PREFIX + f"{number:043}" + "A" * key_tags.TAG_LENGTH


async def test_a_forged_key_is_refused_without_a_query(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    api_keys = ApiKeys(database, FakeClock())
    await api_keys.load()

    def unexpected(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(database, "session", unexpected)
    genuine = key_tags.TAGGED_PREFIX + "r" * 43
    for key in (forged(1), genuine + "ä" * key_tags.TAG_LENGTH, genuine + "\ud800" * key_tags.TAG_LENGTH):
        with pytest.raises(Unauthenticated):
            await api_keys.verify(key, Access.AI, ADDRESS)


async def test_thousands_of_forged_and_untagged_keys_do_not_block_a_valid_one(database: Database) -> None:
    """20 of 20 good keys were refused with 503 while strangers sent random ones."""
    good = await make_key(database)
    api_keys = ApiKeys(database, FakeClock())
    await api_keys.load()
    strangers = [forged(number) for number in range(2_000)] + [f"tk-{number:043}" for number in range(500)]
    flood = asyncio.gather(*(api_keys.verify(key, Access.AI, ADDRESS) for key in strangers), return_exceptions=True)
    await asyncio.sleep(0)
    assert (await api_keys.verify(good, Access.AI, ADDRESS)).api_key is not None
    assert all(isinstance(refused, Exception) for refused in await flood)


async def test_a_key_without_a_tag_is_valid_as_before(database: Database) -> None:
    untagged = await make_untagged(database)
    api_keys = ApiKeys(database, FakeClock())
    assert api_keys.costs_a_lookup(untagged)
    assert (await api_keys.verify(untagged, Access.AI, ADDRESS)).api_key is not None
    assert not api_keys.costs_a_lookup(untagged)


async def test_tags_of_an_older_and_of_a_newer_secret_are_genuine(database: Database) -> None:
    clock = FakeClock()
    old = await make_key(database)
    api_keys = ApiKeys(database, clock)
    await api_keys.load()
    async with database.session() as session:
        session.add(KeyTagSecret(secret=b"n" * 32, created_ms=0))
    new = await make_key(database)
    with pytest.raises(Unauthenticated):
        await api_keys.verify(new, Access.AI, ADDRESS)
    clock.step(key_tags.RELOAD_MS / 1000)
    assert {(await api_keys.verify(key, Access.AI, ADDRESS)).api_key is None for key in (old, new)} == {False}
