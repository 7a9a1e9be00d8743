"""Passwords are hashed well, verified in the same time whoever asks, and never longer than bcrypt sees."""

import asyncio
from collections.abc import Iterator

import pytest

from tollkeeper.errors import InvalidRequest, RateLimited
from tollkeeper.identity import passwords as module
from tollkeeper.identity.passwords import MAX_BYTES, Passwords

GOOD = "correct horse battery"


@pytest.fixture(scope="module")
def passwords() -> Iterator[Passwords]:
    made = Passwords(rounds=4)
    yield made
    made.close()


async def test_a_password_verifies_against_its_own_hash_only(passwords: Passwords) -> None:
    stored = await passwords.hash(GOOD)
    assert stored.startswith("$bcrypt-sha256$")
    assert GOOD not in stored
    assert await passwords.verify(GOOD, stored)
    assert not await passwords.verify(GOOD + "!", stored)


async def test_two_hashes_of_one_password_differ(passwords: Passwords) -> None:
    assert await passwords.hash(GOOD) != await passwords.hash(GOOD)


async def test_every_byte_of_a_long_password_counts(passwords: Passwords) -> None:
    long = "x" * 300
    stored = await passwords.hash(long)
    assert await passwords.verify(long, stored)
    assert not await passwords.verify(long[:72], stored)
    assert not await passwords.verify(long[:-1] + "y", stored)


async def test_a_password_may_contain_nul(passwords: Passwords) -> None:
    stored = await passwords.hash("before\0after-it-all")
    assert await passwords.verify("before\0after-it-all", stored)
    assert not await passwords.verify("before", stored)


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * (MAX_BYTES + 1), "é" * MAX_BYTES])
async def test_a_password_that_is_too_short_or_too_long_is_not_hashed(passwords: Passwords, password: str) -> None:
    with pytest.raises(InvalidRequest):
        await passwords.hash(password)


async def test_without_a_user_a_hash_is_verified_all_the_same(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time tells nothing, because the work is the same: one verification at the same cost."""
    verified: list[str] = []
    verify = passwords._context.verify

    def watched(password: str, stored: str) -> bool:
        verified.append(stored)
        return bool(verify(password, stored))

    monkeypatch.setattr(passwords._context, "verify", watched)
    stored = await passwords.hash(GOOD)
    assert not await passwords.verify(GOOD, None)
    assert not await passwords.verify("wrong", stored)
    assert not await passwords.verify("x" * (MAX_BYTES + 1), stored)
    assert len(verified) == 3
    assert {hash_.split("$")[2] for hash_ in verified} == {stored.split("$")[2]}


async def test_no_password_opens_an_account_that_does_not_exist(passwords: Passwords) -> None:
    assert not await passwords.verify("", None)


async def test_only_so_many_may_wait_to_be_hashed(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    results = await asyncio.gather(*(passwords.verify(GOOD, None) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results].count(RateLimited) == 2
    assert not await passwords.verify(GOOD, None)
