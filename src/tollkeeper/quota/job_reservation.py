"""The reservation of a job, which starts now."""

from collections.abc import Callable

from tollkeeper.principal import Principal
from tollkeeper.quota.in_flight import CallsInFlight
from tollkeeper.quota.reservation import LinkedReservation, Reservation
from tollkeeper.quota.rules.calls import ClosedCharge, LinkedTerms, Terms
from tollkeeper.quota.rules.jobs import JobResult
from tollkeeper.quota.rules.operations import Dispatch, StartJob
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, new_id


class JobReservation(Reservation):
    """The hold of a job that starts. Its result is stored in the transaction that closes its charge."""

    _job_id: str

    def store_result(self, render: Callable[[ClosedCharge], bytes]) -> None:
        """Store the result of the job in the transaction that closes its charge.

        `render` must depend on the closed charge alone: it is called in another thread, perhaps more than once.
        """
        self._job_result = JobResult(self._job_id, render)


class LateReservation(JobReservation):
    """The hold of a job that has had no charge. Entering reserves for it, and starts it."""

    def __init__(self, calls: CallsInFlight, caller: Principal, terms: Terms, job_id: str) -> None:
        super().__init__(calls, caller, terms)
        self._job_id = job_id

    async def __aenter__(self) -> "LateReservation":
        """Raises LedgerConflict if the job does not wait: it was started or ended before; and as a Reservation does."""
        operation = StartJob(self.charge_id, self._caller, self.terms, self._calls.lease_ms, job_id=self._job_id)
        try:
            self._start_charge(await self._calls.start(self, operation))
        finally:
            self.waited_s = operation.waited_s
        return self


class EarlyReservation(JobReservation):
    """The hold of a job whose charge was reserved when it was submitted, perhaps by another process. Entering
    dispatches the charge; the rest is as with any other call.

    `terms` are those of the charge, `linked_terms` those of the second charge that was reserved with it, if any. Of a
    `fallback`, the terms are those of another model: a new charge replaces the one that was reserved.
    """

    def __init__(
        self,
        calls: CallsInFlight,
        caller: Principal,
        terms: Terms,
        job_id: str,
        charge_id: str,
        linked_terms: Terms | None = None,
        *,
        fallback: bool = False,
    ) -> None:
        super().__init__(calls, caller, terms)
        self.charge_id = charge_id
        self._job_id = job_id
        self._new_terms = terms if fallback else None
        if linked_terms is not None:
            self.linked = LinkedReservation(calls, caller, LinkedTerms(linked_terms, 0), charge_id)

    async def __aenter__(self) -> "EarlyReservation":
        """Raises LedgerConflict if the job was started or closed before; Unauthenticated, after the charge is released;
        QuotaExceeded or QuotaHeld without room in windows that have begun since the charge was reserved.
        """
        successor = new_id(CHARGE_PREFIX, after=self.charge_id)
        operation = Dispatch(
            self.charge_id,
            self.tenant_id,
            self._calls.lease_ms,
            self._caller,
            successor,
            self._job_id,
            is_pair=self.linked is not None,
            terms=self._new_terms,
        )
        hold = await self._calls.dispatch(self, operation, self.linked)
        self._start_charge(hold)
        if self.linked is not None:
            self.linked.take(hold)
        return self
