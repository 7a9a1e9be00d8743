"""The reservation of one call, from its terms to the error that its caller receives."""

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Protocol, TypeVar

from tollkeeper.errors import (
    ContentBlocked,
    Forbidden,
    InputError,
    InvalidRequest,
    LeaseLost,
    ModelNotFound,
    ModerationUnavailable,
    ProviderError,
    QuotaExceeded,
    QuotaRefusal,
    TenantKeyRefused,
)
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import Candidate, ModelCall
from tollkeeper.gateway.results import CallFailed, IdempotentCall, ReservedJob
from tollkeeper.quota.job_reservation import EarlyReservation, JobReservation
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.calls import LinkedTerms, Terms

ENDING = (ProviderError, LeaseLost, ContentBlocked, ModerationUnavailable)
"""What ends a call after its reserve: it leaves with the closed charge."""


class SecondCall(Protocol):
    """A call that is reserved together with another one: the judge's."""

    async def with_byte_terms(self, terms: Terms) -> tuple[Terms, LinkedTerms]:
        """The byte terms of the first call, and of both. Raises InvalidRequest."""
        ...

    async def with_exact_terms(self, terms: Terms) -> tuple[Terms, LinkedTerms]:
        """The exact terms of the first call, and of both. Raises InvalidRequest."""
        ...


MakeFallback = Callable[[ModelCall], Awaitable[Candidate]]
"""Prepares the call of another model. Raises ModelNotFound, Forbidden, InputError, TenantKeyRefused."""
Made = TypeVar("Made")


async def reserve_or_fall_back(
    candidate: Candidate, reserve: Callable[[Candidate], Awaitable[Made]], make_fallback: MakeFallback
) -> tuple[Candidate, Made]:
    """Reserve for the candidate; or, where a quota has no room for it and names another model, for that one, once.

    Returns for which one, and what `reserve` has returned. Raises what `reserve` raises for the candidate.
    """
    try:
        return candidate, await reserve(candidate)
    except QuotaExceeded as refusal:
        if refusal.fallback_model is None:
            raise
        try:
            fallback = await make_fallback(replace(candidate.call, model=refusal.fallback_model))
            return fallback, await reserve(fallback)
        except (QuotaRefusal, ModelNotFound, Forbidden, InputError, TenantKeyRefused):
            raise refusal from None


async def reserve_as_fits(
    candidate: Candidate, judged: SecondCall | None, reserve: Callable[[Terms, LinkedTerms | None], Awaitable[Made]]
) -> Made:
    """Reserve by the byte terms of a candidate or, where a quota refuses those, by its exact terms; with `judged`, for
    that call, too. Raises what `reserve` raises, and InvalidRequest.
    """
    try:
        terms = await candidate.byte_terms()
        if judged is None:
            return await reserve(terms, None)
        return await reserve(*await judged.with_byte_terms(terms))
    except QuotaRefusal as refusal:
        if not refusal.limit:
            raise  # there is no quota at all, so an exact count of the input would not help
    terms = await candidate.exact_terms()
    if judged is None:
        return await reserve(terms, None)
    return await reserve(*await judged.with_exact_terms(terms))


class ReservedCall:
    """Holds quota for the length of an `async with` block, which receives the reservation.

    Entering reserves the candidate's byte terms or, where a quota refuses those, its exact terms. Leaving settles or
    releases; what ends the call leaves as CallFailed, with the closed charge. The `record` notes both. With an
    `evaluation`, the call of the judge is reserved together with this one. Within the block, `candidate` is that of the
    reservation: another model's where the quota has no room for the one that was asked for.
    """

    def __init__(
        self,
        ledger: Ledger,
        record: CallRecord,
        candidate: Candidate,
        idempotent: IdempotentCall | None,
        make_fallback: MakeFallback,
        evaluation: SecondCall | None = None,
    ) -> None:
        self._evaluation = evaluation
        self._make_fallback = make_fallback
        self._ledger = ledger
        self._record = record
        self._waited_s = 0.0
        self.candidate = candidate
        self._keyed_request = idempotent.keyed_request if idempotent is not None else None

    async def __aenter__(self) -> Reservation:
        started_at = time.perf_counter()
        try:
            asked_for = self.candidate
            reserved = await reserve_or_fall_back(asked_for, self._reserve_as_fits, self._make_fallback)
            self.candidate, reservation = reserved
            if self.candidate is not asked_for:
                reservation.fallback_for = asked_for.model.name
                self._record.fall_back(self.candidate, asked_for.model.name)
            return reservation
        finally:
            self._record.reserved(started_at, self._waited_s)

    async def _reserve_as_fits(self, candidate: Candidate) -> Reservation:
        return await reserve_as_fits(candidate, self._evaluation, self._reserve)

    async def _reserve(self, terms: Terms, linked: LinkedTerms | None) -> Reservation:
        self._reservation = self._new_reservation(terms, linked)
        try:
            return await self._reservation.__aenter__()
        finally:
            self._waited_s += self._reservation.waited_s

    @property
    def reservation(self) -> Reservation:
        """The reservation. Available in the block."""
        return self._reservation

    def _new_reservation(self, terms: Terms, linked: LinkedTerms | None) -> Reservation:
        return self._ledger.reservation(self._record.caller, terms, self._keyed_request, linked)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._record.fail(error)
        started_at = time.perf_counter()
        await self._reservation.__aexit__(kind, error, trace)
        self._record.close(self._reservation, started_at)
        if isinstance(error, ENDING):
            raise CallFailed(error, self._reservation.closed) from error


