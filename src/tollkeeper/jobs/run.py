"""Runs one job that was claimed: checks it again, makes its call, and notes how it ended."""

import asyncio
from dataclasses import replace

import structlog

from tollkeeper.chat import Price
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import (
    DatabaseUnavailable,
    JobExpired,
    JobInterrupted,
    LedgerBusy,
    LedgerConflict,
    LedgerUnavailable,
    ModelNotFound,
    QuotaHeld,
    QuotaRefusal,
    ShuttingDown,
    TollkeeperError,
    Unauthenticated,
)
from tollkeeper.gateway.call_record import CallEvents
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.results import CallFailed, CallResult, ReservedJob
from tollkeeper.identity.keys import limits_of
from tollkeeper.jobs import repository
from tollkeeper.jobs.contents import JobContents
from tollkeeper.jobs.kinds import JobKinds
from tollkeeper.jobs.models import Job
from tollkeeper.jobs.repository import PENDING, PROCESSING, ClaimedJob
from tollkeeper.jobs.running import JobListener
from tollkeeper.jobs.service import CANCELLED
from tollkeeper.key_limits import NO_LIMITS
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.calls import Terms
from tollkeeper.quota.rules.jobs import JobStatus
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Charge
from tollkeeper.tags import decode_tags
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.trace_context import join_trace

MIN_WAIT_S, MAX_WAIT_S = 1, 60
"""How long a job waits for room in a quota before it is tried again. An administrator may raise the limit meanwhile."""
FRESH_MS = 10_000
"""How long a job whose charge is closed is left to the process that ran it, which knows more."""
OUTAGES = (DatabaseUnavailable, LedgerUnavailable, LedgerBusy)

log = structlog.get_logger("tollkeeper.jobs")


