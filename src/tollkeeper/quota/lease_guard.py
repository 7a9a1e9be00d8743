"""Renews the leases of the calls in flight from a thread, when the event loop does not.

A process whose event loop is stalled would else lose its leases: others would expire its charges, and forgive a part
of their cost.
"""

import asyncio
import threading
import time
from collections.abc import Callable

import structlog

from tollkeeper.quota.in_flight import CallsInFlight
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import Store

CHECKS_PER_LEASE = 6
LATE_LEASE_SHARE = 0.5
"""The part of a lease after which a renewal is late. The event loop renews after a third."""

log = structlog.get_logger("tollkeeper.ledger")


class LeaseGuard:
    """Watches the renewals of one process. `make_store` opens a store of its own for each renewal.

    It gives up when the event loop has not begun a renewal for `max_stall_s` seconds, longer than any call may take:
    else a process that hangs would hold quota for ever.
    """

    def __init__(self, calls: CallsInFlight, make_store: Callable[[], Store], *, max_stall_s: float) -> None:
        self._calls = calls
        self._make_store = make_store
        self._max_stall_s = max_stall_s
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Called on the event loop."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="lease-guard", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread, after the renewal that it may be making."""
        self._stopped.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        lease_s = self._calls.lease_ms / 1000
        while not self._stopped.wait(lease_s / CHECKS_PER_LEASE):
            now = time.monotonic()
            is_late = now - self._calls.renewed_at > lease_s * LATE_LEASE_SHARE
            if is_late and len(self._calls) and now - self._calls.tried_at < self._max_stall_s:
                try:
                    closed = asyncio.run(self._renew())
                except Exception as error:
                    log.warning("ledger.guard_failed", reason=type(error).__name__)
                else:
                    log.warning("ledger.renewed_by_guard", stalled_s=round(now - self._calls.tried_at, 1))
                    loop.call_soon_threadsafe(self._calls.mark_lost, closed)

    async def _renew(self) -> set[str]:
        """Renew all leases once. Returns the ids of the calls whose charges are closed. Raises StoreFailed."""
        renewal, read_set = self._calls.renewal(), ReadSet()
        renewal.declare_reads(read_set, retried=False)
        closed: set[str] = set()

        def decide_renewal(page: Page) -> None:
            [result] = decide(page, [renewal])
            closed.update(result if isinstance(result, set) else ())

        store = self._make_store()
        try:
            await store.run(read_set, decide_renewal)
        finally:
            await store.close()
        self._calls.renewed_at = time.monotonic()
        return closed
