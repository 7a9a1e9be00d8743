"""The second factor, on both databases: codes work once, guesses are limited, recovery codes are consumed."""

import asyncio

import pyotp
import pytest

from support.identity import IdentityWorld, make_identity_world
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import Purpose
from tollkeeper.errors import InvalidRequest, InvalidTotpCode, NotFound, RateLimited, SealBroken
from tollkeeper.identity.models import TotpSecret
from tollkeeper.identity.totp import FREE_FAILURES, PERIOD_S, RECOVERY_CODES, WAIT_MS, Enrolment, Proof

RFC_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
"""That of RFC 6238, appendix B, in base32."""


@pytest.fixture
async def world(database: Database) -> IdentityWorld:
    return await make_identity_world(database)


async def start(world: IdentityWorld) -> Enrolment:
    async with world.database.session() as session:
        return await world.second_factors.start(session, await world.user())


async def enrol(world: IdentityWorld) -> tuple[str, list[str]]:
    """Set up the second factor. Returns its secret and the recovery codes. The clock is one period further."""
    secret = (await start(world)).secret
    await world.second_factors.prove(world.database, await world.user(), code(world, secret), to_confirm=True)
    world.clock.step(PERIOD_S)
    async with world.database.session() as session:
        return secret, await world.second_factors.confirm(session, await world.user())


def code(world: IdentityWorld, secret: str, periods: int = 0) -> str:
    return pyotp.TOTP(secret).at(world.clock.now_ms() // 1000 + periods * PERIOD_S)


async def prove(world: IdentityWorld, code: str) -> Proof:
    return await world.second_factors.prove(world.database, await world.user(), code)


async def assert_wrong(world: IdentityWorld, code: str) -> None:
    with pytest.raises(InvalidTotpCode):
        await prove(world, code)


async def test_a_secret_is_needed_at_the_login_only_once_it_is_confirmed(world: IdentityWorld) -> None:
    async def is_confirmed() -> bool:
        async with world.database.session() as session:
            return await world.second_factors.is_confirmed(session, world.caller.user_id)

    enrolment = await start(world)
    assert enrolment.secret not in repr(enrolment)
    user = await world.user()
    parsed = pyotp.parse_uri(enrolment.uri)
    assert (parsed.secret, parsed.issuer, parsed.name) == (enrolment.secret, "Tollkeeper", user.email)
    assert not await is_confirmed()
    with pytest.raises(NotFound):
        await prove(world, code(world, enrolment.secret))
    async with world.database.session() as session:
        with pytest.raises(InvalidRequest):
            await world.second_factors.confirm(session, user)
    await enrol(world)
    assert await is_confirmed()
    with pytest.raises(InvalidRequest):
        await start(world)
    async with world.database.session() as session:
        assert await world.second_factors.remove(session, user)
        assert not await world.second_factors.remove(session, user)
    assert not await is_confirmed()


async def test_a_secret_started_anew_replaces_one_that_is_not_confirmed(world: IdentityWorld) -> None:
    old, new = (await start(world)).secret, (await start(world)).secret
    user = await world.user()
    with pytest.raises(InvalidTotpCode):
        await world.second_factors.prove(world.database, user, code(world, old), to_confirm=True)
    await world.second_factors.prove(world.database, user, code(world, new), to_confirm=True)


async def test_the_codes_are_those_of_rfc_6238(world: IdentityWorld) -> None:
    await enrol(world)
    user = await world.user()
    async with world.database.session() as session:
        row = await session.get_one(TotpSecret, user.id)
        place = f"totp_secrets/{user.tenant_id}/{user.id}"
        row.sealed_secret = world.keys.seal(Purpose.IDENTITY, RFC_SECRET.encode(), place)
        row.last_counter = None
    for seconds, expected in ((59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")):
        world.clock.ms = seconds * 1000
        assert await prove(world, expected) is Proof.CODE


async def test_a_code_works_once_and_no_older_one_after_it(world: IdentityWorld) -> None:
    secret, _ = await enrol(world)
    earlier = code(world, secret, -1)
    now = code(world, secret)
    assert await prove(world, f" {now[:3]} {now[3:]} ") is Proof.CODE
    await assert_wrong(world, now)
    await assert_wrong(world, earlier)
    assert await prove(world, code(world, secret, 1)) is Proof.CODE
    world.clock.step(PERIOD_S)
    await assert_wrong(world, code(world, secret))


async def test_a_clock_may_be_off_by_one_period_and_no_more(world: IdentityWorld) -> None:
    secret, _ = await enrol(world)
    world.clock.step(10 * PERIOD_S)
    for periods in (-2, 2):
        await assert_wrong(world, code(world, secret, periods))
    assert await prove(world, code(world, secret, -1)) is Proof.CODE


async def test_concurrent_requests_with_one_code_have_one_success(world: IdentityWorld) -> None:
    secret, _ = await enrol(world)
    now = code(world, secret)
    results = await asyncio.gather(*(prove(world, now) for _ in range(5)), return_exceptions=True)
    assert results.count(Proof.CODE) == 1
    assert sum(isinstance(result, InvalidTotpCode) for result in results) == 4


async def test_a_recovery_code_works_once_however_it_is_typed(world: IdentityWorld) -> None:
    _, codes = await enrol(world)
    assert len({*codes}) == RECOVERY_CODES
    assert await prove(world, codes[0].upper().replace("-", " ")) is Proof.RECOVERY_CODE
    await assert_wrong(world, codes[0])
    assert await prove(world, codes[1]) is Proof.RECOVERY_CODE
    async with world.database.session() as session:
        row = await session.get_one(TotpSecret, world.caller.user_id)
    assert all(one not in row.recovery_hashes and one.replace("-", "") not in row.recovery_hashes for one in codes)


@pytest.mark.parametrize("wrong", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "aaaa-bbbb-cccc-dddd", "x" * 64])
async def test_no_other_text_is_a_code(world: IdentityWorld, wrong: str) -> None:
    await enrol(world)
    await assert_wrong(world, wrong)


async def test_after_some_wrong_codes_even_a_right_one_waits(world: IdentityWorld) -> None:
    secret, codes = await enrol(world)
    for _ in range(FREE_FAILURES):
        await assert_wrong(world, "aaaaaa")
    for right in (code(world, secret), codes[0]):
        with pytest.raises(RateLimited):
            await prove(world, right)
    world.clock.step(WAIT_MS / 1000)
    await assert_wrong(world, "aaaaaa")
    with pytest.raises(RateLimited):
        await prove(world, code(world, secret))
    world.clock.step(WAIT_MS / 1000)
    assert await prove(world, code(world, secret)) is Proof.CODE
    for _ in range(FREE_FAILURES):
        await assert_wrong(world, "aaaaaa")


async def test_concurrent_guesses_are_limited_too(world: IdentityWorld) -> None:
    await enrol(world)
    results = await asyncio.gather(*(prove(world, "aaaaaa") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, InvalidTotpCode) for result in results) == FREE_FAILURES
    assert sum(isinstance(result, RateLimited) for result in results) == 8 - FREE_FAILURES


async def test_a_secret_copied_to_another_user_cannot_be_read(world: IdentityWorld) -> None:
    secret, _ = await enrol(world)
    other = await make_identity_world(world.database)
    await enrol(other)
    async with world.database.session() as session:
        mine = await session.get_one(TotpSecret, world.caller.user_id)
        theirs = await session.get_one(TotpSecret, other.caller.user_id)
        theirs.sealed_secret = mine.sealed_secret
    assert secret.encode() not in mine.sealed_secret
    other.clock.step(60)
    with pytest.raises(SealBroken):
        await prove(other, code(other, secret))
