"""The calls in flight of one process: which charges they hold, and the ledger's operations on those."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.operations import (
    ClosedCharge,
    Extend,
    Held,
    Release,
    Renew,
    Replayed,
    Reserve,
    Settle,
)

RESERVE_WAIT_S = 2.0
"""How long a reserve waits for its commit before it is refused."""
SETTLE_WAIT_S = 5.0
"""How long a caller waits for the commit of a settle, which lands in any case."""
MEASURE_SHARE_OF_LEASE = 0.1
"""How long a renewal waits for checkpoints. Those not taken by then stay as they were the last time."""

log = structlog.get_logger("tollkeeper.ledger")


class Call(Protocol):
    """A call that holds a charge. `checkpoint` is its (input, received output), in tokens."""

    checkpoint: tuple[int, int]

    async def take_checkpoint(self) -> None:
        """Bring the checkpoint up to date."""
        ...

    def lost(self) -> None:
        """The charge was found closed: its lease had ended, and a sweep has expired it."""
        ...


class CallsInFlight:
    """Reserves, extends and closes the charges of calls, and renews their leases as long as they are in flight."""

    def __init__(self, journal: Journal, *, lease_ms: int) -> None:
        self._journal = journal
        self._calls: dict[str, Call] = {}
        self.lease_ms = lease_ms

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, charge_id: str) -> bool:
        return charge_id in self._calls

    async def reserve(self, call: Call, operation: Reserve) -> Held | Replayed:
        """Raises QuotaRefusal, Unauthenticated, IdempotencyError, LedgerUnavailable."""
        answer: Held | Replayed = await self._journal.request(operation, RESERVE_WAIT_S)
        if isinstance(answer, Held):
            self._calls[answer.charge_id] = call
        return answer

    async def extend(self, call: Call, operation: Extend) -> Held:
        """Release the previous charge and reserve the next. Raises what `reserve` raises."""
        held: Held = await self._journal.request(operation, RESERVE_WAIT_S, self._forget(operation.previous))
        self._calls[held.charge_id] = call
        return held

    async def close(self, operation: Settle | Release) -> ClosedCharge | None:
        """Close a charge. It lands whatever happens to the caller; None: it has not landed within SETTLE_WAIT_S."""
        landed = self._forget(operation.charge_id)
        closed: ClosedCharge | None = await self._journal.submit(operation, wait_s=SETTLE_WAIT_S, landed=landed)
        if closed is None:
            log.warning("ledger.settle_is_late", charge_id=operation.charge_id)
        return closed

    async def renew(self) -> None:
        """Renew the leases of all calls in flight in one operation, with their checkpoints. Lost calls are notified."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.lease_ms / 1000 * MEASURE_SHARE_OF_LEASE):
                await asyncio.gather(*(call.take_checkpoint() for call in list(self._calls.values())))
        checkpoints = {charge_id: call.checkpoint for charge_id, call in self._calls.items()}
        if not checkpoints:
            return
        closed: set[str] = await self._journal.submit(Renew(checkpoints, self.lease_ms))
        for charge_id in closed & self._calls.keys():
            log.warning("ledger.charge_closed_while_in_flight", charge_id=charge_id)
            try:
                self._calls[charge_id].lost()
            except Exception:
                log.exception("ledger.lost_call_not_notified", charge_id=charge_id)

    def _forget(self, charge_id: str) -> Callable[[], object]:
        return partial(self._calls.pop, charge_id, None)
