"""The rows of the ledger. Amounts are integers; times are milliseconds since the epoch, UTC.

These classes define the schema, and queries read with them. The ledger writes the rows with its own statements (see
`stores/`). No other code writes to windows, charges or entries.
"""

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKeyConstraint, Integer
from sqlmodel import Field, SQLModel

Id = BigInteger().with_variant(Integer, "sqlite")


class Unit(StrEnum):
    """What a quota counts."""

    TOKENS = "tokens"
    MICRO_USD = "micro_usd"


class ChargeState(StrEnum):
    """The state of a charge. `settled` and `released` are final.

    In `reserved`, nothing was sent to the provider yet. Every call of today starts as `dispatched`; the state is for
    background jobs, which reserve quota long before they call a model.
    """

    RESERVED = "reserved"
    DISPATCHED = "dispatched"
    SETTLED = "settled"
    RELEASED = "released"


class Basis(StrEnum):
    """What the cost of a charge is based on. `unknown` is a checkpoint, `none` is not billed, `cache` is a replay."""

    PROVIDER = "provider"
    COUNTED = "counted"
    UNKNOWN = "unknown"
    NONE = "none"
    CACHE = "cache"


class EntryKind(StrEnum):
    """What an entry records: the operation that wrote it, or the opening of its window."""

    OPEN = "open"
    LIMIT = "limit"
    GRANT = "grant"
    REFUND = "refund"
    RESERVE = "reserve"
    SETTLE = "settle"
    RELEASE = "release"
    EXPIRE = "expire"
    ADJUST = "adjust"


class Quota(SQLModel, table=True):
    """A limit per window, for one user or, without `user_id`, for a tenant."""

    __tablename__ = "quotas"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int | None = Field(default=None, foreign_key="users.id")
    unit: str = Field(default=Unit.TOKENS.value, max_length=10)
    period: str = Field(max_length=10)
    granted: int = Field(sa_type=BigInteger)


class Window(SQLModel, table=True):
    """One period of a quota, with its balances. Each balance is the sum of the window's entries."""

    __tablename__ = "windows"

    id: int | None = Field(default=None, primary_key=True, sa_type=Id)
    tenant_id: int = Field(foreign_key="tenants.id")
    quota_id: int = Field(foreign_key="quotas.id")
    starts_ms: int = Field(sa_type=BigInteger)
    ends_ms: int | None = Field(default=None, sa_type=BigInteger)
    granted: int = Field(sa_type=BigInteger)
    settled: int = Field(default=0, sa_type=BigInteger)
    pending: int = Field(default=0, sa_type=BigInteger)
    forgiven: int = Field(default=0, sa_type=BigInteger)
    sequence: int = Field(default=0, sa_type=BigInteger)


class Charge(SQLModel, table=True):
    """The row of one call: what it held, how it ended, what it cost and why.

    `month` is the partition month of `id`.
    """

    __tablename__ = "charges"

    id: str = Field(primary_key=True, max_length=40)
    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    month: int = Field(primary_key=True)
    user_id: int = Field(foreign_key="users.id")
    surface: str = Field(max_length=20)
    provider: str = Field(max_length=40)
    model: str = Field(max_length=200)
    state: str = Field(max_length=10)
    basis: str | None = Field(default=None, max_length=10)
    closed_by: str | None = Field(default=None, max_length=10)
    weight_milli: int
    price_input: int | None = Field(default=None, sa_type=BigInteger)
    price_cached: int | None = Field(default=None, sa_type=BigInteger)
    price_output: int | None = Field(default=None, sa_type=BigInteger)
    price_cache_write: int | None = Field(default=None, sa_type=BigInteger)
    input_bound: int = Field(sa_type=BigInteger)
    granted_output: int = Field(sa_type=BigInteger)
    held_tokens: int = Field(sa_type=BigInteger)
    held_micro_usd: int | None = Field(default=None, sa_type=BigInteger)
    checkpoint_input: int = Field(sa_type=BigInteger)
    checkpoint_output: int = Field(default=0, sa_type=BigInteger)
    input_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cached_input_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cache_write_tokens: int | None = Field(default=None, sa_type=BigInteger)
    output_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cost_tokens: int = Field(default=0, sa_type=BigInteger)
    cost_micro_usd: int | None = Field(default=None, sa_type=BigInteger)
    forgiven_tokens: int = Field(default=0, sa_type=BigInteger)
    forgiven_micro_usd: int | None = Field(default=None, sa_type=BigInteger)
    overrun: bool = False
    adjusted: bool = False
    refunded: bool = False
    error: str | None = Field(default=None, max_length=40)
    created_ms: int = Field(sa_type=BigInteger)
    lease_ms: int = Field(sa_type=BigInteger)
    closed_ms: int | None = Field(default=None, sa_type=BigInteger)


class IdempotencyKey(SQLModel, table=True):
    """An idempotency key of a user, with its charge, the fingerprint of the request, and the stored response if any."""

    __tablename__ = "idempotency_keys"

    tenant_id: int = Field(primary_key=True)
    user_id: int = Field(primary_key=True, foreign_key="users.id")
    key: str = Field(primary_key=True, max_length=255)
    charge_id: str = Field(max_length=40)
    fingerprint: str = Field(max_length=64)
    created_ms: int = Field(sa_type=BigInteger)
    status: int | None = None
    content_type: str | None = Field(default=None, max_length=100)
    body: bytes | None = None


class Entry(SQLModel, table=True):
    """One immutable line of a window: the amount by which each balance changed, and the operation that changed it.

    (`source_id`, `kind`) identifies the operation and is unique per window. `source_id` is the id of the charge, of the
    administrative operation, or of the opening of the window. `month` is the partition month of that id.
    """

    __tablename__ = "entries"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "window_id"], ["windows.tenant_id", "windows.id"]),)

    tenant_id: int = Field(primary_key=True)
    window_id: int = Field(primary_key=True, sa_type=BigInteger)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    month: int = Field(primary_key=True)
    source_id: str = Field(max_length=60)
    kind: str = Field(max_length=10)
    granted: int = Field(default=0, sa_type=BigInteger)
    settled: int = Field(default=0, sa_type=BigInteger)
    pending: int = Field(default=0, sa_type=BigInteger)
    forgiven: int = Field(default=0, sa_type=BigInteger)
    at_ms: int = Field(sa_type=BigInteger)
    actor: str | None = Field(default=None, max_length=254)
    reason: str | None = Field(default=None, max_length=500)
