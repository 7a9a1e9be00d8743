"""Data keys: what is sealed opens only in its place, untouched; keys survive a rotation; a wrong key is refused."""

import asyncio
import os
import sys

import pytest
from pydantic import SecretStr
from sqlmodel import select

from support.deadlines import TEST_DEADLINE_S
from support.encryption import make_data_keys
from support.factories import FakeClock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import SEAL_BYTES, DataKeys, Purpose
from tollkeeper.encryption.models import WrappedKey
from tollkeeper.errors import ConfigurationError, SealBroken

PLAIN = b"what nobody may read"
OLD, NEW = SecretStr("the old data key, 32 bytes or more"), SecretStr("the new data key, 32 bytes or more")
CREATE_KEYS = """
import asyncio, sys
from pydantic import SecretStr
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys, Purpose

async def main():
    database = Database(sys.argv[1])
    keys = DataKeys(SecretStr(sys.argv[2]))
    await keys.load(database, SystemClock())
    print([keys.mac(purpose, b"x").hex() for purpose in Purpose])
    await database.close()

asyncio.run(main())
"""


async def load(database: Database, key: SecretStr, previous: SecretStr | None = None) -> DataKeys:
    keys = DataKeys(key, previous=previous)
    await keys.load(database, FakeClock())
    return keys


async def wrapped(database: Database) -> list[bytes]:
    async with database.session() as session:
        return [row.wrapped for row in (await session.exec(select(WrappedKey).order_by(WrappedKey.purpose))).all()]


def test_what_is_sealed_opens_in_its_place_and_is_never_the_same_twice() -> None:
    keys = make_data_keys()
    sealed = [keys.seal(Purpose.CONVERSATIONS, PLAIN, "a/1") for _ in range(2)]
    assert sealed[0] != sealed[1]
    for one in sealed:
        assert keys.unseal(Purpose.CONVERSATIONS, one, "a/1") == PLAIN
        assert PLAIN not in one
        assert len(one) == len(PLAIN) + SEAL_BYTES
        assert DataKeys.is_sealed(one)
    assert keys.unseal(Purpose.RESPONSES, keys.seal(Purpose.RESPONSES, b"", "a"), "a") == b""


@pytest.mark.parametrize("begin", [b"{", b"[", b'"', b"d", b":", b"e", b" ", b"\n", b"1", b""])
def test_no_body_of_an_older_version_looks_sealed(begin: bytes) -> None:
    assert not DataKeys.is_sealed(begin + b"rest")


def test_it_opens_in_no_other_place_and_for_no_other_purpose() -> None:
    keys = make_data_keys()
    sealed = keys.seal(Purpose.CONVERSATIONS, PLAIN, "conversations/1/2")
    for purpose, place in (
        (Purpose.CONVERSATIONS, "conversations/1/3"),
        (Purpose.CONVERSATIONS, ""),
        (Purpose.RESPONSES, "conversations/1/2"),
    ):
        with pytest.raises(SealBroken):
            keys.unseal(purpose, sealed, place)


def test_a_change_of_any_byte_and_any_other_length_is_found() -> None:
    keys = make_data_keys()
    sealed = keys.seal(Purpose.RESPONSES, PLAIN, "a")
    broken = [sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :] for index in range(len(sealed))]
    broken += [sealed[:length] for length in range(len(sealed))]
    broken += [sealed + b"\0", b"\x02" + sealed[1:], PLAIN]
    for one in broken:
        with pytest.raises(SealBroken):
            keys.unseal(Purpose.RESPONSES, one, "a")


async def test_each_start_has_the_same_keys_and_each_purpose_its_own(database: Database) -> None:
    first, again = await load(database, OLD), await load(database, OLD)
    macs = [first.mac(purpose, b"x") for purpose in Purpose]
    assert macs == [again.mac(purpose, b"x") for purpose in Purpose]
    assert len(set(macs)) == len(Purpose)


async def test_after_a_rotation_everything_opens_and_only_the_new_key_is_accepted(database: Database) -> None:
    running = await load(database, OLD)
    sealed = running.seal(Purpose.PROVIDER_KEYS, PLAIN, "a")
    before = await wrapped(database)
    rotated = await load(database, NEW, previous=OLD)
    assert rotated.unseal(Purpose.PROVIDER_KEYS, sealed, "a") == PLAIN
    assert not set(before) & set(await wrapped(database))
    later = running.seal(Purpose.PROVIDER_KEYS, PLAIN, "b")
    assert (await load(database, NEW)).unseal(Purpose.PROVIDER_KEYS, later, "b") == PLAIN
    after = await wrapped(database)
    with pytest.raises(ConfigurationError, match="TOLLKEEPER_DATA_KEY is not the key with which this database was"):
        await load(database, OLD)
    assert await wrapped(database) == after


async def test_two_servers_rotate_at_once_and_a_rotation_can_be_taken_back(database: Database) -> None:
    sealed = (await load(database, OLD)).seal(Purpose.AUDIT, PLAIN, "a")
    rotated = await asyncio.gather(*(load(database, NEW, previous=OLD) for _ in range(4)))
    assert {keys.unseal(Purpose.AUDIT, sealed, "a") for keys in rotated} == {PLAIN}
    assert (await load(database, OLD, previous=NEW)).unseal(Purpose.AUDIT, sealed, "a") == PLAIN
    assert (await load(database, OLD)).unseal(Purpose.AUDIT, sealed, "a") == PLAIN


async def test_neither_a_wrong_key_nor_a_wrong_previous_key_is_accepted(database: Database) -> None:
    await load(database, OLD)
    for previous in (None, SecretStr("another key that is long enough, too")):
        with pytest.raises(ConfigurationError) as raised:
            await load(database, NEW, previous=previous)
        assert NEW.get_secret_value() not in raised.value.detail
        assert "TOLLKEEPER_PREVIOUS_DATA_KEY" in raised.value.detail


async def test_two_processes_that_create_the_keys_at_once_have_the_same(database: Database, database_url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CREATE_KEYS,
            database_url,
            OLD.get_secret_value(),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ,
        )
        for _ in range(2)
    ]
    async with asyncio.timeout(TEST_DEADLINE_S):
        outputs = [(await process.communicate())[0] for process in processes]
    assert outputs[0] == outputs[1] != b""
    assert len(await wrapped(database)) == len(Purpose)
