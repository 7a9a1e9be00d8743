"""Reads the entries of every window, a chunk at a time, and windows without entries; `replay` adds them up."""

from collections.abc import AsyncIterator

from sqlalchemy import text

from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.cut import Cut, WholeWindows
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.audit.reading import BEFORE_ALL_TENANTS, read, read_values
from tollkeeper.quota.audit.replay import Replay
from tollkeeper.quota.audit.report import AuditReport

_CHUNK = text(
    "WITH chunk AS (SELECT tenant_id, window_id, sequence, month, source_id, kind, granted, settled, pending, forgiven,"
    " CASE WHEN sequence < 0 THEN reason END AS reason"
    " FROM entries WHERE (tenant_id, window_id, sequence) > (:tenant_id, :window_id, :sequence)"
    " AND month > :cut AND sequence >= :first_sequence"
    " ORDER BY tenant_id, window_id, sequence LIMIT :most),"
    " touched AS (SELECT tenant_id, window_id FROM chunk"
    " UNION SELECT CAST(:tenant_id AS INTEGER), CAST(:window_id AS BIGINT))"
    " SELECT * FROM chunk UNION ALL"
    " SELECT windows.tenant_id, id, sequence, NULL, NULL, NULL, granted, settled, pending, forgiven, NULL"
    " FROM touched JOIN windows ON windows.tenant_id = touched.tenant_id AND windows.id = touched.window_id"
)
"""The next entries, and the row of each of their windows, without a source. The window of the entry before is there in
any case. They are sorted here, which takes less time than in SQLite.
"""
_WINDOWS = text(
    "SELECT tenant_id, quota_id, value, starts_ms, id, ends_ms, sequence, granted, settled, pending, forgiven,"
    " (SELECT min(later.starts_ms) FROM windows AS later WHERE later.tenant_id = windows.tenant_id"
    " AND later.quota_id = windows.quota_id AND later.value = windows.value"
    " AND later.starts_ms > windows.starts_ms) AS next_starts_ms,"
    " EXISTS (SELECT 1 FROM entries WHERE entries.tenant_id = windows.tenant_id AND window_id = windows.id"
    " AND month > :cut AND entries.sequence >= :first_sequence) AS has_entries FROM windows"
    " WHERE (tenant_id, quota_id, value, starts_ms) > (:tenant_id, :quota_id, :value, :starts_ms)"
    " ORDER BY tenant_id, quota_id, value, starts_ms LIMIT :most"
)


async def check_windows(
    database: Database, report: AuditReport, chunk: int, replay: Replay, cut: Cut
) -> AsyncIterator[None]:
    """Check every window and entry behind the position of `replay`, a chunk at a time.

    Entries that are written behind the position are not read. Raises DatabaseUnavailable.
    """
    is_last = False
    while not is_last:
        before, position = replay.entries, replay.position._asdict()
        report.add(replay.read(await read_values(database, _CHUNK, most=chunk, **position, **cut.values)))
        report.entries += replay.entries - before
        is_last = replay.entries - before < chunk
        yield
    report.add(replay.finish())
    await _find_empty_windows(database, report, chunk, cut)


async def _find_empty_windows(database: Database, report: AuditReport, chunk: int, cut: Cut) -> None:
    """Count windows, and find those without entries, because a window is created together with its first entry; and
    those that overlap another one of their quota.

    Windows that ended before the cut may be archived as a whole. Of these, the sums are compared with the archives'.
    """
    whole = WholeWindows()
    after = {"tenant_id": BEFORE_ALL_TENANTS, "quota_id": 0, "value": "", "starts_ms": 0}
    while rows := await read(database, _WINDOWS, most=chunk, **after, **cut.values):
        report.windows += len(rows)
        for row in rows:
            if row.next_starts_ms is not None and (row.ends_ms is None or row.ends_ms > row.next_starts_ms):
                report.add([Problem(Fault.WINDOW, f"window {row.id}", "it overlaps the next window of its quota")])
            if row.has_entries:
                continue
            if cut.covers(row.ends_ms):
                whole = whole.plus((1, *row[6:11]))
            else:
                report.add([Problem(Fault.SEQUENCE, f"window {row.id}", "it has no entries")])
        after = {column: getattr(rows[-1], column) for column in after}
    report.add(
        Problem(Fault.BALANCE, "windows without entries", f"{name}: they have {now}, the archives had {archived}")
        for name, now, archived in zip(whole._fields, whole, cut.whole, strict=True)
        if now != archived
    )
