"""Verifies the ledger: recomputes every window from its entries, and every charge from its entries, usage and quotas.

It is safe while servers write. It reads in chunks, a statement is one short snapshot, and what is compared is of one
snapshot. Nothing is locked, and one chunk is in memory at a time.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import text

from tollkeeper.database.engine import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.quota.audit.changed_windows import FIRST_WINDOW, ChangedWindows
from tollkeeper.quota.audit.charge_chunks import BEGIN, Position
from tollkeeper.quota.audit.charges import ChargeAudit
from tollkeeper.quota.audit.cut import Cut, read_cut
from tollkeeper.quota.audit.facts import NEW_WINDOW
from tollkeeper.quota.audit.mark import CHARGES, WINDOWS, Mark
from tollkeeper.quota.audit.reading import BEFORE_ALL_TENANTS, read
from tollkeeper.quota.audit.replay import BEFORE_ALL, EntryKey, Replay
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.audit.windows import check_windows
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, last_id

CHUNK_ROWS = 5_000
BLIND_SPOTS = (
    "rows that were changed or deleted together, so that they still add up",
    "a usage, price or weight that was stored wrong, or changed together with the cost and its entries",
    "a quota that was deleted with its windows, or given to another owner",
    "whether a charge in the first minute of a quota should have held on it",
    "whether an answer was from the response cache, which counts as a request, or a replay, which does not",
    "charges of a time that is yet to come, after a clock was set back",
    "whether an unknown outcome should have been forgiven, and the bound of a recovered charge's counted cost",
    "whether what rolled over from a window was unused in it",
    "entries and charges that are archived: of these, only the sums are compared",
)
"""What `verify` cannot see, because no other row contradicts it."""
BEFORE_ALL_CHARGES = BEFORE_ALL_TENANTS, ""
_FIRST_ENTRY = text("SELECT source_id FROM entries WHERE sequence > 0 ORDER BY tenant_id, window_id, sequence LIMIT 1")
"""Its random source identifies a ledger, also one that was moved or restored. An archive keeps it."""
_OPEN = text(
    "SELECT count(*) AS holds, coalesce(sum(CASE WHEN lease_ms < :now_ms THEN 1 ELSE 0 END), 0) AS lapsed FROM charges"
    " WHERE closed_ms IS NULL"
)


async def verify(
    database: Database,
    *,
    now_ms: int,
    chunk: int = CHUNK_ROWS,
    progress: Callable[[AuditReport], None] = lambda _: None,
    mark_file: Path | None = None,
) -> AuditReport:
    """Verify the whole ledger; with a `mark_file`, what was written since the verification that the file remembers.

    `now_ms` decides which leases are over; `progress` is called after each chunk. `chunk` is in rows, and must be more
    than the servers write into one window while a chunk is read.
    Raises DatabaseUnavailable; ConfigurationError if the file cannot be used, or if months were archived meanwhile, so
    that what looks wrong may be right.
    """
    newest, cut = last_id(CHARGE_PREFIX), await read_cut(database)
    if mark_file is None:
        report = AuditReport(archived=cut.month)
        await _verify_all(database, report, chunk, newest, cut, progress)
        await _require_same_cut(database, report, cut)
    else:
        with closing(Mark.open(mark_file, await ledger_id(database, cut), newest)) as mark:
            report = mark.report()
            if report.archived != cut.month:
                mark.restart()
                report = mark.report()
                report.archived = cut.month
            await _verify_marked(database, report, chunk, mark, cut, progress)
            await _require_same_cut(database, report, cut)
            mark.finish(report)
    (found,) = await read(database, _OPEN, now_ms=now_ms)
    report.open_holds, report.lapsed = found.holds, found.lapsed
    return report


async def ledger_id(database: Database, cut: Cut) -> str:
    """What identifies this ledger; "" if it is empty. Raises DatabaseUnavailable."""
    return cut.ledger or "".join(row.source_id for row in await read(database, _FIRST_ENTRY))


async def _require_same_cut(database: Database, report: AuditReport, cut: Cut) -> None:
    if not report.clean and await read_cut(database) != cut:
        raise ConfigurationError("Months were archived while the ledger was verified. Verify it again.")


async def _verify_all(
    database: Database, report: AuditReport, chunk: int, newest: str, cut: Cut, progress: Callable[[AuditReport], None]
) -> None:
    replay = Replay()
    async for _ in check_windows(database, report, chunk, replay, cut):
        replay.take_found()
        progress(report)
    async for _ in ChargeAudit(database, report, chunk, newest, cut).check():
        progress(report)


async def _verify_marked(
    database: Database, report: AuditReport, chunk: int, mark: Mark, cut: Cut, progress: Callable[[AuditReport], None]
) -> None:
    """Verify from where the mark is, and save in it after each chunk how far that is."""
    if mark.stage == WINDOWS and not mark.since:
        position = EntryKey(*mark.position) if mark.position else BEFORE_ALL
        is_amid = position.sequence > 0
        state = mark.window((position.tenant_id, position.window_id)) if is_amid else NEW_WINDOW
        replay = Replay(position, state, charges_after=mark.newest)  # these are left for the next time
        async for _ in check_windows(database, report, chunk, replay, cut):
            mark.save(WINDOWS, replay.resume_position, report, *replay.take_found())
            progress(report)
    elif mark.stage == WINDOWS:
        changed = ChangedWindows(database, report, chunk, mark, mark.position or FIRST_WINDOW, cut)
        async for _ in changed.check():
            mark.save(WINDOWS, changed.position, report, *changed.take_found())
            progress(report)
    if mark.stage == WINDOWS:
        mark.save(CHARGES, (), report)
    if not mark.since:
        charges_after = Position(*mark.position) if mark.position else BEGIN
        audit = ChargeAudit(database, report, chunk, mark.newest, cut, charges_after)
        async for _ in audit.check():
            mark.save(CHARGES, audit.position, report)
            progress(report)
        return
    audit = ChargeAudit(database, report, chunk, mark.newest, cut)
    while charges := mark.charges_after(mark.position or BEFORE_ALL_CHARGES, max(1, chunk // 5)):
        await audit.check_some(charges[0][0], [charge_id for _, charge_id in charges])
        mark.save(CHARGES, charges[-1], report)
        progress(report)
