"""API keys, on both databases: their user, their scopes, their expiry and revocation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from support.factories import FakeClock, make_principal
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable, Forbidden, InvalidRequest, NotFound, Overloaded, Unauthenticated
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.keys import ApiKeys, NewKey
from tollkeeper.identity.models import ApiKey, Tenant, User
from tollkeeper.principal import Access, Principal

BOTH = {Access.AI, Access.ME}
DAY_MS = 86_400_000
ADDRESS = "192.0.2.1"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def ada(database: Database) -> Principal:
    return await make_principal(database)


@pytest.fixture
async def api_keys(database: Database, clock: FakeClock) -> ApiKeys:
    loaded = ApiKeys(database, clock)
    await loaded.load()
    return loaded


@pytest.fixture
def sessions(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list with one item for each session that was opened."""
    opened: list[int] = []
    session = database.session

    def counted() -> AbstractAsyncContextManager[AsyncSession]:
        opened.append(1)
        return session()

    monkeypatch.setattr(database, "session", counted)
    return opened


async def make(
    database: Database, owner: Principal, scopes: set[Access] = BOTH, *, days: int | None = None, name: str = "robot"
) -> NewKey:
    now_ms = FakeClock().now_ms()
    async with database.session() as session:
        user = await session.get_one(User, owner.user_id)
        expires_ms = None if days is None else now_ms + days * DAY_MS
        return await keys.create(session, user, name, scopes, expires_ms, now_ms)


async def revoke(database: Database, owner: Principal, key_id: str) -> None:
    async with database.session() as session:
        await keys.revoke(session, await session.get_one(User, owner.user_id), key_id, FakeClock().now_ms())


async def is_current(database: Database, caller: Principal, now_ms: int) -> bool:
    async with database.session() as session:
        try:
            await accounts.load_account(session, caller, now_ms)
        except Unauthenticated:
            return False
        return True


async def test_a_key_authenticates_the_user_who_created_it(
    database: Database, ada: Principal, api_keys: ApiKeys
) -> None:
    made = await make(database, ada)
    caller = await api_keys.verify(made.secret, Access.AI, ADDRESS)
    assert caller == Principal(ada.user_id, ada.tenant_id, ada.role, 0, made.row.id)
    assert await is_current(database, caller, FakeClock().now_ms())


async def test_only_the_hash_and_the_prefix_of_a_key_are_stored(database: Database, ada: Principal) -> None:
    made = await make(database, ada)
    async with database.session() as session:
        [row] = (await session.exec(select(ApiKey))).all()
    assert made.secret not in repr(row.model_dump())
    assert made.secret.startswith(row.prefix)
    assert len(row.prefix) < len(made.secret) / 4
    assert row.key_hash not in repr(row)
    assert made.secret not in repr(made)


async def test_no_two_keys_are_the_same(database: Database, ada: Principal) -> None:
    made = [await make(database, ada) for _ in range(5)]
    assert len({key.secret for key in made}) == len({key.row.id for key in made}) == 5


@pytest.mark.prove_only_on_postgres
@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("scopes", [{Access.AI}, {Access.ME}, BOTH])
async def test_a_key_allows_its_scopes_and_never_the_management_of_keys(
    database: Database, ada: Principal, api_keys: ApiKeys, scopes: set[Access], access: Access
) -> None:
    made = await make(database, ada, scopes)
    if access in scopes:
        assert (await api_keys.verify(made.secret, access, ADDRESS)).api_key == made.row.id
        return
    for _ in range(2):  # looked up, and remembered
        with pytest.raises(Forbidden):
            await api_keys.verify(made.secret, access, ADDRESS)


