"""Sessions, on both databases: what a refresh token is good for, and until when."""

import asyncio
from dataclasses import replace

import pytest
from sqlmodel import select

from support.identity import BROWSER, IdentityWorld, make_identity_world
from tollkeeper.database.engine import Database
from tollkeeper.errors import NotFound, Unauthenticated
from tollkeeper.identity import accounts
from tollkeeper.identity.cleanup import KEPT_MS, IdentityCleanup
from tollkeeper.identity.models import OneTimeLink, Session, Tenant, TotpSecret, UsedOidcState, User
from tollkeeper.identity.sessions import GRACE_MS, MAX_SESSIONS_PER_USER, Method
from tollkeeper.principal import Role

GRACE_S = GRACE_MS / 1000


@pytest.fixture
async def world(database: Database) -> IdentityWorld:
    return await make_identity_world(database)


async def assert_refused(world: IdentityWorld, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await world.refresh(text)


async def test_a_refresh_replaces_the_token_and_keeps_session_and_time_of_the_login(world: IdentityWorld) -> None:
    first = await world.open()
    world.clock.step(600)
    second = await world.refresh(first.refresh_token)
    assert (second.session_id, second.expires_in) == (first.session_id, 900)
    assert second.refresh_token != first.refresh_token
    before, after = world.tokens.verify(first.access_token), world.tokens.verify(second.access_token)
    assert (before.session, before.authenticated_ms) == (after.session, after.authenticated_ms)
    assert before.session == first.session_id
    world.clock.step(600)
    assert (await world.refresh(second.refresh_token)).refresh_token != second.refresh_token
    assert await world.audited() == ["login"]


async def test_a_replay_within_the_grace_gets_the_same_successor(world: IdentityWorld) -> None:
    first = await world.open()
    second = await world.refresh(first.refresh_token)
    world.clock.step(GRACE_S)
    again = await world.refresh(first.refresh_token)
    assert again.refresh_token == second.refresh_token
    assert await world.is_accepted(again.access_token)
    assert (await world.refresh(again.refresh_token)).session_id == first.session_id


@pytest.mark.parametrize("case", ["after the grace", "after the successor was used", "two generations later"])
async def test_any_other_reuse_ends_the_session_and_is_audited(world: IdentityWorld, case: str) -> None:
    first, bystander = await world.open(), await world.open()
    newest = await world.refresh(first.refresh_token)
    if case == "after the grace":
        world.clock.step(GRACE_S + 0.001)
    else:
        for _ in range(1 if case == "after the successor was used" else 2):
            newest = await world.refresh(newest.refresh_token)
    await assert_refused(world, first.refresh_token)
    await assert_refused(world, newest.refresh_token)
    assert not await world.is_accepted(newest.access_token)
    assert await world.is_accepted(bystander.access_token)
    await assert_refused(world, first.refresh_token)
    assert await world.audited() == ["login", "login", "session.reuse"]


async def test_a_forged_token_ends_no_session(world: IdentityWorld) -> None:
    first = await world.open()
    newest = await world.refresh(first.refresh_token)
    world.clock.step(60)
    forged = first.refresh_token[:-22] + "A" * 22
    await assert_refused(world, forged)
    assert await world.is_accepted(newest.access_token)
    assert (await world.refresh(newest.refresh_token)).session_id == first.session_id


async def test_a_token_newer_than_a_restored_database_is_refused_and_ends_nothing(world: IdentityWorld) -> None:
    first = await world.open()
    row = await read(world, first.session_id)
    second = await world.refresh(first.refresh_token)
    async with world.database.session() as session:
        stored = await session.get_one(Session, first.session_id)
        stored.generation, stored.token_hash = row.generation, row.token_hash
    await assert_refused(world, second.refresh_token)
    assert (await world.refresh(first.refresh_token)).refresh_token == second.refresh_token


async def test_concurrent_refreshes_rotate_once_and_get_the_same_successor(world: IdentityWorld) -> None:
    first = await world.open()
    issued = await asyncio.gather(*(world.refresh(first.refresh_token) for _ in range(8)))
    assert len({one.refresh_token for one in issued}) == 1
    assert (await read(world, first.session_id)).generation == 1
    assert await world.audited() == ["login"]


@pytest.mark.parametrize("change", ["password", "role", "user disabled", "tenant disabled"])
async def test_what_changes_about_the_user_ends_the_session(world: IdentityWorld, change: str) -> None:
    issued = await world.open()
    async with world.database.session() as session:
        user = await session.get_one(User, world.caller.user_id)
        tenant = await session.get_one(Tenant, world.caller.tenant_id)
        match change:
            case "password":
                accounts.change_password(user, "-")
            case "role":
                user.role = Role.TENANT_ADMIN.value
            case "user disabled":
                accounts.disable(user, world.clock.now_ms())
            case "tenant disabled":
                accounts.disable(tenant, world.clock.now_ms())
    assert not await world.is_accepted(issued.access_token)
    await assert_refused(world, issued.refresh_token)
    if change in {"password", "role"}:
        async with world.database.session() as session:
            assert await world.sessions.list_live(session, await world.user()) == []


async def test_a_session_and_its_last_access_token_end_together(database: Database) -> None:
    world = await make_identity_world(database, hours=1)
    issued = await world.open()
    world.clock.step(3_600 - 60)
    issued = await world.refresh(issued.refresh_token)
    assert issued.expires_in == 60
    world.clock.step(59)
    assert await world.is_accepted(issued.access_token)
    world.clock.step(1)
    assert not await world.is_accepted(issued.access_token)
    await assert_refused(world, issued.refresh_token)


async def test_single_sign_on_lasts_twelve_hours_at_most(world: IdentityWorld) -> None:
    issued = await world.open(Method.OIDC)
    assert issued.session_expires_ms == world.clock.now_ms() + 12 * 3_600_000
    async with world.database.session() as session:
        assert await world.sessions.method_of(session, world.tokens.verify(issued.access_token)) is Method.OIDC
        assert await world.sessions.method_of(session, world.caller) is Method.PASSWORD


async def test_a_login_beyond_the_limit_ends_the_oldest_session(world: IdentityWorld) -> None:
    issued = []
    for _ in range(MAX_SESSIONS_PER_USER + 1):
        issued.append(await world.open())
        world.clock.step(1)
    await assert_refused(world, issued[0].refresh_token)
    assert not await world.is_accepted(issued[0].access_token)
    async with world.database.session() as session:
        live = await world.sessions.list_live(session, await world.user())
    assert [row.id for row in live] == [one.session_id for one in reversed(issued[1:])]


async def test_a_logout_ends_one_session_or_all(world: IdentityWorld) -> None:
    one, two, three = [await world.open() for _ in range(3)]
    await log_out(world, one.refresh_token)
    await log_out(world, one.refresh_token)
    assert [await world.is_accepted(each.access_token) for each in (one, two, three)] == [False, True, True]
    await log_out(world, two.refresh_token, everywhere=True)
    assert [await world.is_accepted(each.access_token) for each in (one, two, three)] == [False] * 3
    assert await world.audited() == ["login"] * 3 + ["logout"] * 2


async def test_an_outdated_token_logs_out_of_its_own_session_only(world: IdentityWorld) -> None:
    one, two = await world.open(), await world.open()
    newest = await world.refresh(one.refresh_token)
    world.clock.step(60)
    await log_out(world, one.refresh_token, everywhere=True)
    assert not await world.is_accepted(newest.access_token)
    assert await world.is_accepted(two.access_token)


async def test_a_user_ends_only_sessions_of_their_own(world: IdentityWorld) -> None:
    issued = await world.open()
    async with world.database.session() as session:
        stranger = User(id=10**6, tenant_id=world.caller.tenant_id, email="x", password_hash="")
        for user, session_id in ((stranger, issued.session_id), (await world.user(), "ses_0")):
            with pytest.raises(NotFound):
                await world.sessions.revoke(session, user, session_id)
    async with world.database.session() as session:
        await world.sessions.revoke(session, await world.user(), issued.session_id)
    assert not await world.is_accepted(issued.access_token)
    async with world.database.session() as session:
        with pytest.raises(NotFound):
            await world.sessions.revoke(session, await world.user(), issued.session_id)


async def test_an_access_token_of_another_users_session_is_refused(world: IdentityWorld) -> None:
    issued = await world.open()
    other = await make_identity_world(world.database)
    mixed = other.tokens.issue(replace(other.caller, session=issued.session_id))
    assert not await other.is_accepted(mixed)


async def test_address_and_program_are_those_of_the_last_use(world: IdentityWorld) -> None:
    issued = await world.open()
    phone = replace(BROWSER, address="2001:db8::1", user_agent="x" * 1_000)
    await world.sessions.refresh(world.database, world.sessions.recognise(issued.refresh_token), phone)
    row = await read(world, issued.session_id)
    assert (row.address, row.user_agent) == ("2001:db8::1", "x" * 200)


async def test_what_has_expired_is_deleted_and_nothing_else(world: IdentityWorld) -> None:
    cleanup = IdentityCleanup(world.database, world.clock)
    ended, live = await world.open(), await world.open()
    await log_out(world, ended.refresh_token)
    now_ms = world.clock.now_ms()
    async with world.database.session() as session:
        session.add(link_of(world, "old", now_ms))
        session.add(link_of(world, "new", now_ms + KEPT_MS + 1_000))
        session.add(UsedOidcState(state_hash="old", expires_ms=now_ms))
        await world.second_factors.start(session, await world.user())
    assert await cleanup.delete_expired() == 0
    world.clock.step(KEPT_MS / 1000 + 1)
    assert await cleanup.delete_expired() == 4
    async with world.database.session() as session:
        assert (await session.exec(select(Session.id))).all() == [live.session_id]
        assert (await session.exec(select(OneTimeLink.token_hash))).all() == ["new"]
        assert (await session.exec(select(TotpSecret.user_id))).all() == []
    assert await cleanup.delete_expired() == 0


def link_of(world: IdentityWorld, token_hash: str, expires_ms: int) -> OneTimeLink:
    return OneTimeLink(
        id=token_hash,
        token_hash=token_hash,
        kind="reset",
        tenant_id=world.caller.tenant_id,
        created_ms=0,
        expires_ms=expires_ms,
    )


async def read(world: IdentityWorld, session_id: str) -> Session:
    async with world.database.session() as session:
        return await session.get_one(Session, session_id)


async def log_out(world: IdentityWorld, text: str, *, everywhere: bool = False) -> None:
    async with world.database.session() as session:
        await world.sessions.log_out(session, world.sessions.recognise(text), BROWSER, everywhere=everywhere)
