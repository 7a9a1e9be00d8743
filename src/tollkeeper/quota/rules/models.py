"""The rows of the ledger. Amounts are integers; times are milliseconds since the epoch, UTC.

These classes define the schema, and queries read with them. The ledger writes the rows with its own statements (see
`stores/`). No other code writes to windows, charges or entries.
"""

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKeyConstraint, Integer, Text
from sqlmodel import Field, SQLModel

Id = BigInteger().with_variant(Integer, "sqlite")


class Unit(StrEnum):
    """What a quota counts: tokens, money, answered calls, or the calls in flight at the same time.

    `concurrency` is only held, never spent, and its one window is `total`.
    """

    TOKENS = "tokens"
    MICRO_USD = "micro_usd"
    REQUESTS = "requests"
    CONCURRENCY = "concurrency"


class WhenSpent(StrEnum):
    """What a quota does with a call for which it has no room: refuse it, have another model answer it, or only say that
    it would refuse it.
    """

    BLOCK = "block"
    FALLBACK_MODEL = "fallback_model"
    REPORT_ONLY = "report_only"

    @classmethod
    def of(cls, *, report_only: bool, fallback_model: str | None) -> "WhenSpent":
        """What a quota with these columns does."""
        if report_only:
            return cls.REPORT_ONLY
        return cls.BLOCK if fallback_model is None else cls.FALLBACK_MODEL


EVALUATION = "evaluation"
"""The surface of the charges of judges. Such a call is the second of a pair: see `linked.py`."""
LINKED_SURFACES = frozenset({EVALUATION})
"""The surfaces of calls that are made within another one, whose slot in a quota of concurrency they use."""


class ChargeState(StrEnum):
    """The state of a charge. `settled` and `released` are final.

    In `reserved`, nothing was sent to the provider yet. Most calls start as `dispatched`; the state is for background
    jobs, which reserve quota long before they call a model, and for the second call of a pair.
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
    """What an entry records: the operation that wrote it, the opening of its window, or what is archived of it.

    From a `report` on, the window refuses no call, until a `block`. A `lapse` takes expired grants back; an `override`
    is the begin or the end of a limit that holds for a time; a `rollover` is what was unused in the window before;
    with a `remove`, the quota ends.
    """

    OPEN = "open"
    LIMIT = "limit"
    REPORT = "report"
    BLOCK = "block"
    LAPSE = "lapse"
    ROLLOVER = "rollover"
    OVERRIDE = "override"
    REMOVE = "remove"
    GRANT = "grant"
    REFUND = "refund"
    RESERVE = "reserve"
    SETTLE = "settle"
    RELEASE = "release"
    EXPIRE = "expire"
    ADJUST = "adjust"
    CARRY = "carry"


class Quota(SQLModel, table=True):
    """A limit per window, for one user or, without `user_id`, for a tenant; or for what `kind` and `subject` say: see
    `subjects.py`.
    """

    __tablename__ = "quotas"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int | None = Field(default=None, foreign_key="users.id")
    kind: str = Field(max_length=20)
    subject: str = Field(default="", max_length=120)
    unit: str = Field(default=Unit.TOKENS.value, max_length=12)
    period: str = Field(max_length=10)
    granted: int = Field(sa_type=BigInteger)
    report_only: bool = False
    """Whether it refuses no call, and only says which ones it would refuse."""
    fallback_model: str | None = Field(default=None, max_length=200)
    """The model that answers the calls for which it has no room, if it has room for that model's."""
    rollover_cap: int | None = Field(default=None, sa_type=BigInteger)
    """How much of what is unused in a window the next one gets, at most; None for nothing."""
    overrides_end_ms: int | None = Field(default=None, sa_type=BigInteger)
    """When the last of its overrides ends; None if it has had none."""
    removed_ms: int | None = Field(default=None, sa_type=BigInteger)
    """When it was removed; None if it applies. A new quota of the same owner, unit and period is another row."""


class Window(SQLModel, table=True):
    """One period of a quota, with its balances. Each balance is the sum of the window's entries. For a template, of one
    `value` of it.
    """

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
    report_only: bool = False
    override: int | None = Field(default=None, sa_type=BigInteger)
    """The limit that an override sets now; None if it is the quota's."""
    due_ms: int | None = Field(default=None, sa_type=BigInteger)
    """When the next grant or override of it begins or ends."""
    rolled: int = Field(default=0, sa_type=BigInteger)
    """What was unused in the window before, and is granted to this one."""
    value: str = Field(default="", sa_type=Text)
    base: int | None = Field(default=None, sa_type=BigInteger)
    """Of a value: the limit of the template, as far as the window has followed it."""


class TemporaryLimit(SQLModel, table=True):
    """A grant to one window until `ends_ms`; or, without `window_id`, an override of a quota's limit, whose `amount` is
    the limit from `starts_ms` until `ends_ms`. A grant is deleted when it ends, or with its window's end.
    """

    __tablename__ = "temporary_limits"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id")
    quota_id: int = Field(foreign_key="quotas.id")
    window_id: int | None = Field(default=None, sa_type=BigInteger)
    amount: int = Field(sa_type=BigInteger)
    starts_ms: int = Field(sa_type=BigInteger)
    ends_ms: int = Field(sa_type=BigInteger)
    operation_id: str = Field(max_length=60)


class Charge(SQLModel, table=True):
    """The row of one call: what it held, how it ended, what it cost and why.

    `month` is the partition month of `id`. `key_id` is the API key of the call, `group_id` the group that it counts
    for, `tags` its tags, as a JSON object of names and values, and `conversation` the value of the conversation that
    it continues (see `subjects.py`).
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
    key_id: str | None = Field(default=None, max_length=40)
    group_id: int | None = None
    tags: str | None = Field(default=None, sa_type=Text)
    conversation: str | None = Field(default=None, max_length=100)


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


class Archive(SQLModel, table=True):
    """The archive of the months from `first_month` to `month`; see `quota/archive/`.

    The windows that ended in them, and have no entries left, are added up in `whole_…`: nothing carries their balances.
    """

    __tablename__ = "archives"

    month: int = Field(primary_key=True)
    first_month: int
    state: str = Field(max_length=10)
    owner: str = Field(max_length=500)
    lease_ms: int = Field(sa_type=BigInteger)
    ledger: str = Field(max_length=60)
    manifest_hash: str | None = Field(default=None, max_length=64)
    charges: int = Field(default=0, sa_type=BigInteger)
    entries: int = Field(default=0, sa_type=BigInteger)
    whole_windows: int = Field(default=0, sa_type=BigInteger)
    whole_entries: int = Field(default=0, sa_type=BigInteger)
    whole_granted: int = Field(default=0, sa_type=BigInteger)
    whole_settled: int = Field(default=0, sa_type=BigInteger)
    whole_pending: int = Field(default=0, sa_type=BigInteger)
    whole_forgiven: int = Field(default=0, sa_type=BigInteger)
    started_ms: int = Field(sa_type=BigInteger)
    finished_ms: int | None = Field(default=None, sa_type=BigInteger)
