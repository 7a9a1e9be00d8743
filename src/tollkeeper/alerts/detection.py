"""Finds windows that have reached a share of their limit, once for each window and share."""

from sqlalchemy import RowMapping, delete, text
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.alerts.models import QuotaAlert
from tollkeeper.database.upsert import insert_into
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.webhooks.events import EVENT_PREFIX, EventType, put_event

PREFIX = "alert"
CHUNK = 200
"""How many alerts one transaction makes."""
LATE_MS = 3_600_000
"""Windows that ended less than this ago are looked at, too: calls are settled late, and servers are stopped."""
KEPT_MS = 400 * 86_400_000
"""How long alerts are kept after the end of their window."""
_SINCE = "CAST(:since_ms AS BIGINT)"
_OF_QUOTA = "w.tenant_id = q.tenant_id AND w.quota_id = q.id"
"""Named on both sides of the OR, so that SQLite reads the index of ends for each."""
_JOIN_WINDOWS = {"sqlite": "CROSS JOIN", "postgresql": "JOIN"}
"""SQLite without statistics would read all windows first. A CROSS JOIN keeps the order of the tables."""
_KIND = "CASE WHEN q.kind LIKE 'each%' THEN substr(q.kind, 6) ELSE q.kind END"
"""A window of a template is of a user, a key or a conversation."""
_USER = (
    "CASE q.kind WHEN 'each_user' THEN CAST(nullif(w.value, '') AS INTEGER) WHEN 'each_key'"
    " THEN (SELECT k.user_id FROM api_keys k WHERE k.tenant_id = w.tenant_id AND k.id = w.value) ELSE q.user_id END"
)
_LEVELS = {
    "sqlite": "JOIN json_each(r.percents) AS level",
    "postgresql": "CROSS JOIN LATERAL json_array_elements_text(CAST(r.percents AS json)) AS level (value)",
}


def _query(dialect: str) -> str:
    return (
        "SELECT DISTINCT w.tenant_id, w.id AS window_id, CAST(level.value AS INTEGER) AS percent, w.quota_id,"
        f" {_KIND} AS kind, {_USER} AS user_id, q.unit, q.period, w.granted, w.settled, w.starts_ms, w.ends_ms"
        " FROM alert_rules r JOIN quotas q ON q.tenant_id = r.tenant_id AND q.unit <> 'concurrency'"
        " AND q.removed_ms IS NULL"
        f" AND (r.kind IS NULL OR {_KIND} = r.kind)"
        " AND (r.unit IS NULL OR r.unit = q.unit) AND (r.period IS NULL OR r.period = q.period)"
        f" {_JOIN_WINDOWS[dialect]} windows w"
        f" ON (({_OF_QUOTA} AND w.ends_ms IS NULL) OR ({_OF_QUOTA} AND w.ends_ms > {_SINCE}))"
        f" AND (r.user_id IS NULL OR {_USER} = r.user_id)"
        f" {_LEVELS[dialect]}"
        " WHERE w.granted > 0 AND w.settled * 100 >= w.granted * CAST(level.value AS INTEGER)"
        " AND NOT EXISTS (SELECT 1 FROM quota_alerts a WHERE a.tenant_id = w.tenant_id AND a.window_id = w.id"
        f" AND a.percent = CAST(level.value AS INTEGER)) ORDER BY 1, 2, 3 LIMIT {CHUNK}"
    )


async def find_reached(session: AsyncSession, now_ms: int) -> list[QuotaAlert]:
    """At most CHUNK shares that windows have reached, and for which there is no alert. Nothing is written."""
    connection = await session.connection()
    found = await connection.execute(text(_query(connection.dialect.name)), {"since_ms": now_ms - LATE_MS})
    return [_alert(row, now_ms) for row in found.mappings().all()]


async def fire(session: AsyncSession, alerts: list[QuotaAlert]) -> list[QuotaAlert]:
    """Store these alerts, and put an event of each in the outbox of the webhooks, in the session's transaction.

    Returns those that no other process has stored: the key of the table decides, whatever races.
    """
    connection = await session.connection()
    fired = []
    for alert in alerts:
        statement = insert_into(connection, QuotaAlert).values(alert.model_dump()).on_conflict_do_nothing()
        stored = await connection.execute(statement.returning(col(QuotaAlert.percent)))
        if stored.first() is not None:
            event_id = f"{EVENT_PREFIX}_{alert.id.removeprefix(f'{PREFIX}_')}"
            data = event_data(alert)
            await put_event(
                session,
                alert.tenant_id,
                EventType.QUOTA_ALERT,
                data,
                alert.created_ms,
                user_id=alert.user_id,
                event_id=event_id,
            )
            fired.append(alert)
    return fired


async def delete_old(session: AsyncSession, now_ms: int) -> None:
    """Delete the alerts of windows that ended long ago."""
    await session.exec(delete(QuotaAlert).where(col(QuotaAlert.ends_ms) < now_ms - KEPT_MS))


def event_data(alert: QuotaAlert) -> dict[str, int | str | None]:
    """The fields of the event of an alert."""
    return {
        "alert_id": alert.id,
        "percent": alert.percent,
        "quota_id": alert.quota_id,
        "kind": alert.kind,
        "user_id": alert.user_id,
        "unit": alert.unit,
        "window": alert.period,
        "limit": alert.granted,
        "used": alert.settled,
    }


def _alert(row: RowMapping, now_ms: int) -> QuotaAlert:
    return QuotaAlert(id=new_id(PREFIX), created_ms=now_ms, **{str(name): value for name, value in row.items()})
