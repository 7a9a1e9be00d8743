"""The tables of alerts on quotas. Times are milliseconds since the epoch, UTC."""

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class AlertRule(SQLModel, table=True):
    """At which shares of which quotas of a tenant an alert fires.

    `percents` is a JSON list. With `kind` (what they are of), `user_id`, `unit` and `period`, the rule is only for such
    quotas.
    """

    __tablename__ = "alert_rules"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    id: str = Field(primary_key=True, max_length=40)
    percents: str = Field(max_length=200)
    kind: str | None = Field(default=None, max_length=20)
    user_id: int | None = None
    unit: str | None = Field(default=None, max_length=12)
    period: str | None = Field(default=None, max_length=10)
    created_ms: int = Field(sa_type=BigInteger)


class QuotaAlert(SQLModel, table=True):
    """A window of a quota has reached a share of its limit: `settled` of `granted`, when that was found.

    There is at most one for each window and share.
    """

    __tablename__ = "quota_alerts"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    window_id: int = Field(primary_key=True, sa_type=BigInteger)
    percent: int = Field(primary_key=True)
    id: str = Field(max_length=40)
    quota_id: int
    kind: str = Field(max_length=20)
    user_id: int | None = None
    unit: str = Field(max_length=12)
    period: str = Field(max_length=10)
    granted: int = Field(sa_type=BigInteger)
    settled: int = Field(sa_type=BigInteger)
    starts_ms: int = Field(sa_type=BigInteger)
    ends_ms: int | None = Field(default=None, sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)
