"""Takes a batch one step further: collects the results of its lines, and makes jobs of the next ones.

A step reads, works without a transaction, and then writes everything in one transaction, if no other process has
changed the batch. So a process that dies in between leaves the batch as it was, and no line becomes two jobs.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.batches import repository
from tollkeeper.batches.contents import BatchContents
from tollkeeper.batches.kinds import BatchKind, BatchKinds
from tollkeeper.batches.models import Batch, BatchStatus
from tollkeeper.batches.validation import check_lines
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import BatchError, FileMissing, LineCancelled, LineExpired
from tollkeeper.files.lines import Line, read_lines
from tollkeeper.files.models import FileStatus, StoredFile
from tollkeeper.files.store import Files
from tollkeeper.jobs.contents import JobContents
from tollkeeper.jobs.models import Job
from tollkeeper.jobs.repository import PENDING
from tollkeeper.jobs.service import JOB_PREFIX
from tollkeeper.quota.rules.jobs import JobStatus
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.webhooks.events import EVENT_PREFIX, EventType, put_event

OPEN_LINES = 256
"""How many lines of a batch are jobs at a time. The batches of a tenant take turns by this."""
LINE_PRIORITY = -1
"""Below the lowest priority of a job that is submitted alone."""
LINES_AT_ONCE = 256
BYTES_AT_ONCE = 2 * 1024 * 1024
"""Of lines that are read, or of results that are written, in one step; but at least one line."""
POLL_MS, IDLE_MS = 250, 1_000
"""How soon a batch is looked at again: while lines of it end, and else."""


class LineEnd(StrEnum):
    """How a line of a batch has ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    UNMADE = "unmade"


NoteLine = Callable[[str, LineEnd, int], None]
"""Receives the kind of a batch, and how many lines of it have ended so."""


