"""The table of administrative requests that may be repeated."""

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
