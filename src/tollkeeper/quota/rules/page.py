"""What a batch of operations reads (`ReadSet`), and the rows that the rules work on (`Page`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tollkeeper.principal import Principal
from tollkeeper.quota.rules.accounts import Account as Account
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.idempotency_keys import KEY_LIFETIME_MS, KeyName, KeyRow
from tollkeeper.quota.rules.jobs import JobChange
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.subjects import Billing, billing_of
from tollkeeper.quota.rules.subjects import QuotaKey as QuotaKey
from tollkeeper.quota.rules.subjects import QuotaRow as QuotaRow
from tollkeeper.quota.rules.subjects import Slot as Slot
from tollkeeper.quota.rules.subjects import Subject as Subject

if TYPE_CHECKING:
    from tollkeeper.quota.rules.temporary import Temporary, TemporaryRow


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
    report_only: bool = False
    """Whether it refuses no call, and only says which ones it would refuse."""
    override: int | None = None
    """The limit that an override sets; None if it is the quota's."""
    due_ms: int | None = None
    """When the next grant or override of it begins or ends: see `temporary.py`."""
    rolled: int = 0
    """What was unused in the window before: see `rollover.py`."""
    base: int | None = None
    """For a value of a template: the limit of that, as far as this window has followed it. See `templates.py`."""

    @property
    def admits_owner(self) -> bool:
        """Whether its user may make calls because of it: it counts their tokens, and refuses what is too much."""
        return self.quota.is_own_token_quota and not self.report_only

    @property
    def tenant_id(self) -> int:
        return self.quota.key.subject.tenant_id

    def covers(self, now_ms: int) -> bool:
        """Whether this time is in the window."""
        return self.starts_ms <= now_ms and (self.ends_ms is None or now_ms < self.ends_ms)


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


class Succession(NamedTuple):
    """A new window, and the last one of its quota before it."""

    window: WindowRow
    previous: WindowRow


class WindowHold(NamedTuple):
    """What one charge holds in one window."""

    window: WindowRow
    pending: int


@dataclass(slots=True)
class ReadSet:
    """What a batch reads. It is known before the transaction begins, so that locks are taken in one order."""

    callers: dict[int, int] = field(default_factory=dict)
    """The tenant of each user who makes a call."""
    readers: dict[int, int] = field(default_factory=dict)
    """The tenant of each user whose call costs nothing. Windows that count it are locked, the others only shown."""
    billings: dict[int, set[Billing]] = field(default_factory=dict)
    """What the calls of each caller count for."""
    reader_billings: dict[int, set[Billing]] = field(default_factory=dict)
    """The same of each reader."""
    charges: dict[str, int] = field(default_factory=dict)
    """The tenant of each charge."""
    quotas: set[QuotaKey] = field(default_factory=set)
    quotas_to_create: set[QuotaKey] = field(default_factory=set)
    sources: dict[str, int] = field(default_factory=dict)
    """Administrative operations that may have committed already: a tenant that each has entries of."""
    keys: set[KeyName] = field(default_factory=set)
    waiting_jobs: dict[str, int] = field(default_factory=dict)
    """The tenant of each job that is to be started without a charge."""
    is_suspect: bool = False
    """Whether an earlier try did not get a lock, so that this one is not to wait for any."""

    def add_caller(self, caller: Principal) -> None:
        """Read what a call of this caller holds on."""
        self.callers[caller.user_id] = caller.tenant_id
        self.billings.setdefault(caller.user_id, set()).add(billing_of(caller))

    def add_reader(self, caller: Principal) -> None:
        """Read what is shown to this caller for a call that costs nothing."""
        self.readers[caller.user_id] = caller.tenant_id
        self.reader_billings.setdefault(caller.user_id, set()).add(billing_of(caller))

    def quotas_of(self, callers: Mapping[int, Account]) -> Iterator[QuotaRow]:
        """The quotas that apply to the calls of these callers. One may be named several times."""
        return _quotas_of(callers, self.billings)

    def quotas_of_readers(self, readers: Mapping[int, Account]) -> Iterator[QuotaRow]:
        """The quotas that are shown to these readers. One may be named several times."""
        return _quotas_of(readers, self.reader_billings)

    def values(self) -> set[str]:
        """The values of templates that may have windows which the batch needs; among them, none."""
        found = {""} | {key.subject.value for key in self.quotas | self.quotas_to_create}
        for billings in (self.billings, self.reader_billings):
            for user_id, of_user in billings.items():
                found.update(*(billing.values(user_id) for billing in of_user))
        return found

    def overlaps(self, other: "ReadSet") -> bool:
        """Whether both have a charge, a caller, a reader, a quota or an idempotency key in common."""
        return not (
            self.charges.keys().isdisjoint(other.charges)
            and self.callers.keys().isdisjoint(other.callers)
            and self.readers.keys().isdisjoint(other.readers)
            and self.keys.isdisjoint(other.keys)
            and (self.quotas | self.quotas_to_create).isdisjoint(other.quotas)
        )


