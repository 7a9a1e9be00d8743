"""Jobs without a charge that are to be started, on SQLite. The write lock of the batch covers their rows."""

import sqlite3
from collections.abc import Mapping

_FIND = "SELECT 1 FROM jobs WHERE tenant_id = ? AND id = ? AND status = 'pending' AND charge_id IS NULL"


def find_waiting_jobs(connection: sqlite3.Connection, jobs: Mapping[str, int]) -> set[str]:
    """The ids of those of these jobs (id → tenant id) that wait."""
    return {job_id for job_id, tenant_id in jobs.items() if connection.execute(_FIND, (tenant_id, job_id)).fetchone()}