@pytest.mark.prove_only_on_postgres
@pytest.mark.parametrize("changed", ["", "tk-", "tk-short", "one letter", "one more", "é", "\ud800", "\x00"])
async def test_a_malformed_or_changed_key_is_refused(
    database: Database, ada: Principal, api_keys: ApiKeys, changed: str
) -> None:
    secret = (await make(database, ada)).secret
    if changed == "one letter":
        changed = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    elif changed == "one more":
        changed = secret + "A"
    elif len(changed) == 1:
        changed = secret[:-1] + changed
    with pytest.raises(Unauthenticated):
        await api_keys.verify(changed, Access.AI, ADDRESS)


async def test_a_key_expires_at_its_expiry_time(
    database: Database, ada: Principal, api_keys: ApiKeys, clock: FakeClock
) -> None:
    made = await make(database, ada, days=1)
    clock.step(24 * 3600 - 1)
    caller = await api_keys.verify(made.secret, Access.AI, ADDRESS)
    assert await is_current(database, caller, clock.now_ms())
    clock.step(1)
    assert not await is_current(database, caller, clock.now_ms())
    for fresh in (api_keys, ApiKeys(database, clock)):  # one that remembers it, and one that does not
        with pytest.raises(Unauthenticated):
            await fresh.verify(made.secret, Access.AI, ADDRESS)


async def test_a_revoked_key_is_no_longer_current_although_it_is_cached_for_a_while(
    database: Database, ada: Principal, api_keys: ApiKeys, clock: FakeClock
) -> None:
    made = await make(database, ada)
    caller = await api_keys.verify(made.secret, Access.AI, ADDRESS)
    await revoke(database, ada, made.row.id)
    assert await api_keys.verify(made.secret, Access.AI, ADDRESS) == caller
    assert not await is_current(database, caller, clock.now_ms())
    clock.step(31)
    with pytest.raises(Unauthenticated):
        await api_keys.verify(made.secret, Access.AI, ADDRESS)


@pytest.mark.parametrize("whose", ["user", "tenant"])
async def test_a_key_is_refused_while_its_user_or_tenant_is_disabled(
    database: Database, ada: Principal, api_keys: ApiKeys, clock: FakeClock, whose: str
) -> None:
    made = await make(database, ada)
    caller = await api_keys.verify(made.secret, Access.AI, ADDRESS)

    async def switch(*, on: bool) -> None:
        async with database.session() as session:
            user, tenant = await session.get_one(User, ada.user_id), await session.get_one(Tenant, ada.tenant_id)
            row = user if whose == "user" else tenant
            if on:
                accounts.enable(row)
            else:
                accounts.disable(row, FakeClock().now_ms())

    await switch(on=False)
    assert not await is_current(database, caller, clock.now_ms())
    with pytest.raises(Unauthenticated):
        await ApiKeys(database, clock).verify(made.secret, Access.AI, ADDRESS)
    await switch(on=True)
    assert await is_current(database, caller, clock.now_ms())
    assert await ApiKeys(database, clock).verify(made.secret, Access.AI, ADDRESS) is not None


async def test_a_new_password_leaves_keys_alone(database: Database, ada: Principal, api_keys: ApiKeys) -> None:
    caller = await api_keys.verify((await make(database, ada)).secret, Access.AI, ADDRESS)
    async with database.session() as session:
        accounts.change_password(await session.get_one(User, ada.user_id), "-")
    assert await is_current(database, caller, FakeClock().now_ms())


async def test_a_key_does_not_authenticate_another_user(database: Database, ada: Principal) -> None:
    made, now_ms = await make(database, ada), FakeClock().now_ms()
    colleague = await make_principal(database, ada.tenant_id)
    stranger = await make_principal(database)
    for other in (colleague, stranger):
        assert not await is_current(
            database, Principal(other.user_id, other.tenant_id, other.role, 0, made.row.id), now_ms
        )
        assert not await is_current(database, Principal(ada.user_id, stranger.tenant_id, ada.role, 0, made.row.id), 0)
        with pytest.raises(NotFound):
            await revoke(database, other, made.row.id)
    assert await is_current(database, Principal(ada.user_id, ada.tenant_id, ada.role, 0, made.row.id), now_ms)


