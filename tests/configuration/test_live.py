"""The configuration in memory: loaded at first, read again after a change, kept while the database is away."""

import asyncio
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from support.deadlines import TEST_DEADLINE_S
from support.encryption import make_data_keys
from support.factories import make_tenant
from tollkeeper.configuration import provider_keys, switches
from tollkeeper.configuration.live import Configuration, LiveConfiguration
from tollkeeper.configuration.switches import Switchable
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable, SealBroken
from tollkeeper.tenant_scope import TenantScope

KEYS = make_data_keys()
NOW_MS = 1_812_000_000_000


class Steps:
    """What is awaited between two reads: it returns when the test takes a step."""

    def __init__(self) -> None:
        self._waiting = asyncio.Event()
        self._step = asyncio.Event()

    async def wait(self) -> None:
        self._waiting.set()
        await self._step.wait()
        self._step.clear()

    async def until_waiting(self) -> None:
        async with asyncio.timeout(TEST_DEADLINE_S):
            await self._waiting.wait()

    async def take(self) -> None:
        """Let one read happen, and wait for its end."""
        await self.until_waiting()
        self._waiting.clear()
        self._step.set()
        await self.until_waiting()


class Applied:
    """Notes what is applied."""

    def __init__(self) -> None:
        self.configurations: list[Configuration] = []

    async def apply(self, configuration: Configuration) -> None:
        self.configurations.append(configuration)

    @property
    def off(self) -> set[tuple[str, str]]:
        return {(one.kind, one.name) for one in self.configurations[-1].switched_off}


async def switch_off(database: Database, name: str) -> None:
    async with database.session() as session:
        assert await switches.switch_off(session, Switchable.MODEL, name, "a test", NOW_MS)


async def test_a_change_is_applied_with_the_next_read_and_no_change_is_not(database: Database) -> None:
    applied, steps = Applied(), Steps()
    live = LiveConfiguration(database, applied.apply, wait=steps.wait)
    assert await live.refresh()
    assert not await live.refresh()
    live.start()
    try:
        await steps.take()
        assert len(applied.configurations) == 1
        await switch_off(database, "m")
        await steps.take()
        assert applied.off == {("model", "m")}
        async with database.session() as session:
            assert await switches.switch_on(session, Switchable.MODEL, "m") is not None
            assert await switches.switch_on(session, Switchable.MODEL, "m") is None
        await steps.take()
        assert applied.off == set()
        assert len(applied.configurations) == 3
    finally:
        await live.stop()


async def test_every_change_of_a_key_is_applied(database: Database) -> None:
    applied, tenant = Applied(), await make_tenant(database)
    live = LiveConfiguration(database, applied.apply)
    ids = set()
    for secret in ("sk-the-first-key-0001", "sk-the-second-key-0002"):
        async with database.session() as session:
            await provider_keys.store_key(session, KEYS, tenant, "openai", SecretStr(secret), NOW_MS)
        assert await live.refresh()
        (row,) = applied.configurations[-1].provider_keys
        assert provider_keys.read_key(KEYS, row) == SecretStr(secret)
        assert (row.suffix, row.tenant_id) == (secret[-4:], tenant)
        assert secret.encode() not in row.sealed_key
        ids.add(row.id)
        row.provider = "anthropic"
        with pytest.raises(SealBroken):
            provider_keys.read_key(KEYS, row)
    assert len(ids) == 2
    async with database.session() as session:
        assert not await provider_keys.delete_key(session, tenant + 1, "openai")
        assert await provider_keys.delete_key(session, tenant, "openai")
    assert await live.refresh()
    assert applied.configurations[-1].provider_keys == []
    async with database.session() as session:
        assert await provider_keys.list_keys(session, TenantScope(tenant)) == []


async def test_while_the_database_is_away_the_last_known_configuration_holds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied, steps = Applied(), Steps()
    live = LiveConfiguration(database, applied.apply, wait=steps.wait)
    await live.refresh()
    await switch_off(database, "m")
    with monkeypatch.context() as away:
        away.setattr(database, "session", _raise(DatabaseUnavailable()))
        live.start()
        await steps.take()
        away.setattr(database, "session", _raise(RuntimeError("not an outage")))
        await steps.take()
        assert applied.off == set()
    await steps.take()
    assert applied.off == {("model", "m")}
    await live.stop()


async def test_a_configuration_that_cannot_be_applied_is_applied_again(database: Database) -> None:
    attempts: list[Configuration] = []

    async def apply(configuration: Configuration) -> None:
        attempts.append(configuration)
        if len(attempts) == 1:
            raise RuntimeError

    live = LiveConfiguration(database, apply)
    with pytest.raises(RuntimeError):
        await live.refresh()
    assert await live.refresh()
    assert len(attempts) == 2


async def test_it_stops_whether_or_not_it_was_started(database: Database) -> None:
    live = LiveConfiguration(database, Applied().apply)
    await live.stop()
    live.start()
    await live.stop()


def _raise(error: Exception) -> Callable[[], None]:
    def session() -> None:
        raise error

    return session
