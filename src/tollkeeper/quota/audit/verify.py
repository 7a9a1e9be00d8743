"""Verifies the ledger: recomputes every window from its entries, and every charge from its entries, usage and quotas.

It is safe while servers write. It reads in chunks, a statement is one short snapshot, and what is compared is of one
snapshot. Nothing is locked, and one chunk is in memory at a time.
"""

from collections.abc import Callable

from sqlalchemy import text

from tollkeeper.db import Database
from tollkeeper.quota.audit.charges import check_charges
from tollkeeper.quota.audit.reading import read
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.audit.windows import check_windows

CHUNK_ROWS = 5_000
BLIND_SPOTS = (
    "rows that were changed or deleted together, so that they still add up",
    "a usage, price or weight that was stored wrong, or changed together with the cost and its entries",
    "a quota that was deleted with its windows, or given to another owner",
    "whether a charge in the first minute of a quota should have held on it",
    "charges of a time that is yet to come, after a clock was set back",
    "whether an unknown outcome should have been forgiven, and the bound of a recovered charge's counted cost",
)
"""What `verify` cannot see, because no other row contradicts it."""
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
) -> AuditReport:
    """Verify the whole ledger. `now_ms` decides which leases are over; `progress` is called after each chunk.

    `chunk` is in rows, and must be more than the servers write into one window while a chunk is read.
    Raises DatabaseUnavailable.
    """
    report = AuditReport()
    await check_windows(database, report, chunk, progress)
    await check_charges(database, report, chunk, progress)
    (found,) = await read(database, _OPEN, now_ms=now_ms)
    report.open_holds, report.lapsed = found.holds, found.lapsed
    return report
