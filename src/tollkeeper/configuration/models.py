"""The tables of the configuration. Every process keeps their rows in memory, and reads them again after a change."""

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel


class ProviderKey(SQLModel, table=True):
    """A tenant's own key for a provider, encrypted. `suffix` are its last characters, to recognise it by."""

    __tablename__ = "provider_keys"

    id: str = Field(primary_key=True, max_length=40)
    tenant_id: int = Field(foreign_key="tenants.id")
    provider: str = Field(max_length=40)
    sealed_key: bytes = Field(repr=False)
    suffix: str = Field(max_length=4)
    created_ms: int = Field(sa_type=BigInteger)


class ModerationPolicy(SQLModel, table=True):
    """The moderation policy of a tenant, as JSON: `moderation/documents.py` describes it."""

    __tablename__ = "moderation_policies"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    document: str
    changed_ms: int = Field(sa_type=BigInteger)


class SwitchedOff(SQLModel, table=True):
    """A model or a provider that an operator has switched off for all tenants."""

    __tablename__ = "switched_off"

    kind: str = Field(primary_key=True, max_length=10)
    name: str = Field(primary_key=True, max_length=250)
    reason: str = Field(max_length=500)
    created_ms: int = Field(sa_type=BigInteger)


class Plan(SQLModel, table=True):
    """A plan that tenants can be on. `document` has its terms, as JSON: `plans.py` describes it."""

    __tablename__ = "plans"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=100, unique=True)
    document: str = Field(sa_type=Text)
    created_ms: int = Field(sa_type=BigInteger)


class ConfigurationVersion(SQLModel, table=True):
    """One row. Triggers raise the version with each change of the other tables."""

    __tablename__ = "configuration"

    id: int = Field(primary_key=True)
    version: int = Field(sa_type=BigInteger)