async def test_the_lifetime_of_a_key_is_limited(database: Database, ada: Principal) -> None:
    with pytest.raises(InvalidRequest, match="future"):
        await make(database, ada, days=keys.MAX_LIFETIME_DAYS + 1)
    await make(database, ada, days=keys.MAX_LIFETIME_DAYS)


@pytest.mark.parametrize("key_id", ["key_" + "0" * 24, "", "key_\x00", "1", "key_'; --"])
async def test_an_unknown_key_cannot_be_revoked(database: Database, ada: Principal, key_id: str) -> None:
    with pytest.raises(NotFound):
        await revoke(database, ada, key_id)


async def test_a_key_is_revoked_once_and_then_not_listed(database: Database, ada: Principal) -> None:
    first, second = await make(database, ada, name="first"), await make(database, ada, name=" second ")
    await revoke(database, ada, first.row.id)
    with pytest.raises(NotFound):
        await revoke(database, ada, first.row.id)
    async with database.session() as session:
        left = await keys.list_keys(session, await session.get_one(User, ada.user_id))
    assert [(key.id, key.name) for key in left] == [(second.row.id, "second")]


@pytest.mark.prove_only_on_postgres
@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "line\nbreak", "bell\x07"])
async def test_the_name_of_a_key_must_be_printable(database: Database, ada: Principal, name: str) -> None:
    with pytest.raises(InvalidRequest, match="printable"):
        await make(database, ada, name=name)


@pytest.mark.prove_only_on_postgres
@pytest.mark.parametrize("scopes", [set(), {Access.KEYS}, {Access.AI, Access.KEYS}])
async def test_a_key_needs_scopes_and_cannot_have_those_of_a_login(
    database: Database, ada: Principal, scopes: set[Access]
) -> None:
    with pytest.raises(InvalidRequest, match="ai, me"):
        await make(database, ada, scopes)


async def test_a_key_cannot_expire_in_the_past(database: Database, ada: Principal) -> None:
    with pytest.raises(InvalidRequest, match="future"):
        await make(database, ada, days=0)


async def test_the_number_of_keys_per_user_is_limited(database: Database, ada: Principal) -> None:
    made = [await make(database, ada) for _ in range(keys.MAX_KEYS_PER_USER)]
    with pytest.raises(InvalidRequest, match=str(keys.MAX_KEYS_PER_USER)):
        await make(database, ada)
    await revoke(database, ada, made[0].row.id)
    await make(database, ada)
    await make(database, await make_principal(database, ada.tenant_id))


async def test_concurrent_creation_does_not_exceed_the_number_of_keys_per_user(
    database: Database, ada: Principal
) -> None:
    for _ in range(keys.MAX_KEYS_PER_USER - 3):
        await make(database, ada)
    made = await asyncio.gather(*(make(database, ada) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, NewKey) for one in made) == 3
    assert sum(isinstance(one, InvalidRequest) for one in made) == 5


async def test_of_concurrent_revocations_of_a_key_one_succeeds(database: Database, ada: Principal) -> None:
    key_id = (await make(database, ada)).row.id
    done = await asyncio.gather(*(revoke(database, ada, key_id) for _ in range(8)), return_exceptions=True)
    assert [type(one) for one in done if one is not None] == [NotFound] * 7


async def test_all_keys_of_one_user_can_be_revoked_and_no_others(database: Database, ada: Principal) -> None:
    colleague = await make_principal(database, ada.tenant_id)
    made = [await make(database, ada), await make(database, ada), await make(database, colleague)]
    async with database.session() as session:
        user = await session.get_one(User, ada.user_id)
        assert await keys.revoke_all(session, user, 1) == 2
        assert await keys.revoke_all(session, user, 1) == 0
    now_ms = FakeClock().now_ms()
    good = [await is_current(database, using(key, ada, colleague), now_ms) for key in made]
    assert good == [False, False, True]


