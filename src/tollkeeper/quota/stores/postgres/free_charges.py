"""Charges of repeated responses on PostgreSQL: deleted by a range of the index `charges_free`."""

from tollkeeper.quota.stores.postgres.connection import NOW_MS, Connection

_PLAN_WITHOUT_SORT = "SET LOCAL enable_sort = off"
"""For the transaction. Without statistics, the planner would sort all charges that are old enough, for each batch."""
_DELETE_FREE_CHARGES = (
    "WITH old AS MATERIALIZED (SELECT tenant_id, month, id FROM charges"
    f" WHERE basis = 'cache' AND created_ms <= {NOW_MS} - $2"
    " AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS key"
    " WHERE key.tenant_id = charges.tenant_id AND key.charge_id = charges.id)"
    " AND NOT EXISTS (SELECT 1 FROM entries AS entry"
    " WHERE entry.tenant_id = charges.tenant_id AND entry.source_id = charges.id AND entry.month = charges.month)"
    " ORDER BY created_ms LIMIT $3 FOR UPDATE SKIP LOCKED)"
    " DELETE FROM charges USING old"
    " WHERE charges.tenant_id = old.tenant_id AND charges.month = old.month AND charges.id = old.id"
)


async def delete_free_charges(connection: Connection, now_ms: int | None, min_age_ms: int, limit: int) -> int:
    """Delete charges of repeated responses, except those whose rows are locked. Returns how many were deleted."""
    await connection.execute(_PLAN_WITHOUT_SORT)
    status = await connection.execute(_DELETE_FREE_CHARGES, now_ms, min_age_ms, limit)
    return int(status.rsplit(" ", 1)[1])
