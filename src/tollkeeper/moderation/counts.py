"""How much each rule has found, per tenant and day: what an administrator looks at before a rule is enforced."""

from typing import NamedTuple

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.day_counts import DayCounts
from tollkeeper.database.engine import Database
from tollkeeper.tenant_scope import TenantScope

TABLE = "moderation_counts"


class ModerationCount(SQLModel, table=True):
    """In how many calls of a day (UTC) a rule has found something, and how much in all."""

    __tablename__ = TABLE

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    day: str = Field(primary_key=True, max_length=10)
    rule: str = Field(primary_key=True, max_length=40)
    stage: str = Field(primary_key=True, max_length=10)
    action: str = Field(primary_key=True, max_length=10)
    enforced: bool = Field(primary_key=True)
    calls: int = Field(sa_type=BigInteger)
    findings: int = Field(sa_type=BigInteger)


class Counted(NamedTuple):
    """What is counted by itself."""

    tenant_id: int
    rule: str
    stage: str
    action: str
    enforced: bool


class ModerationCounts(DayCounts):
    """Counts what rules find, and stores the counts."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock, TABLE, Counted._fields, ("calls", "findings"))

    def note(self, counted: Counted, findings: int) -> None:
        """Count one call in which a rule has found so much."""
        self.add(counted, 1, findings)


async def list_counts(
    session: AsyncSession, scope: TenantScope, first_day: str, last_day: str
) -> list[ModerationCount]:
    """The counts of these days, the first and the last included, by day and rule."""
    is_wanted = (
        scope.condition(col(ModerationCount.tenant_id)),
        col(ModerationCount.day) >= first_day,
        col(ModerationCount.day) <= last_day,
    )
    order = (ModerationCount.day, ModerationCount.tenant_id, ModerationCount.rule, ModerationCount.stage)
    return list((await session.exec(select(ModerationCount).where(*is_wanted).order_by(*map(col, order)))).all())
