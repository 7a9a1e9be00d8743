"""Shows windows on PostgreSQL to calls that cost nothing: without a lock on any, and without creating any."""

from collections.abc import Mapping

from tollkeeper.quota.rules.page import Account, Page, QuotaRow, ReadSet, WindowRow
from tollkeeper.quota.rules.subjects import slot_of
from tollkeeper.quota.rules.templates import lags
from tollkeeper.quota.rules.temporary import NO_TEMPORARY
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.postgres.temporary import read_temporary
from tollkeeper.quota.stores.postgres.windows import AROUND_NOW
from tollkeeper.quota.stores.rows import TERMS, as_due, keys_of, new_window, window_row, with_rollover

_SHOW_WINDOWS = (
    "SELECT found.id, wanted.quota_id, found.starts_ms, found.ends_ms, granted, settled, pending, forgiven, sequence,"
    f" {', '.join(TERMS)}, wanted.value{AROUND_NOW}"
)


async def show_windows(connection: Connection, page: Page, read_set: ReadSet, readers: Mapping[int, Account]) -> None:
    """Fill `page.shown_windows` with the current windows of these users' quotas, without a lock on any.

    A window that does not exist yet is shown as it would begin, but not created. One that the batch has locked for a
    charge is that one row, so that it is shown as the batch changes it.
    """
    quotas = {quota.slot: quota for quota in read_set.quotas_of_readers(readers)}
    shown = {slot: quota for slot, quota in quotas.items() if slot not in page.current_windows}
    if not shown:
        return
    locked = {hold.window.id: hold.window for holds in page.holds.values() for hold in holds}
    for row in await connection.fetch(_SHOW_WINDOWS, *keys_of(shown.values()), page.now_ms):
        quota = shown[slot_of(row[1], row[-1])]
        window = None if row[0] is None else locked.get(row[0]) or window_row(row, quota)
        if window is None or not window.covers(page.now_ms):
            window = await _window_to_come(connection, page.now_ms, quota, window)
        elif window.due_ms is not None and window.due_ms <= page.now_ms:
            of_quota = (await read_temporary(connection, [quota.id], window.due_ms))[quota.id]
            window = as_due(window, of_quota, page.now_ms)
        elif lags(window):
            window = as_due(window, None, page.now_ms)
        page.shown_windows[quota.slot] = window


async def _window_to_come(
    connection: Connection, now_ms: int, quota: QuotaRow, previous: WindowRow | None
) -> WindowRow:
    """The window that would begin now, after the last one of its quota."""
    ends_ms = None if previous is None else previous.ends_ms
    rows = NO_TEMPORARY
    if quota.overrides_end_ms is not None and quota.overrides_end_ms > (ends_ms or 0):
        rows = (await read_temporary(connection, [quota.id], min(ends_ms or now_ms, now_ms)))[quota.id].rows
    return with_rollover(new_window(quota, now_ms, ends_ms, None, rows), previous, rows)
