"""Reads grants and overrides that end, on PostgreSQL."""

from collections.abc import Collection

from tollkeeper.quota.rules.page import Page
from tollkeeper.quota.rules.temporary import Temporary
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.rows import READ_TEMPORARY, due_windows, quotas_with_due, temporary_of, write_all_due

_READ = READ_TEMPORARY.format(since="$1", among="= ANY($2::integer[])")


async def read_temporary(connection: Connection, quota_ids: Collection[int], since_ms: int) -> dict[int, Temporary]:
    """The limit of each of these quotas, and its grants and overrides that have not ended before."""
    return temporary_of(await connection.fetch(_READ, since_ms, sorted(quota_ids)))


async def write_what_is_due(connection: Connection, page: Page) -> None:
    """Write what is due in the windows of the page, and read the temporary limits of quotas that change.

    They are read after the locks of the windows: whatever has changed them before is committed.
    """
    due = due_windows(page)
    quotas, since = quotas_with_due(page, due)
    if quotas:
        page.temporary |= await read_temporary(connection, quotas, since)
        write_all_due(page, due)
