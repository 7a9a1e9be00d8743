"""The tables of administrative requests that may be repeated, and of requests for more quota."""

from enum import StrEnum

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class AdminRequest(SQLModel, table=True):
    """A request with an idempotency key, and the response to it, encrypted."""

    __tablename__ = "admin_requests"

    user_id: int = Field(primary_key=True, foreign_key="users.id")
    key: str = Field(primary_key=True, max_length=255)
    tenant_id: int = Field(foreign_key="tenants.id")
    fingerprint: str = Field(max_length=64)
    status: int
    sealed_body: bytes = Field(repr=False)
    created_ms: int = Field(sa_type=BigInteger)


class RequestStatus(StrEnum):
    """What was decided about a request for more quota."""

    PENDING = "pending"
    GRANTED = "granted"
    DECLINED = "declined"


class QuotaRequest(SQLModel, table=True):
    """A user asks for more tokens in the current window of one of their quotas.

    A user has at most one pending request per period. `operation_id` is the ledger's operation that grants it, and
    `decided_by` names the administrator as the audit log does.
    """

    __tablename__ = "quota_requests"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int = Field(foreign_key="users.id")
    period: str = Field(max_length=10)
    tokens: int = Field(sa_type=BigInteger)
    reason: str = Field(max_length=500)
    status: str = Field(default=RequestStatus.PENDING.value, max_length=10)
    granted_tokens: int | None = Field(default=None, sa_type=BigInteger)
    operation_id: str | None = Field(default=None, max_length=60)
    decided_by: str | None = Field(default=None, max_length=254)
    decision_reason: str | None = Field(default=None, max_length=500)
    created_ms: int = Field(sa_type=BigInteger)
    decided_ms: int | None = Field(default=None, sa_type=BigInteger)
