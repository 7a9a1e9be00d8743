"""Background tasks of the ledger: renewals of leases, their guard, sweeps of lapsed charges, deletion of old rows."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from tollkeeper.quota.lease_guard import LeaseGuard
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.stores.base import StoreFailed, StoreLost
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

DELETION_INTERVAL_S = 60.0
"""How often expired idempotency keys and old free charges are deleted."""
LATE_SWEEPS = 4
"""How many sweeps may be missing before the sweep counts as late."""
DAY_MS = 86_400_000

log = structlog.get_logger("tollkeeper.ledger")


class Maintenance:
    """Runs the tasks beside the server. The times are those of the settings; free charges are kept if 0 days are given.

    `on_store_lost` is called with the reason when the database is lost, and is still lost at the next sweep. `on_run`
    is called after each run of a task. `may_delete_until` returns whether free charges are no longer needed that
    were made before a time, in milliseconds since the epoch.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        lease_seconds: float,
        sweep_seconds: float,
        free_charges_days: int = 0,
        guard: LeaseGuard | None = None,
        on_store_lost: Callable[[str], None] = lambda _: None,
        on_run: NoteRun = ignore_run,
        may_delete_until: Callable[[int], Awaitable[bool]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._lease_s = lease_seconds
        self._sweep_s = sweep_seconds
        self._free_charges_ms = free_charges_days * DAY_MS
        self._guard = guard
        self._on_store_lost = on_store_lost
        self._on_run = on_run
        self._may_delete_until = may_delete_until
        self._tasks: list[asyncio.Task[None]] = []
        self._swept_at = time.monotonic()

    def start(self) -> None:
        """Start the tasks, and the guard of the leases."""
        self._swept_at = time.monotonic()
        if self._guard is not None:
            self._guard.start()
        self._tasks = [
            asyncio.create_task(self._renew_leases(), name="ledger-renewal"),
            asyncio.create_task(self._sweep(), name="ledger-sweep"),
            asyncio.create_task(self._delete_old_rows(), name="ledger-deletion"),
        ]

    @property
    def sweep_is_late(self) -> bool:
        """Whether no sweep has ended for longer than the wait after an outage explains."""
        return self.seconds_since_sweep > self._lease_s + LATE_SWEEPS * self._sweep_s

    @property
    def seconds_since_sweep(self) -> float:
        """How long ago the last sweep ended; before the first one, how long ago this was started."""
        return time.monotonic() - self._swept_at

    async def stop(self) -> None:
        """Cancel the tasks, and stop the guard."""
        if self._guard is not None:
            await self._guard.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                with noted(self._on_run, Task.LEASE_RENEWAL):
                    await self._ledger.renew()
            except Exception:
                log.exception("ledger.renewal_failed")

    async def _delete_old_rows(self) -> None:
        while True:
            await asyncio.sleep(DELETION_INTERVAL_S)
            await self._try_deletion(self._ledger.delete_old_keys)
            if self._free_charges_ms:
                await self._try_deletion(self._delete_free_charges)

    async def _delete_free_charges(self) -> int:
        until_ms = int(time.time() * 1000) - self._free_charges_ms
        if self._may_delete_until is not None and not await self._may_delete_until(until_ms):
            return 0
        return await self._ledger.delete_free_charges(self._free_charges_ms)

    async def _try_deletion(self, delete: Callable[[], Awaitable[int]]) -> None:
        try:
            with noted(self._on_run, Task.LEDGER_DELETION):
                await delete()
        except StoreFailed as failure:
            log.warning("ledger.tidying_failed", reason=failure.reason)
        except Exception:
            log.exception("ledger.tidying_failed")

    async def _sweep(self) -> None:
        """Sweep at every interval.

        After an outage, a jump of the clock or a suspended process, wait for one lease first: other processes may be
        alive, but unable to renew their leases until now.
        """
        not_before = 0.0
        expected_at = time.time()
        lost = False
        while True:
            now = time.time()
            if abs(now - expected_at) > self._lease_s / 2 or not self._ledger.available:
                not_before = now + self._lease_s
            expected_at = now + self._sweep_s
            if now >= not_before or self._ledger.store_lost:
                try:
                    with noted(self._on_run, Task.SWEEP):
                        await self._ledger.sweep()
                    self._swept_at = time.monotonic()
                    lost = False
                except StoreLost as failure:
                    log.error("ledger.store_lost", reason=failure.reason)
                    if lost:
                        self._on_store_lost(failure.reason)
                    lost = True
                except StoreFailed as failure:
                    log.warning("ledger.sweep_failed", reason=failure.reason)
                    not_before = time.time() + self._lease_s
                except Exception:
                    log.exception("ledger.sweep_failed")
            await asyncio.sleep(self._sweep_s)
