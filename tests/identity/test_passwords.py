"""Passwords are hashed with bcrypt-sha256, verified in constant work for any user, and limited in length."""

import asyncio
import unicodedata
from collections.abc import Iterator

import pytest
from passlib.context import CryptContext

from tollkeeper.errors import InvalidRequest, RateLimited
from tollkeeper.identity import passwords as module
from tollkeeper.identity.passwords import _ROUNDS, MAX_BYTES, Passwords

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
    assert (await passwords.verify(GOOD, stored)).matches
    assert not (await passwords.verify(GOOD + "!", stored)).matches


async def test_two_hashes_of_one_password_differ(passwords: Passwords) -> None:
    assert await passwords.hash(GOOD) != await passwords.hash(GOOD)


async def test_every_byte_of_a_long_password_counts(passwords: Passwords) -> None:
    long = "x" * 300
    stored = await passwords.hash(long)
    assert (await passwords.verify(long, stored)).matches
    assert not (await passwords.verify(long[:72], stored)).matches
    assert not (await passwords.verify(long[:-1] + "y", stored)).matches


async def test_a_password_may_contain_nul(passwords: Passwords) -> None:
    stored = await passwords.hash("before\0after-it-all")
    assert (await passwords.verify("before\0after-it-all", stored)).matches
    assert not (await passwords.verify("before", stored)).matches


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * (MAX_BYTES + 1), "é" * MAX_BYTES])
async def test_a_password_that_is_too_short_or_too_long_is_not_hashed(passwords: Passwords, password: str) -> None:
    with pytest.raises(InvalidRequest):
        await passwords.hash(password)


async def test_an_unknown_user_costs_one_verification_too(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is the same with and without a user: one verification at the same cost."""
    verified: list[str] = []
    verify = passwords._context.verify

    def watched(password: str, stored: str) -> bool:
        verified.append(stored)
        return bool(verify(password, stored))

    monkeypatch.setattr(passwords._context, "verify", watched)
    stored = await passwords.hash(GOOD)
    assert not (await passwords.verify(GOOD, None)).matches
    assert not (await passwords.verify("wrong", stored)).matches
    assert not (await passwords.verify("x" * (MAX_BYTES + 1), stored)).matches
    assert len(verified) == 3
    assert {hash_.split("$")[2] for hash_ in verified} == {stored.split("$")[2]}


async def test_no_password_opens_an_account_that_does_not_exist(passwords: Passwords) -> None:
    assert not (await passwords.verify("", None)).matches


async def test_the_queue_of_passwords_to_hash_is_bounded(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    results = await asyncio.gather(*(passwords.verify(GOOD, None) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results].count(RateLimited) == 2
    assert not (await passwords.verify(GOOD, None)).matches


async def test_a_password_is_the_same_in_every_normal_form(passwords: Passwords) -> None:
    """RFC 8265, OpaqueString: NFC, and other spaces are spaces. Keyboards and systems differ in what they send."""
    composed = "pä:ß wörd 99!!"
    stored = await passwords.hash(composed)
    for form in (unicodedata.normalize("NFD", composed), composed.replace(" ", "\u00a0")):
        assert form != composed
        assert (await passwords.verify(form, stored)).matches
    assert not (await passwords.verify("pa:ss word 99!!", stored)).matches


async def test_a_hash_of_an_earlier_version_matches_and_is_renewed(passwords: Passwords) -> None:
    decomposed = unicodedata.normalize("NFD", "pä:ß wörd 99!!")
    cheaper = CryptContext(schemes=["bcrypt"], bcrypt__rounds=4)
    for stored in (cheaper.hash(decomposed), cheaper.hash(GOOD)):
        password = decomposed if cheaper.verify(decomposed, stored) else GOOD
        verified = await passwords.verify(password, stored)
        assert verified.matches
        assert verified.new_hash is not None
        assert (await passwords.verify(password, verified.new_hash)) == (True, None)
    assert (await passwords.verify("wrong", cheaper.hash(GOOD))) == (False, None)


async def test_a_known_user_with_an_older_hash_costs_as_many_rounds_as_an_unknown_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stronger = Passwords(7)
    old = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=4).hash(GOOD)
    await stronger.verify("wrong", old)  # makes the dummy hashes
    spent: list[int] = []
    verify = stronger._context.verify

    def counted(secret: str, hash_: str) -> bool:
        found = _ROUNDS.search(hash_)
        assert found is not None
        spent.append(2 ** int(found[1]))
        return bool(verify(secret, hash_))

    monkeypatch.setattr(stronger._context, "verify", counted)
    totals = []
    for stored in (old, None):
        spent.clear()
        assert not (await stronger.verify("wrong", stored)).matches
        totals.append(sum(spent))
    assert totals == [2**7, 2**7]
    stronger.close()


async def test_new_passwords_of_one_tenant_leave_room_for_others_and_for_logins(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", module.MAX_QUEUED_PER_TENANT + 2)
    setting = [passwords.hash(GOOD, tenant_id=1) for _ in range(module.MAX_QUEUED_PER_TENANT + 5)]
    others = [passwords.hash(GOOD, tenant_id=2), passwords.verify(GOOD, None)]
    results = await asyncio.gather(*setting, *others, return_exceptions=True)
    refused = [isinstance(result, RateLimited) for result in results]
    assert refused == [False] * module.MAX_QUEUED_PER_TENANT + [True] * 5 + [False] * 2
    assert await passwords.hash(GOOD, tenant_id=1)