@dataclass(slots=True)
class Step:
    """What a step has found and made, before it is written."""

    file: StoredFile | None
    ended: list[Job]
    open_lines: int
    stop: BatchError | None
    """Why no further line is made; None while they are."""
    lines: list[Line] = field(default_factory=list)
    results: list[tuple[LineEnd, bytes]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    @property
    def has_changes(self) -> bool:
        return bool(self.ended or self.lines or self.stop)


class BatchSteps:
    """Takes batches of any kind further. `on_lines` learns of the lines that have ended, `on_jobs` of new jobs."""

    def __init__(
        self,
        database: Database,
        files: Files,
        contents: BatchContents,
        job_contents: JobContents,
        kinds: BatchKinds,
        clock: Clock,
        *,
        on_lines: NoteLine = lambda *_: None,
        on_jobs: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._files = files
        self._contents = contents
        self._job_contents = job_contents
        self._kinds = kinds
        self._clock = clock
        self._on_lines = on_lines
        self._on_jobs = on_jobs

    async def take(self, batch: Batch) -> None:
        """Take a batch that was claimed one step further. Raises DatabaseUnavailable."""
        if batch.status == BatchStatus.VALIDATING:
            await self._validate(batch)
            return
        step = await self._prepare(batch)
        if step.has_changes or batch.next_line >= batch.total:
            await self._write(batch, step)
            return
        async with self._database.session() as session:
            await repository.postpone(session, batch, self._clock.now_ms() + (POLL_MS if step.open_lines else IDLE_MS))

    async def _validate(self, batch: Batch) -> None:
        """Check the lines of the input file, and begin; or end the batch with what is wrong with them."""
        async with self._database.session() as session:
            file = await session.get(StoredFile, (batch.tenant_id, batch.input_file_id))
        checked = await check_lines(self._files.read(file), self._kinds[batch.kind]) if file is not None else None
        async with self._database.session() as session:
            current = await repository.lock(session, batch)
            if current is None:
                return
            now_ms = self._clock.now_ms()
            current.available_ms = now_ms
            if checked is not None and not checked.problems:
                current.status, current.started_ms, current.total = BatchStatus.IN_PROGRESS.value, now_ms, checked.total
                return
            error = FileMissing()
            missing = [{"code": error.code, "message": error.detail, "param": "input_file_id", "line": None}]
            problems = checked.problems if checked is not None else missing
            current.errors = self._contents.seal(current, "errors", problems)
            await _put_end(session, current, BatchStatus.FAILED, now_ms)

    async def _prepare(self, batch: Batch) -> Step:
        async with self._database.session() as session:
            file = await session.get(StoredFile, (batch.tenant_id, batch.input_file_id))
            ended = await repository.list_ended(session, batch, LINES_AT_ONCE, BYTES_AT_ONCE)
            step = Step(file, ended, await repository.count_lines(session, batch), self._reason_to_stop(batch, file))
        kind = self._kinds[batch.kind]
        for job in step.ended:
            end = LineEnd.COMPLETED if job.status == JobStatus.COMPLETED else LineEnd.FAILED
            step.results.append((end, self._job_contents.read_outcome(job) or b""))
        room = LINES_AT_ONCE if step.stop is not None else OPEN_LINES - step.open_lines + len(ended)
        step.lines = await self._next_lines(batch, step.file, kind, min(room, batch.total - batch.next_line))
        for line in step.lines:
            if step.stop is not None:
                step.results.append((LineEnd.UNMADE, kind.render_unmade(kind.read_line(line.content), step.stop)))
            else:
                step.jobs.append(self._make_job(batch, line))
        return step

    def _reason_to_stop(self, batch: Batch, file: StoredFile | None) -> BatchError | None:
        if batch.status == BatchStatus.CANCELLING:
            return LineCancelled()
        return LineExpired() if self._clock.now_ms() >= batch.deadline_ms or file is None else None

    async def _next_lines(self, batch: Batch, file: StoredFile | None, kind: BatchKind, count: int) -> list[Line]:
        """At most `count` of the lines that were not read yet, and no more than BYTES_AT_ONCE, but at least one."""
        lines: list[Line] = []
        size = 0
        if count <= 0 or file is None:
            return lines
        async with aclosing(self._files.read(file, batch.next_byte)) as parts:
            number = 0 if not batch.next_byte else 1  # only the first line of a file may begin with a byte order mark
            found = read_lines(parts, number=number, start=batch.next_byte, max_bytes=kind.max_line_bytes)
            async with aclosing(found):
                async for some in found:
                    for line in some:
                        size += len(line.content)
                        if lines and (len(lines) >= count or size > BYTES_AT_ONCE):
                            return lines
                        lines.append(line)
        return lines

    def _make_job(self, batch: Batch, line: Line) -> Job:
        now_ms = self._clock.now_ms()
        job = Job(
            tenant_id=batch.tenant_id,
            id=new_id(JOB_PREFIX),
            user_id=batch.user_id,
            kind=batch.kind,
            batch_id=batch.id,
            status=PENDING,
            priority=LINE_PRIORITY,
            api_key=batch.api_key,
            group_name=batch.group_name,
            tags=batch.tags,
            token_version=batch.token_version,
            correlation_id=batch.correlation_id,
            traceparent=batch.traceparent,
            request=b"",
            created_ms=now_ms,
            available_ms=now_ms,
            deadline_ms=batch.deadline_ms,
        )
        job.request = self._job_contents.seal_request(job, line.content)
        return job

    async def _write(self, batch: Batch, step: Step) -> None:
        """Write what the step has made, unless another process was faster."""
        async with self._database.session() as session:
            current = await repository.lock(session, batch)
            if current is None:
                return
            await repository.remove_lines(session, batch, [job.id for job in step.ended])
            if step.stop is not None:
                await self._drop_pending(session, current, step)
            session.add_all(step.jobs)
            if step.lines:
                current.next_line += len(step.lines)
                current.next_byte = step.lines[-1].end
            await self._append_results(session, current, step.results)
            ends = Counter(end for end, _ in step.results)
            current.completed += ends[LineEnd.COMPLETED]
            current.failed += ends[LineEnd.FAILED]
            current.unmade += ends[LineEnd.UNMADE]
            now_ms = self._clock.now_ms()
            current.available_ms = now_ms if step.stop is not None and step.results else now_ms + POLL_MS
            await session.flush()
            if await self._is_over(session, current, step):
                await self._end(session, current, step)
        for end, count in ends.items():
            self._on_lines(batch.kind, end, count)
        if step.jobs:
            self._on_jobs()

    async def _drop_pending(self, session: AsyncSession, batch: Batch, step: Step) -> None:
        """End lines that are jobs, but that no process has started."""
        assert step.stop is not None
        kind = self._kinds[batch.kind]
        for job in await repository.take_pending(session, batch, LINES_AT_ONCE):
            line_id = kind.read_line(self._job_contents.read_request(job))
            step.results.append((LineEnd.UNMADE, kind.render_unmade(line_id, step.stop)))

    async def _append_results(self, session: AsyncSession, batch: Batch, results: list[tuple[LineEnd, bytes]]) -> None:
        kind = self._kinds[batch.kind]
        good = [line for end, line in results if end is LineEnd.COMPLETED or not kind.splits_errors]
        bad = [line for end, line in results if end is not LineEnd.COMPLETED and kind.splits_errors]
        if good:
            batch.output_file_id = await self._append(session, batch, batch.output_file_id, "output", good)
        if bad:
            batch.error_file_id = await self._append(session, batch, batch.error_file_id, "error", bad)

    async def _append(
        self, session: AsyncSession, batch: Batch, file_id: str | None, name: str, lines: list[bytes]
    ) -> str:
        """Add lines to a file of results, which the first ones create. Returns the id of the file."""
        file = await session.get(StoredFile, (batch.tenant_id, file_id)) if file_id is not None else None
        if file is None:
            purpose = self._kinds[batch.kind].output_purpose
            file = self._files.new_file(batch.tenant_id, batch.user_id, purpose, FileStatus.WRITING)
            file.name = self._files.contents.seal_name(file, f"{batch.id}_{name}.jsonl")
            session.add(file)
            await session.flush()
        self._files.append(session, file, b"\n".join(lines) + b"\n")
        return file.id

    async def _is_over(self, session: AsyncSession, batch: Batch, step: Step) -> bool:
        is_read = batch.next_line >= batch.total or step.file is None
        return is_read and not await repository.count_lines(session, batch)

    async def _end(self, session: AsyncSession, batch: Batch, step: Step) -> None:
        """All lines have ended: show the files of results."""
        now_ms = self._clock.now_ms()
        status = BatchStatus.EXPIRED if batch.unmade or step.file is None else BatchStatus.COMPLETED
        await _put_end(
            session, batch, BatchStatus.CANCELLED if batch.status == BatchStatus.CANCELLING else status, now_ms
        )
        after_s = self._contents.read_options(batch).get("output_expires_after_s")
        lifetime_ms = after_s * 1000 if after_s is not None else self._files.lifetime_ms
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            file = await session.get_one(StoredFile, (batch.tenant_id, file_id))
            file.status, file.expires_ms = FileStatus.READY.value, now_ms + lifetime_ms
        if step.file is not None and self._kinds[batch.kind].deletes_input:
            input_file = await session.get_one(StoredFile, (batch.tenant_id, step.file.id))
            input_file.status = FileStatus.DELETED.value


async def _put_end(session: AsyncSession, batch: Batch, status: BatchStatus, now_ms: int) -> None:
    """End a batch, and put the event of that in the outbox of its tenant's webhooks."""
    batch.status, batch.ended_ms = status.value, now_ms
    data = {"batch_id": batch.id, "user_id": batch.user_id, "status": status.value}
    event_id = f"{EVENT_PREFIX}_{batch.id.rpartition('_')[2]}"
    event_type = EventType(f"batch.{status.value}")
    await put_event(session, batch.tenant_id, event_type, data, now_ms, user_id=batch.user_id, event_id=event_id)