class StartedJob(ReservedCall, ABC):
    """A ReservedCall whose hold is that of a job. Entering starts the job."""

    @abstractmethod
    async def __aenter__(self) -> JobReservation: ...


class LateJob(StartedJob):
    """A StartedJob that has had no charge. Entering reserves for it."""

    def __init__(
        self, ledger: Ledger, record: CallRecord, candidate: Candidate, job_id: str, make_fallback: MakeFallback
    ) -> None:
        super().__init__(ledger, record, candidate, None, make_fallback)
        self._job_id = job_id

    async def __aenter__(self) -> JobReservation:
        """Raises as a LateReservation does."""
        reservation = await ReservedCall.__aenter__(self)
        assert isinstance(reservation, JobReservation)
        return reservation

    def _new_reservation(self, terms: Terms, linked: LinkedTerms | None) -> Reservation:
        return self._ledger.late_reservation(self._record.caller, terms, self._job_id)


class EarlyJob(StartedJob):
    """A StartedJob that was reserved at its submission. Entering dispatches its charge, at the terms of its reserve; or
    replaces it by one of another model, if a quota has no room for it by now. A job that is of another model already,
    or is reserved together with its judge, has no other.
    """

    def __init__(
        self, ledger: Ledger, record: CallRecord, candidate: Candidate, job: ReservedJob, make_fallback: MakeFallback
    ) -> None:
        super().__init__(ledger, record, candidate, None, make_fallback)
        self._job = job

    async def __aenter__(self) -> JobReservation:
        """Raises InvalidRequest for an input larger than what was reserved; and as an EarlyReservation does."""
        await self._require_bound()
        started_at = time.perf_counter()
        asked_for, fallback_for = self.candidate, self._job.fallback_for
        if fallback_for is not None:
            self._record.fall_back(asked_for, fallback_for)
        try:
            if fallback_for is not None or self._job.judge_terms is not None:
                reservation = await self._start(asked_for)
            else:
                started = await reserve_or_fall_back(asked_for, self._start, self._make_fallback)
                self.candidate, reservation = started
        finally:
            self._record.reserved(started_at, 0.0)
        if self.candidate is not asked_for:
            fallback_for = asked_for.model.name
            self._record.fall_back(self.candidate, fallback_for)
        reservation.fallback_for = fallback_for
        return reservation

    async def _start(self, candidate: Candidate) -> JobReservation:
        job, caller = self._job, self._record.caller
        if candidate is not self.candidate:
            return await reserve_as_fits(candidate, None, self._replace)
        return await self._enter(
            self._ledger.early_reservation(caller, job.terms, job.id, job.charge_id, job.judge_terms)
        )

    async def _replace(self, terms: Terms, _linked: LinkedTerms | None) -> JobReservation:
        caller, of_job = self._record.caller, (self._job.id, self._job.charge_id)
        return await self._enter(self._ledger.early_reservation(caller, terms, *of_job, fallback=True))

    async def _enter(self, reservation: EarlyReservation) -> JobReservation:
        self._reservation = reservation
        return await reservation.__aenter__()

    async def _require_bound(self) -> None:
        reserved = self._job.terms.input_bound
        if (await self.candidate.byte_terms()).input_bound <= reserved:
            return
        if (await self.candidate.exact_terms()).input_bound > reserved:
            raise InvalidRequest("The model counts this input otherwise than when the job was submitted.")


def started_job(
    ledger: Ledger, record: CallRecord, candidate: Candidate, job: ReservedJob | str, make_fallback: MakeFallback
) -> StartedJob:
    """The call of a job, which is only named by its id if it has no charge yet."""
    if isinstance(job, str):
        return LateJob(ledger, record, candidate, job, make_fallback)
    return EarlyJob(ledger, record, candidate, job, make_fallback)
