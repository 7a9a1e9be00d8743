"""The tables of the audit log."""

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

INSTALLATION = 0
"""The `tenant_id` of acts that concern no single tenant."""


class AuditLine(SQLModel, table=True):
    """One act: who did it, from where, to what, and what changed.

    `actor` is `user:ID` or the system's user of a command; `before` and `after` are JSON objects without secrets. `mac`
    authenticates the line and, through the line before it, all earlier lines of the tenant.
    """

    __tablename__ = "audit_lines"

    tenant_id: int = Field(primary_key=True)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    at_ms: int = Field(sa_type=BigInteger)
    actor: str = Field(max_length=100)
    action: str = Field(max_length=40)
    target: str = Field(max_length=250)
    before: str | None = Field(default=None, sa_type=Text)
    after: str | None = Field(default=None, sa_type=Text)
    reason: str | None = Field(default=None, max_length=500)
    address: str = Field(max_length=45)
    correlation_id: str = Field(max_length=64)
    mac: bytes = Field(repr=False)


class AuditHead(SQLModel, table=True):
    """The newest line of a tenant. Its row is locked while a line is added."""

    __tablename__ = "audit_heads"

    tenant_id: int = Field(primary_key=True)
    sequence: int = Field(sa_type=BigInteger)
    mac: bytes = Field(repr=False)