class JobRuns:
    """Runs jobs, and ends those that have failed."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        gateway: Gateway,
        call_events: CallEvents,
        contents: JobContents,
        kinds: JobKinds,
        clock: Clock,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._gateway = gateway
        self._call_events = call_events
        self._contents = contents
        self._kinds = kinds
        self._clock = clock

    async def run(self, claimed: ClaimedJob, listener: JobListener) -> None:
        """Make the call of a job, unless it was made before. Raises nothing but a cancellation.

        Cancelled, it closes the charge by the rules of streams, and ends the job; one that was not started stays
        pending.
        """
        job = claimed.job
        correlation_id.set(job.correlation_id)
        try:
            await self._run(claimed, listener)
        except asyncio.CancelledError:
            await asyncio.shield(self._stop(job))
            raise
        except OUTAGES as error:
            log.warning("jobs.not_started", reason=error.code)
        except Exception:
            log.exception("jobs.run_failed")
            await self._fail(job, TollkeeperError())

    async def _run(self, claimed: ClaimedJob, listener: JobListener) -> None:
        job = claimed.job
        try:
            result = await self._call(claimed, listener)
        except QuotaRefusal as refusal:
            if not await self._waits_for(job, refusal):
                await self._fail(job, refusal)
        except LedgerConflict:
            await self.resolve(job)
        except CallFailed as failed:
            if listener.left:
                await self._end(job, JobStatus.CANCELLED, None)
            else:
                await self._fail(job, failed.cause)
        except OUTAGES:
            raise
        except TollkeeperError as error:
            await self._fail(job, error)
        else:
            if result.outcome.cut_short:
                await self._end(job, JobStatus.CANCELLED, None)

    async def _call(self, claimed: ClaimedJob, listener: JobListener) -> CallResult:
        """Make the call. Its result is stored with the settle of its charge."""
        job, charge, caller = claimed.job, claimed.charge, _caller_of(claimed)
        if charge.closed_ms is not None if charge is not None else job.batch_id is None:
            raise LedgerConflict
        exchange = await self._kinds[job.kind].open(caller, self._contents.read_request(job))

        def render(result: CallResult) -> bytes:
            return self._contents.seal_outcome(job, exchange.render(result))

        trace = join_trace([(b"traceparent", job.traceparent.encode())])
        with self._call_events.record(caller, exchange.call.surface, trace) as record:
            try:
                if charge is None:
                    candidate = await self._gateway.candidate_for_job(record, exchange.call, streamed=False)
                    return await self._gateway.run_job(record, candidate, job.id, listener, render)
                call = replace(exchange.call, model=charge.model)
                candidate = await self._gateway.candidate_for_job(record, call, charge.provider)
                fallback_for = self._fallback_for(exchange.call, charge)
                judge = await self._judge_terms(charge) if call.evaluate else None
                reserved = ReservedJob(job.id, charge.id, _terms_of(charge), fallback_for, judge)
                return await self._gateway.run_job(record, candidate, reserved, listener, render)
            except (QuotaRefusal, LedgerConflict, *OUTAGES):
                record.discard()
                raise

    async def _judge_terms(self, charge: Charge) -> Terms | None:
        """The terms of the judge's charge, which was reserved with this one."""
        async with self._database.session() as session:
            linked = await repository.linked_charge_of(session, charge)
        return _terms_of(linked) if linked is not None else None

    def _fallback_for(self, call: ModelCall, charge: Charge) -> str | None:
        """The model that was asked for, if the charge is that of another one: a quota had no room for it."""
        catalog = self._gateway.catalog
        try:
            asked_for = catalog.configured_model(call.model or catalog.default_name).name
        except ModelNotFound:
            return call.model
        return asked_for if asked_for != charge.model else None

    async def _waits_for(self, job: Job, refusal: QuotaRefusal) -> bool:
        """Have a job wait for a quota whose window ends, or whose holds end, before its deadline. Returns whether."""
        wait_s = refusal.retry_after_s
        if refusal.never_fits or (wait_s is None and not isinstance(refusal, QuotaHeld)):
            return False
        now_ms = self._clock.now_ms()
        if now_ms + (wait_s or 0) * 1000 >= job.deadline_ms:
            return False
        pause_s = min(max(wait_s or 0, MIN_WAIT_S), MAX_WAIT_S)
        async with self._database.session() as session:
            await repository.postpone(session, job, now_ms + pause_s * 1000)
        return True

    async def resolve(self, claimed: Job) -> None:
        """End a job whose charge was closed a while ago without it: its process is gone, or it was cancelled. The line
        of a batch that has no charge waits on, or was ended by its batch.
        """
        async with self._database.session() as session:
            job = await session.get(Job, (claimed.tenant_id, claimed.id))
            charge = await repository.charge_of(session, job) if job is not None else None
        if job is None:
            return
        if not self.is_left_behind(charge) if charge is not None else job.batch_id is not None:
            return
        if charge is not None and charge.error == CANCELLED:
            await self._end(job, JobStatus.CANCELLED, None)
        else:
            await self._end_with(job, JobInterrupted() if job.started_ms is not None else JobExpired())

    async def expire(self, job: Job) -> None:
        """End a job that was not started in time, unless another process starts it at this moment.

        Raises DatabaseUnavailable, LedgerUnavailable.
        """
        assert job.charge_id is not None
        if await self._ledger.withdraw(job.charge_id, job.tenant_id, JobExpired.code):
            await self._end_with(job, JobExpired())
        else:
            await self.resolve(job)

    def is_left_behind(self, charge: Charge) -> bool:
        """Whether the charge of a job that has not ended was closed so long ago that its process must be gone."""
        return charge.closed_ms is not None and charge.closed_ms < self._clock.now_ms() - FRESH_MS

    async def _fail(self, job: Job, error: TollkeeperError) -> None:
        """End a job that has failed. Its charge is released if nothing was sent."""
        if job.charge_id is not None:
            await self._ledger.withdraw(job.charge_id, job.tenant_id, error.code)
        await self._end_with(job, error)

    async def _end_with(self, job: Job, error: TollkeeperError) -> None:
        await self._end(job, JobStatus.FAILED, self._seal_error(job, error))

    def _seal_error(self, job: Job, error: TollkeeperError) -> bytes:
        body = self._kinds[job.kind].render_error(error, lambda: self._contents.read_request(job))
        return self._contents.seal_outcome(job, body)

    async def _end(self, job: Job, status: JobStatus, outcome: bytes | None) -> None:
        async with self._database.session() as session:
            now_ms = self._clock.now_ms()
            await repository.end(session, job, status, now_ms, outcome, among=(PENDING, PROCESSING))

    async def _stop(self, job: Job) -> None:
        """This process stops. A job that runs ends here; one that has not begun is left to others at once."""
        try:
            async with self._database.session() as session:
                now_ms = self._clock.now_ms()
                outcome = self._seal_error(job, ShuttingDown())
                await repository.end(session, job, JobStatus.FAILED, now_ms, outcome, among=(PROCESSING,))
                await repository.postpone(session, job, now_ms)
        except DatabaseUnavailable:
            log.warning("jobs.not_ended", reason="the database does not respond")


def _terms_of(charge: Charge) -> Terms:
    """The terms that a charge was reserved at, to be had in full or not at all."""
    price = None
    if charge.price_input is not None and charge.price_cached is not None and charge.price_output is not None:
        price = Price(charge.price_input, charge.price_cached, charge.price_output, charge.price_cache_write)
    output = charge.granted_output
    meter = Meter(charge.weight_milli, price)
    return Terms(charge.surface, charge.provider, charge.model, meter, charge.input_bound, output, output)


def _caller_of(claimed: ClaimedJob) -> Principal:
    """The caller with the present limits of their key. Raises Unauthenticated.

    A job goes on after the login in which it was submitted; it ends with the key, or with a new password.
    """
    job, user, key = claimed.job, claimed.user, claimed.api_key
    if user is None or (job.api_key is not None and key is None):
        raise Unauthenticated
    limits = limits_of(key) if key is not None else NO_LIMITS
    credential = job.token_version, job.api_key
    caller = Principal(user.id or 0, job.tenant_id, Role(user.role), *credential, limits=limits)
    return replace(caller, group=job.group_name, tags=decode_tags(job.tags))
