"""Statements: what a tenant had, was granted and has spent in a month of its calendar.

A month is that of the tenant's calendar which begins in it: with the reset day 15, that of November ends on 15
December. It begins where the statement of the month before ends, if that is closed, so that a change of the calendar
leaves no gap. A closed statement is stored, and never changes. What calls of closed months cost more or less since then
are corrections in the next statement.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import NotFound
from tollkeeper.quota.partition_months import month_after, month_at, month_before
from tollkeeper.quota.rules.windows import Calendar, month_span
from tollkeeper.usage.buckets import DAY_MS, MEASURES, Sums, first_id
from tollkeeper.usage.statement_balances import read_balances
from tollkeeper.usage.statement_parts import ModelKey, ModelSums, Statement, minus, plus
from tollkeeper.usage.statement_tags import read_tags

CLOSES_AFTER_MS = 48 * 3_600_000
"""How long after its end a month is closed, at the earliest."""

_TENANT = text("SELECT time_zone, reset_day, created_at FROM tenants WHERE id = :tenant_id")
_FIRST_BUCKET = text("SELECT min(bucket_ms) FROM usage_buckets WHERE tenant_id = :tenant_id")
_STATEMENTS = text("SELECT document FROM usage_statements WHERE tenant_id = :tenant_id ORDER BY month")
_SUMS = ", ".join(f"CAST(sum({name}) AS bigint)" for name in MEASURES)
_OF_DAYS = text(
    f"SELECT group_id, value, provider, {_SUMS} FROM usage_days WHERE tenant_id = :tenant_id AND dimension = 'model'"
    " AND day_ms >= :first AND day_ms < :after GROUP BY 1, 2, 3"
)
_OF_BUCKETS = text(
    f"SELECT group_id, model, provider, {_SUMS} FROM usage_buckets WHERE tenant_id = :tenant_id"
    " AND bucket_ms >= :first AND bucket_ms < :after GROUP BY 1, 2, 3"
)
_OPEN = text(
    "SELECT 1 FROM charges WHERE tenant_id = :tenant_id AND closed_ms IS NULL AND id < :after"
    " UNION ALL SELECT 1 FROM usage_changes WHERE tenant_id = :tenant_id AND charge_id < :after LIMIT 1"
)
_STORE = text(
    "INSERT INTO usage_statements (tenant_id, month, starts_ms, ends_ms, closed_ms, document)"
    " VALUES (:tenant_id, :month, :starts_ms, :ends_ms, :closed_ms, :document)"
    " ON CONFLICT (tenant_id, month) DO NOTHING"
)


class TenantStatements:
    """The statements of one tenant, in one transaction."""

    def __init__(
        self, session: AsyncSession, tenant_id: int, calendar: Calendar, first_month: int, closed: Sequence[Statement]
    ) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._calendar = calendar
        self._closed = {statement.month: statement for statement in closed}
        self.next_month = month_after(max(self._closed)) if self._closed else first_month
        """The month that is closed next."""

    @classmethod
    async def open(cls, session: AsyncSession, tenant_id: int) -> "TenantStatements":
        """Raises NotFound if there is no such tenant."""
        of_tenant = {"tenant_id": tenant_id}
        connection = await session.connection()
        tenant = (await connection.execute(_TENANT, of_tenant)).first()
        if tenant is None:
            raise NotFound
        calendar = Calendar(tenant.time_zone, tenant.reset_day)
        stored = (await connection.execute(_STATEMENTS, of_tenant)).scalars()
        closed = [Statement.from_document(json.loads(document)) for document in stored]
        first_bucket = (await connection.execute(_FIRST_BUCKET, of_tenant)).scalar()
        created_ms = _moment_ms(tenant.created_at)
        first_ms = first_bucket if first_bucket is not None else created_ms
        return cls(session, tenant_id, calendar, _month_of(first_ms, calendar), closed)

    async def read(self, month: int, now_ms: int) -> Statement:
        """The statement of a month: as it was closed, or as it is now. Raises NotFound before the first month, and for
        one that has not begun.
        """
        if (closed := self._closed.get(month)) is not None:
            return closed
        starts_ms, ends_ms = self.period(month)
        if month < self.next_month or starts_ms > now_ms:
            raise NotFound
        return await self._compute(month, starts_ms, ends_ms, closed_ms=None)

    async def close_next(self, now_ms: int) -> bool:
        """Close the next month if it is over for long enough, and all of its calls have ended and are added up.
        Returns whether it was closed.
        """
        starts_ms, ends_ms = self.period(self.next_month)
        if ends_ms + CLOSES_AFTER_MS > now_ms:
            return False
        connection = await self._session.connection()
        waiting = {"tenant_id": self._tenant_id, "after": first_id(ends_ms)}
        if (await connection.execute(_OPEN, waiting)).first() is not None:
            return False
        statement = await self._compute(self.next_month, starts_ms, ends_ms, closed_ms=now_ms)
        document = json.dumps(statement.as_document(), separators=(",", ":"))
        row = {"starts_ms": starts_ms, "ends_ms": ends_ms, "closed_ms": now_ms, "document": document}
        await connection.execute(_STORE, {"tenant_id": self._tenant_id, "month": statement.month, **row})
        self._closed[statement.month] = statement
        self.next_month = month_after(statement.month)
        return True

    def period(self, month: int) -> tuple[int, int]:
        """When a month begins, and when it ends."""
        starts_ms, ends_ms = month_span(*divmod(month, 100), self._calendar)
        if (before := self._closed.get(month_before(month))) is not None:
            starts_ms = before.ends_ms
        return starts_ms, max(starts_ms, ends_ms)

    async def _compute(self, month: int, starts_ms: int, ends_ms: int, *, closed_ms: int | None) -> Statement:
        spent = await self._read_models(starts_ms, ends_ms)
        corrections = await self._read_corrections() if month == self.next_month else {}
        before = self._closed.get(month_before(month))
        openings = {balance.quota: balance.closing for balance in before.balances} if before is not None else {}
        stated: Counter[str] = Counter()
        for statement in self._closed.values():
            for balance in statement.balances:
                stated[balance.quota] += balance.spent + balance.corrections
        balances = await read_balances(self._session, self._tenant_id, (starts_ms, ends_ms), openings, stated)
        return Statement(
            self._tenant_id,
            month,
            starts_ms,
            ends_ms,
            self._calendar.time_zone,
            closed_ms,
            balances,
            spent,
            corrections,
            await read_tags(self._session, self._tenant_id, starts_ms, ends_ms),
        )

    async def _read_corrections(self) -> dict[int, ModelSums]:
        """What calls of each closed month cost more, or less, than all closed statements say."""
        corrections = {}
        for month, statement in self._closed.items():
            stated = statement.spent
            for later in self._closed.values():
                stated = plus(stated, later.corrections.get(month, {}))
            found = minus(await self._read_models(statement.starts_ms, statement.ends_ms), stated)
            if found:
                corrections[month] = found
        return corrections

    async def _read_models(self, starts_ms: int, ends_ms: int) -> ModelSums:
        """What was spent in a time, by group and model."""
        first_day, day_after = starts_ms + -starts_ms % DAY_MS, ends_ms - ends_ms % DAY_MS
        if first_day >= day_after:
            return await self._read_lines(_OF_BUCKETS, starts_ms, ends_ms)
        lines = await self._read_lines(_OF_DAYS, first_day, day_after)
        for first, after in ((starts_ms, first_day), (day_after, ends_ms)):
            if first < after:
                lines = plus(lines, await self._read_lines(_OF_BUCKETS, first, after))
        return lines

    async def _read_lines(self, statement: Any, first: int, after: int) -> ModelSums:
        connection = await self._session.connection()
        values: Mapping[str, int] = {"tenant_id": self._tenant_id, "first": first, "after": after}
        found: dict[ModelKey, Sums] = {}
        for group_id, model, provider, *sums in await connection.execute(statement, values):
            if any(sums):
                found[ModelKey(group_id, model, provider)] = tuple(sums)
        return found


def _month_of(at_ms: int, calendar: Calendar) -> int:
    """The month of the calendar that a time is in. Months begin at most two months before they end."""
    month = month_after(month_at(at_ms))
    while month_span(*divmod(month, 100), calendar)[0] > at_ms:
        month = month_before(month)
    return month


def _moment_ms(created_at: Any) -> int:
    """A time of the database, which SQLite has as text, in milliseconds."""
    moment = created_at if isinstance(created_at, datetime) else datetime.fromisoformat(str(created_at))
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)
