"""Submits jobs, and cancels them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import DatabaseUnavailable, IdempotencyInFlight, NotFound, TooManyJobs
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.path import Gateway
from tollkeeper.jobs import repository
from tollkeeper.jobs.contents import JobContents
from tollkeeper.jobs.kinds import JobExchange
from tollkeeper.jobs.models import Job
from tollkeeper.jobs.repository import PENDING
from tollkeeper.jobs.running import RunningJobs
from tollkeeper.principal import Principal
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.calls import Unenforced
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.jobs import JobStatus
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.tags import NO_TAGS, encode_tags
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.tenant_scope import TenantScope

JOB_PREFIX = "job"
LIMIT = "TOLLKEEPER_JOBS_PER_USER"
"""The setting that limits how many jobs of a user have not ended."""
RETRY_AFTER_S = 10
"""When to submit again after that limit has refused a job: a job takes seconds."""
HOUR_MS = 3_600_000
LEASE_MARGIN_MS = 60_000
"""How much longer the hold of a job lasts than its deadline, after which it is not started."""
CANCELLED = "cancelled"
"""The error of a charge whose job was cancelled before it started."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A request to be made as a job. `kind` is the path of its endpoint, `exchange` is the request as it was read."""

    kind: str
    body: bytes
    exchange: JobExchange
    priority: int = 0
    keyed_request: KeyedRequest | None = None


class SubmittedJob(NamedTuple):
    """A job, and whether it was submitted before, with the same idempotency key. If it was not: the model that was
    asked for, if a quota had no room for it, and the quotas that only report and would have refused the job.
    """

    job: Job
    is_repeated: bool
    fallback_for: str | None = None
    would_refuse: Sequence[Unenforced] = ()


