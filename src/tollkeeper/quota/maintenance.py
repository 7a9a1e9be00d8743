"""Three tasks: one renews the leases of calls in flight, one sweeps up those that nobody renews, one tidies up."""

import asyncio
import time

import structlog

from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.stores.base import StoreFailed

TIDY_S = 60.0
"""How often idempotency keys that are too old are looked for."""

log = structlog.get_logger("tollkeeper.ledger")


class Maintenance:
    """Runs beside the server. `lease_seconds` and `sweep_seconds` as in the settings."""

    def __init__(self, ledger: Ledger, *, lease_seconds: float, sweep_seconds: float) -> None:
        self._ledger = ledger
        self._lease_s = lease_seconds
        self._sweep_s = sweep_seconds
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._renewing(), name="ledger-renewing"),
            asyncio.create_task(self._sweeping(), name="ledger-sweeping"),
            asyncio.create_task(self._tidying(), name="ledger-tidying"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self._ledger.renew()
            except Exception:
                log.exception("ledger.renewal_failed")

    async def _tidying(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            try:
                await self._ledger.tidy()
            except StoreFailed as failure:
                log.warning("ledger.tidying_failed", reason=failure.reason)
            except Exception:
                log.exception("ledger.tidying_failed")

    async def _sweeping(self) -> None:
        """Sweep at every interval. After an outage or a suspended clock, others get one lease to renew theirs first."""
        not_before = 0.0
        expected_at = time.time()
        while True:
            now = time.time()
            if abs(now - expected_at) > self._lease_s / 2 or not self._ledger.available:
                not_before = now + self._lease_s
            expected_at = now + self._sweep_s
            if now >= not_before:
                try:
                    await self._ledger.sweep()
                except StoreFailed as failure:
                    log.warning("ledger.sweep_failed", reason=failure.reason)
                    not_before = time.time() + self._lease_s
                except Exception:
                    log.exception("ledger.sweep_failed")
            await asyncio.sleep(self._sweep_s)