def _quotas_of(accounts: Mapping[int, Account], billings: Mapping[int, set[Billing]]) -> Iterator[QuotaRow]:
    for user_id, account in accounts.items():
        for billing in billings[user_id]:
            yield from account.quotas_of(billing)


@dataclass(slots=True)
class Page:
    """The rows of one batch, read under their locks, and the changes that its transaction writes."""

    now_ms: int
    accounts: dict[int, Account] = field(default_factory=dict)
    charges: dict[str, ChargeRow] = field(default_factory=dict)
    holds: dict[str, list[WindowHold]] = field(default_factory=dict)
    quotas: dict[QuotaKey, QuotaRow] = field(default_factory=dict)
    keys: dict[KeyName, KeyRow] = field(default_factory=dict)
    current_windows: dict[Slot, WindowRow] = field(default_factory=dict)
    """The window of each quota at `now_ms`."""
    shown_windows: dict[Slot, WindowRow] = field(default_factory=dict)
    """Those of the quotas of `ReadSet.readers` that are not among the current windows. They may not exist yet."""
    waiting_jobs: set[str] = field(default_factory=set)
    """Those of `ReadSet.waiting_jobs` that are pending and have no charge. Their rows are locked."""
    committed_sources: set[str] = field(default_factory=set)
    """The `ReadSet.sources` that have entries, so that the batch that wrote them did commit."""
    locked: ReadSet | None = None
    """What is not on this page, because another session keeps a row of it locked."""
    key_lifetime_ms: int = KEY_LIFETIME_MS
    """How long an idempotency key stands for its call."""
    archived_month: int = 0
    """The last month whose charges are archived, or are being archived, if the batch has old charges; else 0."""
    refuses_calls: bool = False
    """No new hold is admitted: the disk is almost full."""

    new_charges: list[ChargeRow] = field(default_factory=list)
    changed_charges: dict[str, ChargeRow] = field(default_factory=dict)
    changed_windows: dict[int, WindowRow] = field(default_factory=dict)
    new_entries: list[EntryRow] = field(default_factory=list)
    changed_limits: dict[int, QuotaRow] = field(default_factory=dict)
    changed_terms: dict[int, WindowRow] = field(default_factory=dict)
    """Those of the changed windows of which more than the balances has changed."""
    temporary: dict[int, "Temporary"] = field(default_factory=dict)
    """Grants and overrides that end, by the quota's id: of quotas that change, and where one is due."""
    new_temporary: list["TemporaryRow"] = field(default_factory=list)
    successions: list[Succession] = field(default_factory=list)
    """The windows that this batch has created with the one before each, of quotas whose unused rest rolls over."""
    ended_grants: list[int] = field(default_factory=list)
    """The ids of grants that are over, and taken back."""
    changed_keys: dict[KeyName, KeyRow] = field(default_factory=dict)
    changed_jobs: dict[str, JobChange] = field(default_factory=dict)
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

    def mark_terms(self, window: WindowRow) -> None:
        """Have a window updated with the commit, with more than its balances."""
        self.changed_windows[window.id] = self.changed_terms[window.id] = window

    @property
    def locked_windows(self) -> Iterator[WindowRow]:
        """The windows that the batch may change, some of them more than once."""
        yield from self.current_windows.values()
        for holds in self.holds.values():
            for window, _ in holds:
                yield window

    def put_key(self, row: KeyRow) -> None:
        """Have an idempotency key written with the commit, after the charges."""
        self.keys[row.name] = self.changed_keys[row.name] = row

    def put_job(self, change: JobChange) -> None:
        """Have a job updated with the commit."""
        self.changed_jobs[change.id] = change