class Jobs:
    """The jobs of all users. A job is started within `hours` of its submission, or not at all. A user has about
    `per_user` jobs that have not ended, at most: some more if many are submitted at the same moment. `refused` counts
    the submissions beyond that.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        gateway: Gateway,
        keys: DataKeys,
        clock: Clock,
        running: RunningJobs,
        *,
        hours: float,
        per_user: int,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._gateway = gateway
        self.contents = JobContents(keys)
        self._clock = clock
        self._running = running
        self._lifetime_ms = int(hours * HOUR_MS)
        self._per_user = per_user
        self.refused = 0

    async def submit(self, record: CallRecord, request: JobRequest) -> SubmittedJob:
        """Store a job of the record's caller, and reserve its quota; or return the job of the same idempotency key.

        The row is stored first. It is no job before the reserve, which makes it one in its transaction. Raises
        TooManyJobs, ModelNotFound, Forbidden, InputError, ContentBlocked, Unauthenticated, QuotaExceeded, QuotaHeld,
        LedgerUnavailable, DatabaseUnavailable, IdempotencyInFlight, IdempotencyMismatch.
        """
        caller = record.caller
        earlier = await self._find_earlier(caller, request.keyed_request)
        if earlier is None:
            candidate = await self._gateway.candidate_for_job(record, request.exchange.call)
            record.choose(candidate, streamed=True)
            job = self._make(record, request)
            earlier = await self._store(caller, job)
        if earlier is not None:
            record.discard()
            return SubmittedJob(earlier, is_repeated=True)
        try:
            lease_ms = self._lifetime_ms + LEASE_MARGIN_MS
            reserved, hold = await self._gateway.reserve_job(record, candidate, job.id, lease_ms)
        except BaseException:
            await self._remove(caller, job)
            raise
        job.status, job.charge_id = PENDING, hold.charge_id
        record.discard()
        self._running.woken.set()
        asked_for = candidate.model.name if reserved is not candidate else None
        return SubmittedJob(job, is_repeated=False, fallback_for=asked_for, would_refuse=hold.would_refuse)

    async def cancel(self, owner: Principal, job_id: str) -> Job:
        """Cancel a job that has not ended; delete one that has. Returns it as it is then, or was last.

        A pending job costs nothing. One that runs is ended soon by its process, and charged as a stream whose client
        has disconnected. Raises NotFound, LedgerUnavailable, DatabaseUnavailable.
        """
        scope = TenantScope(owner.tenant_id)
        async with self._database.session(scope) as session:
            job = await self._require(session, owner, job_id)
            if job.completed_ms is not None:
                await repository.remove(session, job)
                return job
        assert job.charge_id is not None
        if job.status == PENDING and await self._ledger.withdraw(job.charge_id, job.tenant_id, CANCELLED):
            async with self._database.session(scope) as session:
                now_ms = self._clock.now_ms()
                await repository.end(session, job, JobStatus.CANCELLED, now_ms, None, among=(PENDING,))
        else:
            async with self._database.session(scope) as session:
                await repository.request_cancel(session, job, self._clock.now_ms())
            self._running.cancel(job.id)
        async with self._database.session(scope) as session:
            return await self._require(session, owner, job_id)

    async def _require(self, session: AsyncSession, owner: Principal, job_id: str) -> Job:
        job = await repository.find(session, owner, job_id)
        if job is None:
            raise NotFound
        return job

    async def _find_earlier(self, caller: Principal, keyed: KeyedRequest | None) -> Job | None:
        """The job that was submitted with this key in the last 24 hours."""
        if keyed is None:
            return None
        async with self._database.session(TenantScope(caller.tenant_id)) as session:
            job = await repository.find_by_key(session, caller, keyed.key)
            if job is None:
                return None
            if not keyed.repeats(job.created_ms, job.fingerprint, self._clock.now_ms()):
                await repository.forget_key(session, job)
                return None
        if job.status == JobStatus.NEW:
            raise IdempotencyInFlight
        return job

    def _make(self, record: CallRecord, request: JobRequest) -> Job:
        caller, now_ms, keyed = record.caller, self._clock.now_ms(), request.keyed_request
        job = Job(
            tenant_id=caller.tenant_id,
            id=new_id(JOB_PREFIX),
            user_id=caller.user_id,
            kind=request.kind,
            status=JobStatus.NEW.value,
            priority=request.priority,
            api_key=caller.api_key,
            group_name=caller.group,
            tags=encode_tags(caller.tags or NO_TAGS),
            token_version=caller.token_version,
            correlation_id=correlation_id.get(),
            traceparent=record.trace.header_for(record.trace.span_id),
            idempotency_key=keyed.key if keyed is not None else None,
            fingerprint=keyed.fingerprint if keyed is not None else None,
            request=b"",
            created_ms=now_ms,
            available_ms=now_ms,
            deadline_ms=now_ms + self._lifetime_ms,
        )
        job.request = self.contents.seal_request(job, request.body)
        return job

    async def _store(self, caller: Principal, job: Job) -> Job | None:
        """Store a new row. Returns another job with the same key, if one was stored meanwhile."""
        try:
            async with self._database.session(TenantScope(caller.tenant_id)) as session:
                if await repository.count_of(session, caller, self._per_user) >= self._per_user:
                    self.refused += 1
                    raise TooManyJobs(
                        f"You have {self._per_user} jobs that have not ended, the most that {LIMIT} allows. Wait until"
                        " one has ended, or cancel one.",
                        retry_after_s=RETRY_AFTER_S,
                    )
                session.add(job)
        except IntegrityError:
            if job.idempotency_key is None:
                raise
            return await self._find_earlier(caller, KeyedRequest(job.idempotency_key, job.fingerprint or ""))
        return None

    async def _remove(self, caller: Principal, job: Job) -> None:
        """Remove what has not become a job. What cannot be removed now is removed later."""
        with suppress(DatabaseUnavailable):
            async with self._database.session(TenantScope(caller.tenant_id)) as session:
                await repository.remove(session, job)
