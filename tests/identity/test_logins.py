"""Logins and the change of the password, with what can change between two of their steps, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pyotp
import pytest
from structlog.testing import capture_logs

from support.identity import BROWSER, IdentityWorld, make_identity_world
from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidCredentials, InvalidTotpCode, TotpRequired, Unauthenticated
from tollkeeper.identity import accounts, failed_logins
from tollkeeper.identity.failed_logins import MAX_ADDRESSES, OTHERS, FailedLogins
from tollkeeper.identity.logins import Logins
from tollkeeper.identity.models import User
from tollkeeper.identity.passwords import Passwords, Verified
from tollkeeper.identity.sessions import IssuedTokens

PASSWORD, NEW_PASSWORD = "correct horse battery", "a sentence that nobody knows"


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(rounds=4)
    yield made
    made.close()


@pytest.fixture
async def world(database: Database, passwords: Passwords) -> IdentityWorld:
    made = await make_identity_world(database)
    async with database.session() as session:
        user = await session.get_one(User, made.caller.user_id)
        user.password_hash = await passwords.hash(PASSWORD)
    return made


@pytest.fixture
def logins(world: IdentityWorld, passwords: Passwords) -> Logins:
    return Logins(world.database, passwords, world.second_factors, world.sessions, world.clock)


async def log_in(world: IdentityWorld, logins: Logins, code: str | None = None) -> IssuedTokens:
    return await logins.log_in((await world.user()).email, PASSWORD, code, BROWSER)


async def test_a_login_opens_a_session_and_is_audited(world: IdentityWorld, logins: Logins) -> None:
    issued = await log_in(world, logins, "without effect")
    caller = world.tokens.verify(issued.access_token)
    assert (caller.session, caller.authenticated_ms) == (issued.session_id, world.clock.now_ms())
    assert await world.is_accepted(issued.access_token)
    assert await world.audited() == ["login"]


async def test_a_code_is_asked_for_only_after_the_password_has_matched(world: IdentityWorld, logins: Logins) -> None:
    async with world.database.session() as session:
        secret = (await world.second_factors.start(session, await world.user())).secret
    codes = pyotp.TOTP(secret)
    now_s = world.clock.now_ms() // 1000
    await world.second_factors.prove(world.database, await world.user(), codes.at(now_s), to_confirm=True)
    async with world.database.session() as session:
        await world.second_factors.confirm(session, await world.user())
    with pytest.raises(InvalidCredentials) as refused:
        await logins.log_in((await world.user()).email, "wrong", codes.at(now_s + 30), BROWSER)
    assert not isinstance(refused.value, InvalidTotpCode)
    with pytest.raises(TotpRequired):
        await log_in(world, logins)
    with pytest.raises(InvalidTotpCode):
        await log_in(world, logins, codes.at(now_s))
    await log_in(world, logins, codes.at(now_s + 30))
    assert await world.audited() == ["login"]


async def test_a_user_who_is_disabled_while_the_password_is_checked_is_not_logged_in(
    world: IdentityWorld, logins: Logins, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = passwords.verify

    async def verify_and_disable(password: str, password_hash: str | None) -> Verified:
        verified = await verify(password, password_hash)
        async with world.database.session() as session:
            accounts.disable(await session.get_one(User, world.caller.user_id), world.clock.now_ms())
        return verified

    monkeypatch.setattr(passwords, "verify", verify_and_disable)
    with pytest.raises(InvalidCredentials):
        await log_in(world, logins)
    assert await world.audited() == []


async def test_two_changes_of_the_password_at_once_leave_one_session(world: IdentityWorld, logins: Logins) -> None:
    caller = world.tokens.verify((await log_in(world, logins)).access_token)
    results = await asyncio.gather(
        *(logins.change_password(caller, PASSWORD, f"{NEW_PASSWORD} {number}", BROWSER) for number in range(2)),
        return_exceptions=True,
    )
    (changed,) = [result for result in results if isinstance(result, IssuedTokens)]
    (refused,) = [result for result in results if not isinstance(result, IssuedTokens)]
    assert isinstance(refused, Unauthenticated | InvalidCredentials)
    assert await world.is_accepted(changed.access_token)
    async with world.database.session() as session:
        assert len(await world.sessions.list_live(session, await world.user())) == 1
    assert await world.audited() == ["login", "password.change"]


async def test_a_new_password_is_a_fresh_login_only_without_a_second_factor(
    world: IdentityWorld, logins: Logins
) -> None:
    long_ago = replace(world.tokens.verify((await log_in(world, logins)).access_token), authenticated_ms=1_000)
    changed = world.tokens.verify(
        (await logins.change_password(long_ago, PASSWORD, NEW_PASSWORD, BROWSER)).access_token
    )
    assert changed.authenticated_ms == world.clock.now_ms()
    async with world.database.session() as session:
        secret = (await world.second_factors.start(session, await world.user())).secret
    code = pyotp.TOTP(secret).at(world.clock.now_ms() // 1000)
    await world.second_factors.prove(world.database, await world.user(), code, to_confirm=True)
    async with world.database.session() as session:
        await world.second_factors.confirm(session, await world.user())
    long_ago = replace(changed, authenticated_ms=1_000)
    issued = await logins.change_password(long_ago, NEW_PASSWORD, PASSWORD, BROWSER)
    assert world.tokens.verify(issued.access_token).authenticated_ms == 1_000


async def test_failed_logins_are_logged_once_a_minute_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_logins, "INTERVAL_S", 0.01)
    counter = FailedLogins()
    with capture_logs() as lines:
        for _ in range(3):
            counter.count("192.0.2.1")
        counter.count("192.0.2.2")
        while not lines:
            await asyncio.sleep(0.01)
        counter.write()
    assert [(line["address"], line["count"]) for line in lines] == [("192.0.2.1", 3), ("192.0.2.2", 1)]


async def test_failed_logins_of_very_many_addresses_are_counted_together() -> None:
    counter = FailedLogins()
    with capture_logs() as lines:
        for number in range(MAX_ADDRESSES + 5):
            counter.count(f"address {number}")
        counter.write()
        counter.write()
    assert (len(lines), lines[-1]["address"], lines[-1]["count"]) == (MAX_ADDRESSES + 1, OTHERS, 5)
