"""What a batch of operations reads (`ReadSet`), and the `Page` of rows that the rules work on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from tollkeeper.chat import Price
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.keys import KeyName, KeyRow
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Kind, Unit
from tollkeeper.quota.rules.windows import Period


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose quota: a user's, or (without `user_id`) a tenant's own."""

    tenant_id: int
    user_id: int | None = None


class QuotaKey(NamedTuple):
    """A quota by what it is, not by its number."""

    subject: Subject
    unit: Unit
    period: Period


@dataclass(slots=True)
class QuotaRow:
    """A limit as stored. Only `granted` ever changes."""

    id: int
    key: QuotaKey
    granted: int
    name: str = field(init=False)
    """What people see: `user-day`, `tenant-total`, `user-month-usd`."""

    @property
    def is_own_token_quota(self) -> bool:
        """Whether it is a user's own and counts tokens. Without one, a user can spend nothing."""
        return self.key.unit is Unit.TOKENS and self.key.subject.user_id is not None

    def __post_init__(self) -> None:
        scope = "tenant" if self.key.subject.user_id is None else "user"
        self.name = f"{scope}-{self.key.period}" + ("-usd" if self.key.unit is Unit.MICRO_USD else "")


@dataclass(frozen=True, slots=True)
class Account:
    """Whether a user may act, and every quota that applies: the user's and the tenant's."""

    tenant_id: int
    active: bool
    token_version: int
    quotas: tuple[QuotaRow, ...]
    api_keys: Mapping[str, int | None]
    """Those that are not revoked, each with the moment at which it ends, if it ever does."""

    def accepts(self, caller: Principal, now_ms: int) -> bool:
        """Whether user, tenant and credential are still good."""
        ends_ms = self.api_keys.get(caller.api_key, 0) if caller.api_key is not None else None
        is_latest = caller.api_key is not None or self.token_version == caller.token_version
        is_good = is_latest and (ends_ms is None or now_ms < ends_ms)
        return is_good and self.active and self.tenant_id == caller.tenant_id


@dataclass(slots=True)
class WindowRow:
    """A quota's balances in one stretch of time."""

    id: int
    quota: QuotaRow
    starts_ms: int
    ends_ms: int | None
    granted: int
    settled: int = 0
    pending: int = 0
    forgiven: int = 0
    sequence: int = 0


@dataclass(slots=True)
class ChargeRow:
    """A charge as stored; the fields in the order of `CHARGE_COLUMNS`. `models.Charge` says what each means."""

    id: str
    tenant_id: int
    user_id: int
    surface: str
    provider: str
    model: str
    state: str
    weight_milli: int
    price_input: int | None
    price_cached: int | None
    price_output: int | None
    price_cache_write: int | None
    input_bound: int
    granted_output: int
    held_tokens: int
    held_micro_usd: int | None
    checkpoint_input: int
    checkpoint_output: int
    created_ms: int
    lease_ms: int
    basis: str | None = None
    closed_by: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    cost_tokens: int = 0
    cost_micro_usd: int | None = None
    forgiven_tokens: int = 0
    forgiven_micro_usd: int | None = None
    overrun: bool = False
    adjusted: bool = False
    refunded: bool = False
    error: str | None = None
    closed_ms: int | None = None

    @property
    def open(self) -> bool:
        return self.closed_ms is None

    @property
    def meter(self) -> Meter:
        if self.price_input is None or self.price_cached is None or self.price_output is None:
            return Meter(self.weight_milli)
        price = Price(self.price_input, self.price_cached, self.price_output, self.price_cache_write)
        return Meter(self.weight_milli, price)

    def held(self, unit: Unit) -> int:
        return self.held_tokens if unit is Unit.TOKENS else self.held_micro_usd or 0

    def cost(self, unit: Unit) -> int:
        return self.cost_tokens if unit is Unit.TOKENS else self.cost_micro_usd or 0

    def forgiven(self, unit: Unit) -> int:
        return self.forgiven_tokens if unit is Unit.TOKENS else self.forgiven_micro_usd or 0


CHARGE_COLUMNS = tuple(column.name for column in fields(ChargeRow))
OPENING_COLUMNS = CHARGE_COLUMNS[: CHARGE_COLUMNS.index("basis")]
"""What a reserve writes."""
CHANGING_COLUMNS = (
    "state",
    "checkpoint_input",
    "checkpoint_output",
    "lease_ms",
    *CHARGE_COLUMNS[len(OPENING_COLUMNS) :],
)
"""What any later verb may write."""


class EntryRow(NamedTuple):
    """One immutable line; the fields in the order of the table's columns."""

    window_id: int
    sequence: int
    source_id: str
    kind: str
    granted: int
    settled: int
    pending: int
    forgiven: int
    at_ms: int
    actor: str | None
    reason: str | None


class Hold(NamedTuple):
    """What one charge still holds in one window."""

    window: WindowRow
    pending: int


@dataclass(slots=True)
class ReadSet:
    """What a batch must see: named before its transaction begins, so that locks are taken in one order."""

    callers: set[int] = field(default_factory=set)
    charges: set[str] = field(default_factory=set)
    quotas: set[QuotaKey] = field(default_factory=set)
    create: set[QuotaKey] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    keys: set[KeyName] = field(default_factory=set)


@dataclass(slots=True)
class Page:
    """The rows that one batch works on, read under their locks, and the changes to be written with its commit."""

    now_ms: int
    accounts: dict[int, Account] = field(default_factory=dict)
    charges: dict[str, ChargeRow] = field(default_factory=dict)
    holds: dict[str, list[Hold]] = field(default_factory=dict)
    quotas: dict[QuotaKey, QuotaRow] = field(default_factory=dict)
    keys: dict[KeyName, KeyRow] = field(default_factory=dict)
    current: dict[int, WindowRow] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    """The `ReadSet.sources` that have entries already: the batch that wrote them did commit."""

    opened: list[ChargeRow] = field(default_factory=list)
    changed: dict[str, ChargeRow] = field(default_factory=dict)
    touched: dict[int, WindowRow] = field(default_factory=dict)
    entries: list[EntryRow] = field(default_factory=list)
    limits: dict[int, QuotaRow] = field(default_factory=dict)
    written_keys: dict[KeyName, KeyRow] = field(default_factory=dict)
    opened_windows: bool = False

    @property
    def dirty(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.opened or self.changed or self.touched or self.written_keys or self.opened_windows)

    def move(
        self,
        window: WindowRow,
        kind: Kind,
        source_id: str,
        *,
        granted: int = 0,
        settled: int = 0,
        pending: int = 0,
        forgiven: int = 0,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Move a window's balances, and write the line that says so. The only way a balance changes."""
        window.granted += granted
        window.settled += settled
        window.pending += pending
        window.forgiven += forgiven
        window.sequence += 1
        self.touched[window.id] = window
        self.entries.append(
            EntryRow(
                window.id,
                window.sequence,
                source_id,
                str(kind),
                granted,
                settled,
                pending,
                forgiven,
                self.now_ms,
                actor,
                reason,
            )
        )

    def open_charge(self, charge: ChargeRow, holds: list[Hold]) -> None:
        """Add a new charge; `holds` is what it takes of each window."""
        self.charges[charge.id] = charge
        self.holds[charge.id] = holds
        self.opened.append(charge)

    def change(self, charge: ChargeRow) -> None:
        """Note that a charge is to be written again, after those opened."""
        self.changed[charge.id] = charge

    def write_key(self, row: KeyRow) -> None:
        """Note that an idempotency key is to be written, after the charges."""
        self.keys[row.name] = self.written_keys[row.name] = row