def using(key: NewKey, *owners: Principal) -> Principal:
    [owner] = [owner for owner in owners if owner.user_id == key.row.user_id]
    return replace(owner, api_key=key.row.id)


async def test_a_forgotten_key_that_was_revoked_is_refused_at_once(
    database: Database, ada: Principal, api_keys: ApiKeys, sessions: list[int]
) -> None:
    made, other = await make(database, ada), await make(database, ada)
    caller = await api_keys.verify(made.secret, Access.AI, ADDRESS)
    await api_keys.verify(other.secret, Access.AI, ADDRESS)
    await revoke(database, ada, made.row.id)
    api_keys.forget(caller)
    before = len(sessions)
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await api_keys.verify(made.secret, Access.AI, ADDRESS)
    await api_keys.verify(other.secret, Access.AI, ADDRESS)
    assert len(sessions) == before + 1, "what was refused is remembered, and so is the other key"


async def test_an_outage_is_not_cached_as_a_result_for_a_key(
    database: Database, ada: Principal, api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, session = await make(database, ada), database.session
    monkeypatch.setattr(database, "session", _gone)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await api_keys.verify(made.secret, Access.AI, ADDRESS)
    monkeypatch.setattr(database, "session", session)
    assert (await api_keys.verify(made.secret, Access.AI, ADDRESS)).api_key == made.row.id


def _gone() -> AbstractAsyncContextManager[AsyncSession]:
    raise DatabaseUnavailable


async def test_lookups_of_unknown_keys_use_a_limited_number_of_connections(
    database: Database, api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_now, most, session = [0], [0], database.session

    @asynccontextmanager
    async def counted() -> AsyncIterator[AsyncSession]:
        async with session() as made:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
            await asyncio.sleep(0.001)
            yield made
            open_now[0] -= 1

    monkeypatch.setattr(database, "session", counted)
    wrong = [f"tk-{number:043}" for number in range(keys.MAX_PENDING_LOOKUPS + 50)]
    results = await asyncio.gather(*(api_keys.verify(key, Access.AI, ADDRESS) for key in wrong), return_exceptions=True)
    assert {type(one) for one in results} == {Unauthenticated, Overloaded}
    assert sum(isinstance(one, Overloaded) for one in results) == 50
    assert most == [keys.MAX_CONCURRENT_LOOKUPS]


async def test_concurrent_verifications_of_a_key_share_one_lookup(
    database: Database, ada: Principal, api_keys: ApiKeys, sessions: list[int]
) -> None:
    made = await make(database, ada)
    before = len(sessions)
    callers = await asyncio.gather(*(api_keys.verify(made.secret, Access.AI, ADDRESS) for _ in range(100)))
    callers += [await api_keys.verify(made.secret, Access.ME, ADDRESS)]
    assert {caller.api_key for caller in callers} == {made.row.id}
    assert len(sessions) == before + 1


async def test_a_cancelled_verification_does_not_affect_the_others(
    database: Database, ada: Principal, api_keys: ApiKeys
) -> None:
    made = await make(database, ada)
    leaving, staying = (asyncio.create_task(api_keys.verify(made.secret, Access.AI, ADDRESS)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).api_key == made.row.id
    assert leaving.cancelled()


async def test_the_key_cache_is_bounded(
    database: Database, ada: Principal, api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_CACHED_KEYS", 2)
    made = [await make(database, ada) for _ in range(3)]
    for key in made:
        await api_keys.verify(key.secret, Access.AI, ADDRESS)
    await revoke(database, ada, made[0].row.id)
    await revoke(database, ada, made[2].row.id)
    await api_keys.verify(made[2].secret, Access.AI, ADDRESS)
    with pytest.raises(Unauthenticated):
        await api_keys.verify(made[0].secret, Access.AI, ADDRESS)
