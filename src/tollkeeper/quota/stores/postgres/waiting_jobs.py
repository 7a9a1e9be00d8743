"""Jobs without a charge that are to be started, on PostgreSQL: locked in the transaction that starts them."""

from collections.abc import Mapping

from tollkeeper.quota.stores.postgres.connection import Connection

_LOCK = (
    "SELECT jobs.id FROM unnest($1::integer[], $2::text[]) AS wanted (tenant_id, id)"
    " JOIN jobs ON jobs.tenant_id = wanted.tenant_id AND jobs.id = wanted.id"
    " WHERE jobs.status = 'pending' AND jobs.charge_id IS NULL ORDER BY jobs.id FOR UPDATE OF jobs SKIP LOCKED"
)


async def lock_waiting_jobs(connection: Connection, jobs: Mapping[str, int]) -> set[str]:
    """The ids of those of these jobs (id → tenant id) that wait. One that another session has locked is not among them:
    it is tried again later.
    """
    return {row[0] for row in await connection.fetch(_LOCK, [*jobs.values()], [*jobs])}
