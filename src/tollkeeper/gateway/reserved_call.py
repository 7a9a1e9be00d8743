"""The reservation of one call, from its terms to the error that its caller receives."""

import time
from types import TracebackType

from tollkeeper.errors import LeaseLost, ProviderError, QuotaRefusal
from tollkeeper.gateway.call_events import CallRecord
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallFailed, IdempotentCall
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.operations import Terms


class ReservedCall:
    """Holds quota for the length of an `async with` block, which receives the reservation.

    Entering reserves the candidate's byte terms or, where a quota refuses those, its exact terms. Leaving settles or
    releases; a failure of the provider leaves as CallFailed, with the closed charge. The `record` notes both.
    """

    def __init__(
        self, ledger: Ledger, record: CallRecord, candidate: Candidate, idempotent: IdempotentCall | None
    ) -> None:
        self._ledger = ledger
        self._record = record
        self._candidate = candidate
        self._keyed_request = idempotent.keyed_request if idempotent is not None else None

    async def __aenter__(self) -> Reservation:
        started_at = time.perf_counter()
        try:
            return await self._reserve_as_fits()
        finally:
            self._record.reserved(time.perf_counter() - started_at)

    async def _reserve_as_fits(self) -> Reservation:
        try:
            return await self._reserve(await self._candidate.byte_terms())
        except QuotaRefusal as refusal:
            if not refusal.limit:
                raise  # there is no quota at all, so an exact count of the input would not help
        return await self._reserve(await self._candidate.exact_terms())

    async def _reserve(self, terms: Terms) -> Reservation:
        self._reservation = self._ledger.reservation(self._record.caller, terms, self._keyed_request)
        return await self._reservation.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._record.fail(error)
        await self._reservation.__aexit__(kind, error, trace)
        self._record.close(self._reservation.closed)
        if isinstance(error, ProviderError | LeaseLost):
            raise CallFailed(error, self._reservation.closed) from error
