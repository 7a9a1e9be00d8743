"""The table of statements."""

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel


class UsageStatement(SQLModel, table=True):
    """The statement of a tenant's month that is closed: it never changes. `month` is 202611 for the one that began in
    November 2026; `document` is JSON.
    """

    __tablename__ = "usage_statements"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    month: int = Field(primary_key=True)
    starts_ms: int = Field(sa_type=BigInteger)
    ends_ms: int = Field(sa_type=BigInteger)
    closed_ms: int = Field(sa_type=BigInteger)
    document: str = Field(sa_type=Text)
