"""Whose quotas there are, what identifies a quota, and the quota as stored."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tollkeeper.principal import Principal
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import UTC_CALENDAR, Calendar, Period


class SubjectKind(StrEnum):
    """What a quota is of."""

    TENANT = "tenant"
    USER = "user"
    KEY = "key"
    """An API key of a user. Its quota limits further: it does not replace one of the user's own."""
    GROUP = "group"
    """A group of a tenant's users. Its quota limits the calls that count for the group."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The owner of a quota: a user or, without `user_id`, a tenant; or what `part` says, with its `name`.

    An API key has its user's `user_id`, and its id as the name. The name of a group is its id, too.
    """

    tenant_id: int
    user_id: int | None = None
    part: SubjectKind | None = None
    name: str = ""

    @property
    def kind(self) -> SubjectKind:
        """What the owner is."""
        return self.part or (SubjectKind.TENANT if self.user_id is None else SubjectKind.USER)


def subject_of(tenant_id: int, user_id: int | None, kind: str, name: str) -> Subject:
    """The owner of a quota, from the columns of its row."""
    part = SubjectKind(kind)
    return Subject(tenant_id, user_id, None if part in (SubjectKind.TENANT, SubjectKind.USER) else part, name)


NAME_SUFFIX = {
    Unit.TOKENS: "",
    Unit.MICRO_USD: "-usd",
    Unit.REQUESTS: "-requests",
    Unit.CONCURRENCY: "-concurrency",
}


class QuotaKey(NamedTuple):
    """Identifies a quota by owner, unit and period. There is at most one for each."""

    subject: Subject
    unit: Unit
    period: Period


@dataclass(slots=True)
class QuotaRow:
    """A quota as stored. Only the limit changes, and what becomes of calls without room and of what is unused."""

    id: int
    key: QuotaKey
    granted: int
    calendar: Calendar = UTC_CALENDAR
    """The tenant's, by which windows are opened."""
    report_only: bool = False
    """Whether its next window refuses no call. The current one has a value of its own, which is read under its lock."""
    fallback_model: str | None = None
    """The model that answers the calls for which it has no room."""
    overrides_end_ms: int | None = None
    """When the last of its overrides ends."""
    rollover_cap: int | None = None
    """How much of what is unused in a window the next one gets, at most."""
    name: str = field(init=False)
    """The name in the API: `user-day`, `tenant-total`, `user-month-usd`, `user-day-requests`, `key-day`."""
    is_own_token_quota: bool = field(init=False)
    """Whether it is a user's and counts tokens. A user without one that refuses calls cannot make any."""

    @property
    def is_held_at_dispatch(self) -> bool:
        """Whether a job holds on it only when it starts."""
        return self.key.period.held_at_dispatch or self.key.unit is Unit.CONCURRENCY

    @property
    def counts_free_calls(self) -> bool:
        """Whether a call counts that is answered without a provider, at no cost."""
        return self.key.unit is Unit.REQUESTS

    def __post_init__(self) -> None:
        kind = self.key.subject.kind
        self.name = f"{kind}-{self.key.period}{NAME_SUFFIX[self.key.unit]}"
        self.is_own_token_quota = self.key.unit is Unit.TOKENS and kind is SubjectKind.USER


class Billing(NamedTuple):
    """What a call counts for besides its user and tenant. It decides which quotas apply, among those of the account."""

    key_id: str | None = None
    group: str | None = None
    """The name of the group; None is the default one."""


def billing_of(caller: Principal) -> Billing:
    """What the calls of a caller count for."""
    return Billing(caller.api_key, caller.group)
