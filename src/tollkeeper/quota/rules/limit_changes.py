"""What an administrative operation changes: the limit of a quota, what is granted to its current window, or its end."""

from dataclasses import dataclass
from typing import NamedTuple

from tollkeeper.errors import InvalidRequest
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey
from tollkeeper.quota.rules.subjects import OF_EACH
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period


class SpentRule(NamedTuple):
    """What becomes of a call for which a quota has no room. It is refused, unless the quota only reports, or names
    another model to answer it.
    """

    report_only: bool = False
    fallback_model: str | None = None


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Create a quota, or change its limit. The usage of the current window stays, and what was granted to it.

    `reason` replaces the operation's reason. `when_spent` of None leaves that as it is, and so does
    `rollover_cap`: how much of what is unused the next window gets, at most.
    """

    key: QuotaKey
    limit: int
    reason: str | None = None
    when_spent: SpentRule | None = None
    rollover_cap: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Add to the current window of a quota, until `until_ms` if that is not None.

    `reason` replaces the operation's reason.
    """

    key: QuotaKey
    amount: int
    reason: str | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """Replace the limit of a quota from `from_ms` (None is now) until `until_ms`. What was granted is on top of it.

    `reason` replaces the operation's reason.
    """

    key: QuotaKey
    limit: int
    until_ms: int
    from_ms: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RemoveQuota:
    """End a quota: no later call holds on it. Its windows stay, and what they hold is settled on them.

    `reason` replaces the operation's reason.
    """

    key: QuotaKey
    reason: str | None = None


LimitChange = SetLimit | Grant | Override | RemoveQuota


def require_rollover(key: QuotaKey, cap: int | None) -> None:
    """Raise InvalidRequest for a rollover that cannot be: a window without an end has no next one."""
    if cap is not None and cap > 0 and key.period is Period.TOTAL:
        raise InvalidRequest("A quota whose window is total has no next window: nothing can roll over.")
    if cap is not None and not 0 <= cap <= MAX_GRANTED:
        raise InvalidRequest(f"What rolls over is between 0 and {MAX_GRANTED:,}.")


def require_for_template(change: LimitChange) -> None:
    """Raise InvalidRequest for a change that cannot be made to a template: it has no window to grant to, and ends with
    no time. A value of it can only be granted more: its limit is the template's.
    """
    subject = change.key.subject
    if subject.value and isinstance(change, RemoveQuota):
        raise InvalidRequest("Remove the template, or set a limit of their own for those that it is not to limit.")
    if subject.kind in OF_EACH and isinstance(change, Grant) != bool(subject.value):
        raise InvalidRequest("Set the limit of a template. Grant to those that have it, or set a limit of their own.")
    if subject.kind in OF_EACH and isinstance(change, Override):
        raise InvalidRequest("Set the limit of a template: overrides are of users, API keys, groups and tenants.")


def require_possible(key: QuotaKey) -> None:
    """Raise InvalidRequest for a quota that cannot be: concurrency has only the window `total`."""
    if key.unit is Unit.CONCURRENCY and key.period is not Period.TOTAL:
        raise InvalidRequest("A quota of concurrency counts the calls in flight: its window is total.")
