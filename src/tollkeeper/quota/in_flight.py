"""The calls in flight of one process, and the ledger's operations on their charges."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

from tollkeeper.errors import NotFound
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.operations import (
    ClosedCharge,
    Dispatch,
    Extend,
    Hold,
    Recover,
    Release,
    Renew,
    Replayed,
    Reserve,
    Settle,
    StartJob,
)
from tollkeeper.quota.time_sorted_ids import time_of

RESERVE_WAIT_S = 2.0
"""How long a reserve waits for its commit before it is refused with LedgerUnavailable."""
SETTLE_WAIT_S = 5.0
"""How long a caller waits for the commit of a settle. The settle is committed even if the caller gives up."""
RECOVERY_PAUSES_S = (1.0, 5.0, 20.0, 60.0)
"""The pauses before a call is booked anew whose user was not in the database either."""
CHECKPOINT_LEASE_SHARE = 0.1
"""The part of a lease for which a renewal waits for checkpoints. Later checkpoints keep their previous value."""

log = structlog.get_logger("tollkeeper.ledger")


class CallInFlight(Protocol):
    """A call with an open charge. `checkpoint` is its (input, received output), in tokens."""

    checkpoint: tuple[int, int]

    @property
    def tenant_id(self) -> int:
        """The tenant that the charge belongs to."""
        ...

    async def update_checkpoint(self) -> None:
        """Measure the checkpoint."""
        ...

    def mark_lost(self) -> None:
        """Called when the charge is found closed: its lease was over, and a sweep has expired it."""
        ...


class CallsInFlight:
    """Reserves, extends and closes the charges of calls, and renews their leases while the calls are in flight."""

    def __init__(self, journal: Journal, *, lease_ms: int) -> None:
        self._journal = journal
        self._calls: dict[str, CallInFlight] = {}
        self._dispatched_at: dict[str, float] = {}
        """When calls were dispatched whose charges are older: in seconds since the epoch, by the ids of the charges."""
        self._recoveries: set[asyncio.Task[None]] = set()
        self.lease_ms = lease_ms
        self.tried_at = self.renewed_at = time.monotonic()
        """When a renewal of all leases was last begun on the event loop, and when one was last committed."""

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def oldest_hold_s(self) -> float:
        """How long the oldest of them runs, in seconds; 0 without any. May be called in any thread."""
        oldest = next(iter(list(self._calls)), None)
        if oldest is None:
            return 0.0
        return max(0.0, time.time() - (self._dispatched_at.get(oldest) or time_of(oldest) / 1000))

    def __contains__(self, charge_id: str) -> bool:
        return charge_id in self._calls

    async def reserve(
        self, call: CallInFlight, operation: Reserve, second: CallInFlight | None = None
    ) -> Hold | Replayed:
        """Open a charge, and that of the `second` call, if there is one.

        Raises QuotaRefusal, Unauthenticated, IdempotencyError, LedgerUnavailable.
        """
        result: Hold | Replayed = await self._journal.execute(operation, RESERVE_WAIT_S)
        if isinstance(result, Hold):
            self._calls[result.charge_id] = call
            if second is not None and result.linked is not None:
                self._calls[result.linked.charge_id] = second
        return result

    async def extend(self, call: CallInFlight, operation: Extend) -> Hold:
        """Release the previous charge and open the next one. Raises what `reserve` raises."""
        hold: Hold = await self._journal.execute(operation, RESERVE_WAIT_S, self._remover(operation.previous))
        self._calls[hold.charge_id] = call
        return hold

    async def start(self, call: CallInFlight, operation: StartJob) -> Hold:
        """Open the charge of a job. Raises LedgerConflict, QuotaRefusal, Unauthenticated, LedgerUnavailable."""
        hold: Hold = await self._journal.execute(operation, RESERVE_WAIT_S)
        self._calls[hold.charge_id] = call
        return hold

    async def dispatch(self, call: CallInFlight, operation: Dispatch, second: CallInFlight | None = None) -> Hold:
        """Start the call of a reserved charge, however long the ledger takes; the `second` call follows it.

        Raises LedgerConflict, QuotaRefusal, Unauthenticated; LedgerUnavailable when the process stops.
        """
        hold: Hold = await self._journal.execute(operation, math.inf, self._remover(operation.charge_id))
        started = [(hold.charge_id, call)]
        if second is not None and hold.linked is not None:
            started.append((hold.linked.charge_id, second))
        for charge_id, one in started:
            self._dispatched_at[charge_id] = time.time()
            self._calls[charge_id] = one
        return hold

    async def close(self, operation: Settle | Release | Recover) -> ClosedCharge | None:
        """Close a charge. The operation is committed even if its caller is cancelled.

        Returns None if it is not committed within SETTLE_WAIT_S. Raises NotFound if the database has lost the charge of
        a settle.
        """
        linked_id = operation.linked_id if not isinstance(operation, Recover) else None
        on_commit = self._remover(operation.charge_id, linked_id)
        closed: ClosedCharge | None = await self._journal.submit(operation, wait_s=SETTLE_WAIT_S, on_commit=on_commit)
        if closed is None:
            log.warning("ledger.settle_is_late", charge_id=operation.charge_id)
        return closed

    def recover_later(self, operation: Recover) -> None:
        """Book a call whose user the database has lost, too, once it has the user again: it may be in a restore."""
        task = asyncio.create_task(self._recover(operation))
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)

    async def _recover(self, operation: Recover) -> None:
        for pause_s in RECOVERY_PAUSES_S:
            await asyncio.sleep(pause_s)
            with suppress(NotFound):
                await self._journal.submit(operation)
                return
        log.error("ledger.charge_lost", charge_id=operation.charge_id, reason="its user is lost, too")

    async def renew(self) -> None:
        """Renew the leases of all calls in flight in one operation, with their checkpoints, and notify lost calls."""
        self.tried_at = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.lease_ms / 1000 * CHECKPOINT_LEASE_SHARE):
                await asyncio.gather(*(call.update_checkpoint() for call in list(self._calls.values())))
        renewal = self.renewal()
        closed: set[str] = await self._journal.submit(renewal) if renewal.checkpoints else set()
        self.renewed_at = self.tried_at
        self.mark_lost(closed)

    def renewal(self) -> Renew:
        """The operation that renews all leases, with the last known checkpoints. May be called in any thread."""
        calls = list(self._calls.items())
        checkpoints = {charge_id: call.checkpoint for charge_id, call in calls}
        return Renew(checkpoints, {charge_id: call.tenant_id for charge_id, call in calls}, self.lease_ms)

    def mark_lost(self, closed: set[str]) -> None:
        """Notify those of these calls that are in flight: their charges were found closed."""
        for charge_id in closed & self._calls.keys():
            log.warning("ledger.charge_closed_while_in_flight", charge_id=charge_id)
            try:
                self._calls[charge_id].mark_lost()
            except Exception:
                log.exception("ledger.lost_call_not_notified", charge_id=charge_id)

    def store_checkpoint(self, charge_id: str, call: CallInFlight) -> None:
        """Have the checkpoint of a call stored in the next batch, and its lease renewed."""
        self._journal.submit(Renew({charge_id: call.checkpoint}, {charge_id: call.tenant_id}, self.lease_ms))

    def _remover(self, *charge_ids: str | None) -> Callable[[], object]:
        return partial(self._remove, charge_ids)

    def _remove(self, charge_ids: tuple[str | None, ...]) -> None:
        for charge_id in charge_ids:
            if charge_id is not None:
                self._calls.pop(charge_id, None)
                self._dispatched_at.pop(charge_id, None)
