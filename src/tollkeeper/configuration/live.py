"""Keeps what administrators configure in memory: calls look it up without a statement.

Each process asks once per second for the version of the configuration, which the database raises with each change, and
reads the configuration again after one. While the database does not respond, the last known configuration holds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import structlog
from sqlmodel import select

from tollkeeper.configuration.cache_scopes import list_cache_scopes
from tollkeeper.configuration.content_logging import list_logging_tenants
from tollkeeper.configuration.judges import StoredJudge, list_judges
from tollkeeper.configuration.models import ConfigurationVersion, ProviderKey, SwitchedOff
from tollkeeper.configuration.moderation import list_policies
from tollkeeper.configuration.plans import TenantPlan, list_tenant_plans
from tollkeeper.configuration.provider_keys import list_keys
from tollkeeper.configuration.switches import list_switched_off
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted
from tollkeeper.tenant_scope import ALL_TENANTS

INTERVAL_S = 1.0
"""How often the version is read. It is how long a change takes, at most, to come into force in another process."""

log = structlog.get_logger("tollkeeper.configuration")


class Configuration(NamedTuple):
    """What administrators have configured."""

    switched_off: list[SwitchedOff]
    provider_keys: list[ProviderKey]
    logging_tenants: list[int]
    """The tenants that have turned content logging on."""
    cache_scopes: dict[int, str]
    """The tenants that have turned the response cache on, and for whom: a CacheScope."""
    moderation_policies: dict[int, str]
    """The documents of the tenants' moderation policies."""
    plans: dict[int, TenantPlan]
    """The plan of each tenant that is on one."""
    judges: dict[int, StoredJudge]
    """The judge of each tenant that has one."""


class LiveConfiguration:
    """Passes the configuration to `apply`, at first and after each change. `wait` is awaited between two reads,
    and `on_run` called after each.
    """

    def __init__(
        self,
        database: Database,
        apply: Callable[[Configuration], Awaitable[None]],
        *,
        wait: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(INTERVAL_S),
        on_run: NoteRun = ignore_run,
    ) -> None:
        self._database = database
        self._apply = apply
        self._wait = wait
        self._on_run = on_run
        self._version: int | None = None
        self._is_stale = False
        self._task: asyncio.Task[None] | None = None

    async def refresh(self) -> bool:
        """Read the version, and the configuration if it is another one. Returns whether it is.

        The version is read first: a change between the two reads is read again next time. Raises DatabaseUnavailable.
        """
        async with self._database.session() as session:
            version = (await session.exec(select(ConfigurationVersion.version))).one()
            if version == self._version:
                return False
            configuration = Configuration(
                await list_switched_off(session),
                await list_keys(session, ALL_TENANTS),
                await list_logging_tenants(session),
                await list_cache_scopes(session),
                await list_policies(session, ALL_TENANTS),
                plans=await list_tenant_plans(session),
                judges=await list_judges(session),
            )
        await self._apply(configuration)
        self._version = version
        return True

    def start(self) -> None:
        """Begin to follow changes. Call `refresh` first, so that no request is served without the configuration."""
        self._task = asyncio.create_task(self._follow(), name="configuration")

    async def stop(self) -> None:
        """Stop following changes."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            await self._wait()
            try:
                with noted(self._on_run, Task.CONFIGURATION):
                    await self.refresh()
            except DatabaseUnavailable:
                self._note_outage()
            except Exception:
                log.exception("configuration.not_read")
            else:
                self._is_stale = False

    def _note_outage(self) -> None:
        """Log the first of several failures in a row."""
        if not self._is_stale:
            log.warning("configuration.not_read", reason="the database does not respond")
        self._is_stale = True
