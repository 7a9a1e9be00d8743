"""The rows of identity."""

from datetime import UTC, datetime

from sqlmodel import Field, SQLModel

from tollkeeper.principal import Role


def _now() -> datetime:
    return datetime.now(UTC)


class Tenant(SQLModel, table=True):
    """A customer: the wall between users, and the holder of a quota of its own."""

    __tablename__ = "tenants"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=100, unique=True)
    disabled_at: datetime | None = None
    created_at: datetime = Field(default_factory=_now)


class User(SQLModel, table=True):
    """Someone who can log in. `token_version` rises whenever tokens given out so far must die."""

    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id", index=True)
    email: str = Field(max_length=254, unique=True)
    password_hash: str = Field(max_length=255, repr=False)
    role: str = Field(default=Role.MEMBER.value, max_length=20)
    token_version: int = 0
    disabled_at: datetime | None = None
    created_at: datetime = Field(default_factory=_now)
