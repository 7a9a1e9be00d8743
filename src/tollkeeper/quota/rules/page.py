"""What a batch of operations reads (`ReadSet`), and the rows that the rules work on (`Page`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tollkeeper.principal import Principal
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.idempotency_keys import KeyName, KeyRow
from tollkeeper.quota.rules.models import EntryKind, Unit
from tollkeeper.quota.rules.windows import Period


@dataclass(frozen=True, slots=True)
class Subject:
    """The owner of a quota: a user or, without `user_id`, a tenant."""

    tenant_id: int
    user_id: int | None = None


class QuotaKey(NamedTuple):
    """Identifies a quota by owner, unit and period. There is at most one for each."""

    subject: Subject
    unit: Unit
    period: Period


@dataclass(slots=True)
class QuotaRow:
    """A quota as stored. Only `granted` changes."""

    id: int
    key: QuotaKey
    granted: int
    name: str = field(init=False)
    """The name in the API: `user-day`, `tenant-total`, `user-month-usd`."""

    @property
    def is_own_token_quota(self) -> bool:
        """Whether it is a user's and counts tokens. A user without one cannot make any call."""
        return self.key.unit is Unit.TOKENS and self.key.subject.user_id is not None

    def __post_init__(self) -> None:
        scope = "tenant" if self.key.subject.user_id is None else "user"
        self.name = f"{scope}-{self.key.period}" + ("-usd" if self.key.unit is Unit.MICRO_USD else "")


@dataclass(frozen=True, slots=True)
class Account:
    """A user's access, and every quota that applies to the user: their own and the tenant's."""

    tenant_id: int
    active: bool
    token_version: int
    quotas: tuple[QuotaRow, ...]
    api_keys: Mapping[str, int | None]
    """The ids of the keys that are not revoked, each with the time of its expiry in ms, if it has one."""
    revoked_sessions: frozenset[str] = frozenset()
    """The ids of the sessions that are revoked, as long as access tokens of theirs have not expired."""

    def accepts(self, caller: Principal, now_ms: int) -> bool:
        """Whether the user and the tenant are active, and the caller's credential is valid."""
        expires_ms = self.api_keys.get(caller.api_key, 0) if caller.api_key is not None else None
        is_latest = caller.api_key is not None or self.token_version == caller.token_version
        is_valid = is_latest and (expires_ms is None or now_ms < expires_ms)
        is_valid = is_valid and caller.session not in self.revoked_sessions
        return is_valid and self.active and self.tenant_id == caller.tenant_id


@dataclass(slots=True)
class WindowRow:
    """A window as stored: the balances of a quota in one period."""

    id: int
    quota: QuotaRow
    starts_ms: int
    ends_ms: int | None
    granted: int
    settled: int = 0
    pending: int = 0
    forgiven: int = 0
    sequence: int = 0

    @property
    def tenant_id(self) -> int:
        return self.quota.key.subject.tenant_id


class EntryRow(NamedTuple):
    """An entry as stored, with its fields in the order of the table's columns."""

    tenant_id: int
    window_id: int
    sequence: int
    month: int
    source_id: str
    kind: str
    granted: int
    settled: int
    pending: int
    forgiven: int
    at_ms: int
    actor: str | None
    reason: str | None


class WindowHold(NamedTuple):
    """What one charge holds in one window."""

    window: WindowRow
    pending: int


@dataclass(slots=True)
class ReadSet:
    """What a batch reads. It is known before the transaction begins, so that locks are taken in one order."""

    callers: dict[int, int] = field(default_factory=dict)
    """The tenant of each user who makes a call."""
    charges: dict[str, int] = field(default_factory=dict)
    """The tenant of each charge."""
    quotas: set[QuotaKey] = field(default_factory=set)
    quotas_to_create: set[QuotaKey] = field(default_factory=set)
    sources: dict[str, int] = field(default_factory=dict)
    """Administrative operations that may have committed already: a tenant that each has entries of."""
    keys: set[KeyName] = field(default_factory=set)
    is_suspect: bool = False
    """Whether an earlier try did not get a lock, so that this one is not to wait for any."""

    def overlaps(self, other: "ReadSet") -> bool:
        """Whether both have a charge, a caller, a quota or an idempotency key in common."""
        return not (
            self.charges.keys().isdisjoint(other.charges)
            and self.callers.keys().isdisjoint(other.callers)
            and self.keys.isdisjoint(other.keys)
            and (self.quotas | self.quotas_to_create).isdisjoint(other.quotas)
        )


@dataclass(slots=True)
class Page:
    """The rows of one batch, read under their locks, and the changes that its transaction writes."""

    now_ms: int
    accounts: dict[int, Account] = field(default_factory=dict)
    charges: dict[str, ChargeRow] = field(default_factory=dict)
    holds: dict[str, list[WindowHold]] = field(default_factory=dict)
    quotas: dict[QuotaKey, QuotaRow] = field(default_factory=dict)
    keys: dict[KeyName, KeyRow] = field(default_factory=dict)
    current_windows: dict[int, WindowRow] = field(default_factory=dict)
    """The window of each quota at `now_ms`, by the quota's id."""
    committed_sources: set[str] = field(default_factory=set)
    """The `ReadSet.sources` that have entries, so that the batch that wrote them did commit."""
    locked: ReadSet | None = None
    """What is not on this page, because another session keeps a row of it locked."""
    refuses_calls: bool = False
    """No new hold is admitted: the disk is almost full."""

    new_charges: list[ChargeRow] = field(default_factory=list)
    changed_charges: dict[str, ChargeRow] = field(default_factory=dict)
    changed_windows: dict[int, WindowRow] = field(default_factory=dict)
    new_entries: list[EntryRow] = field(default_factory=list)
    changed_limits: dict[int, QuotaRow] = field(default_factory=dict)
    changed_keys: dict[KeyName, KeyRow] = field(default_factory=dict)
    has_new_windows: bool = False
    """The store created windows while it read; they are written already, but not committed."""

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(
            self.new_charges
            or self.changed_charges
            or self.changed_windows
            or self.changed_keys
            or self.has_new_windows
        )

    def post(
        self,
        window: WindowRow,
        kind: EntryKind,
        source_id: str,
        month: int,
        *,
        granted: int = 0,
        settled: int = 0,
        pending: int = 0,
        forgiven: int = 0,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Change the balances of a window, and add the entry for it. No other code changes a balance.

        `month` is the source's.
        """
        window.granted += granted
        window.settled += settled
        window.pending += pending
        window.forgiven += forgiven
        window.sequence += 1
        self.changed_windows[window.id] = window
        self.new_entries.append(
            EntryRow(
                window.tenant_id,
                window.id,
                window.sequence,
                month,
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

    def add_charge(self, charge: ChargeRow, holds: list[WindowHold]) -> None:
        """Add a new charge, with its hold in each window."""
        self.charges[charge.id] = charge
        self.holds[charge.id] = holds
        self.new_charges.append(charge)

    def mark_changed(self, charge: ChargeRow) -> None:
        """Have a charge updated with the commit, after new charges are inserted."""
        self.changed_charges[charge.id] = charge

    def put_key(self, row: KeyRow) -> None:
        """Have an idempotency key written with the commit, after the charges."""
        self.keys[row.name] = self.changed_keys[row.name] = row
