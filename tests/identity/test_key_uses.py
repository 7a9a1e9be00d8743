"""When a key was last used: noted without a query, written in batches, at most once a minute per key."""

import asyncio

import pytest

from support.factories import FakeClock, make_principal
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable, Forbidden
from tollkeeper.identity import key_uses, keys
from tollkeeper.identity.key_uses import PRECISION_MS, KeyUses, last_uses
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.models import User
from tollkeeper.key_limits import KeyLimits
from tollkeeper.principal import Access, Principal


async def make_key(database: Database, owner: Principal, limits: KeyLimits = KeyLimits()) -> str:  # noqa: B008
    async with database.session() as session:
        user = await session.get_one(User, owner.user_id)
        now_ms = FakeClock().now_ms()
        return (await keys.create(session, user, "robot", {Access.AI}, None, now_ms, limits)).secret


async def used_ms(database: Database, caller: Principal) -> int | None:
    assert caller.api_key is not None
    async with database.session() as session:
        return (await last_uses(session, {caller.tenant_id}, [caller.api_key])).get(caller.api_key)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def api_keys(database: Database, clock: FakeClock) -> ApiKeys:
    loaded = ApiKeys(database, clock)
    await loaded.load()
    return loaded


async def test_a_use_is_written_once_a_minute(database: Database, api_keys: ApiKeys, clock: FakeClock) -> None:
    secret = await make_key(database, await make_principal(database))
    caller = await api_keys.verify(secret, Access.AI, "")
    assert await used_ms(database, caller) is None
    await api_keys.uses.write()
    first_ms = clock.now_ms()
    assert await used_ms(database, caller) == first_ms
    for expected_ms, after_ms in ((first_ms, PRECISION_MS - 1), (first_ms + PRECISION_MS, 1)):
        clock.step(after_ms / 1000)
        await api_keys.verify(secret, Access.AI, "")
        await api_keys.uses.write()
        assert await used_ms(database, caller) == expected_ms


async def test_an_older_or_hardly_newer_use_of_another_process_changes_nothing(
    database: Database, api_keys: ApiKeys, clock: FakeClock
) -> None:
    caller = await api_keys.verify(await make_key(database, await make_principal(database)), Access.AI, "")
    others = [KeyUses(database, clock) for _ in range(2)]
    await api_keys.uses.write()
    written_ms = clock.now_ms()
    for uses, step_s in zip(others, (30, -3600), strict=True):
        clock.step(step_s)
        uses.note(caller)
        await uses.write()
        assert await used_ms(database, caller) == written_ms


async def test_a_refused_use_is_not_noted(database: Database, api_keys: ApiKeys) -> None:
    owner = await make_principal(database)
    secret = await make_key(database, owner, KeyLimits(networks=("192.0.2.0/24",)))
    for access, address in ((Access.AI, "203.0.113.1"), (Access.ME, "192.0.2.1")):
        with pytest.raises(Forbidden):
            await api_keys.verify(secret, access, address)
    caller = Principal(owner.user_id, owner.tenant_id, owner.role, 0)
    api_keys.uses.note(caller)
    await api_keys.uses.write()
    caller = await api_keys.verify(secret, Access.AI, "192.0.2.1")
    assert await used_ms(database, caller) is None


async def test_what_could_not_be_written_is_written_later(
    database: Database, api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await api_keys.verify(await make_key(database, await make_principal(database)), Access.AI, "")

    def unavailable() -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(database, "session", unavailable)
        await api_keys.uses.stop()
        with pytest.raises(DatabaseUnavailable):
            await api_keys.uses.write()
    await api_keys.uses.stop()
    assert await used_ms(database, caller) is not None


async def test_uses_are_written_in_the_background(
    database: Database, api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await api_keys.verify(await make_key(database, await make_principal(database)), Access.AI, "")
    monkeypatch.setattr(key_uses, "WRITE_INTERVAL_S", 0)
    written = asyncio.Event()
    write = api_keys.uses.write

    async def write_and_tell() -> None:
        await write()
        written.set()

    monkeypatch.setattr(api_keys.uses, "write", write_and_tell)
    api_keys.uses.start()
    async with asyncio.timeout(30):
        await written.wait()
    await api_keys.uses.stop()
    assert await used_ms(database, caller) is not None


async def test_a_process_remembers_a_bounded_number_of_keys(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_uses, "MAX_NOTED_KEYS", 2)
    uses = KeyUses(database, clock)
    owner = await make_principal(database)
    for number in range(3):
        uses.note(Principal(owner.user_id, owner.tenant_id, owner.role, 0, api_key=f"key_{number}"))
    await uses.write()
    async with database.session() as session:
        assert await last_uses(session, {owner.tenant_id}, ["key_0", "key_2"]) == {}
