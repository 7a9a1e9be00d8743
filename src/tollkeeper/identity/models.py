"""The tables of identity."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from tollkeeper.principal import Role


def _now() -> datetime:
    """Returns the time for `created_at`. The system's clock is enough, since no rule reads that column."""
    return datetime.now(UTC)


class Tenant(SQLModel, table=True):
    """A customer. Its users see no other tenant's data; it has quotas of its own, which its users share."""

    __tablename__ = "tenants"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=100, unique=True)
    disabled_at: datetime | None = None
    created_at: datetime = Field(default_factory=_now)


class User(SQLModel, table=True):
    """A person who can log in. Each increment of `token_version` invalidates all tokens issued before."""

    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id", index=True)
    email: str = Field(max_length=254, unique=True)
    password_hash: str = Field(max_length=255, repr=False)
    role: str = Field(default=Role.MEMBER.value, max_length=20)
    token_version: int = 0
    disabled_at: datetime | None = None
    created_at: datetime = Field(default_factory=_now)


class ApiKey(SQLModel, table=True):
    """A key with which programs authenticate as one user. Only its SHA-256 and its prefix are stored.

    `scopes` are separated by spaces. Times are milliseconds since the epoch, UTC. Without `expires_ms`, the key is
    valid until it is revoked.
    """

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True, max_length=40)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int = Field(foreign_key="users.id")
    name: str = Field(max_length=100)
    prefix: str = Field(max_length=20)
    key_hash: str = Field(max_length=64, unique=True, repr=False)
    scopes: str = Field(max_length=100)
    created_ms: int = Field(sa_type=BigInteger)
    expires_ms: int | None = Field(default=None, sa_type=BigInteger)
    revoked_ms: int | None = Field(default=None, sa_type=BigInteger)

    def is_valid(self, now_ms: int) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


class KeyTagSecret(SQLModel, table=True):
    """A secret with which the tags of API keys are made. The newest makes tags; all of them verify.

    It is no secret from readers of the database: a genuine tag only leads to the look-up of the key's hash.
    """

    __tablename__ = "key_tag_secrets"

    id: int | None = Field(default=None, primary_key=True)
    secret: bytes = Field(repr=False)
    created_ms: int = Field(sa_type=BigInteger)
