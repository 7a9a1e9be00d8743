"""Changes of quotas by an administrator: the request, its effect now, and its application."""

from dataclasses import dataclass
from enum import StrEnum

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.quota import queries
from tollkeeper.quota.rules.limit_changes import SpentRule, require_possible, require_rollover
from tollkeeper.quota.rules.models import Unit, WhenSpent
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period


class Action(StrEnum):
    """Set a limit, add to the limit of the current window, replace the limit for a time, or remove the quota."""

    SET = "set"
    GRANT = "grant"
    OVERRIDE = "override"
    REMOVE = "remove"


_NOUNS = {
    Unit.TOKENS: "token quota",
    Unit.MICRO_USD: "money quota",
    Unit.REQUESTS: "request quota",
    Unit.CONCURRENCY: "concurrency quota",
}


def spent_rule(when_spent: WhenSpent | None, fallback_model: str | None) -> SpentRule | None:
    """What becomes of calls without room, as requested; None to leave it as it is.

    Raises InvalidRequest for a model without the mode that needs it, or the mode without a model.
    """
    if (when_spent is WhenSpent.FALLBACK_MODEL) != (fallback_model is not None):
        raise InvalidRequest("Name a fallback_model together with when_spent: fallback_model, and only then.")
    if when_spent is None:
        return None
    return SpentRule(when_spent is WhenSpent.REPORT_ONLY, fallback_model)


@dataclass(frozen=True, slots=True)
class Target:
    """The user or tenant whose quota changes, and the name to show for them."""

    subject: Subject
    label: str


@dataclass(frozen=True, slots=True)
class QuotaChange:
    """A requested change. Without a window, the target must have exactly one quota in this unit; the window of
    concurrency is `total`.
    """

    target: Target
    action: Action
    amount: int
    reason: str
    window: Period | None = None
    unit: Unit = Unit.TOKENS
    when_spent: SpentRule | None = None
    """Of a limit that is set; None leaves it as it is."""
    from_ms: int | None = None
    """When an override begins; None is now."""
    until_ms: int | None = None
    """When an override, or a grant with an expiry, ends."""
    rollover_cap: int | None = None
    """Of a limit that is set: how much of what is unused the next window gets, at most; None leaves it as it is."""


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A change and its effect now. `before` and `after` are limits of the current window; None if there is no quota.
    A removal leaves the window as it is.

    `base` is the limit of windows to come: that of the current window, without what was granted to it.
    """

    request: QuotaChange
    key: QuotaKey
    before: int | None
    base: int = 0

    @property
    def after(self) -> int:
        """The limit of the current window after the change. What was granted to it stays."""
        if self.request.action is Action.REMOVE:
            return self.before or 0
        more = self.request.amount - (0 if self.request.action is Action.GRANT else self.base)
        return (self.before or 0) + more


async def plan_change(session: AsyncSession, request: QuotaChange, now_ms: int) -> PlannedChange:
    """The effect of a change now. Raises NotFound for a removal of what there is not; InvalidRequest for a grant
    without a quota, or a limit that is too large.
    """
    target = request.target
    window = request.window
    if window is None:
        is_total = request.unit is Unit.CONCURRENCY
        window = Period.TOTAL if is_total else await only_window(session, target, request.unit)
    key = QuotaKey(target.subject, request.unit, window)
    require_possible(key)
    require_rollover(key, request.rollover_cap)
    if request.action is Action.GRANT:
        key = await queries.effective_key(session, key)
    before, base = await queries.limits_of(session, key, now_ms)
    if before is None and request.action is not Action.SET:
        if request.action is Action.REMOVE:
            raise NotFound(
                f"{target.label} has no {_NOUNS[request.unit]} of its own for the {window} window to remove."
            )
        verb = "grant to" if request.action is Action.GRANT else "override"
        raise InvalidRequest(f"{target.label} has no quota for the {window} window to {verb}: set a limit first.")
    if request.until_ms is not None and request.until_ms <= max(now_ms, request.from_ms or 0):
        raise InvalidRequest("The end must be later than the start, and later than now.")
    change = PlannedChange(request, key, before, base)
    if change.after > MAX_GRANTED:
        raise InvalidRequest(f"{target.label} would have {change.after}; no quota is above {MAX_GRANTED}.")
    return change


async def only_window(session: AsyncSession, target: Target, unit: Unit) -> Period:
    """The window of the target's only quota in this unit. Raises InvalidRequest if there is none, or several."""
    periods = [quota.key.period for quota in await queries.quotas_of(session, target.subject) if quota.key.unit is unit]
    if len(periods) == 1:
        return periods[0]
    noun = _NOUNS[unit]
    if not periods:
        raise InvalidRequest(f"{target.label} has no {noun} yet: name the window.")
    raise InvalidRequest(f"{target.label} has more than one {noun} ({', '.join(periods)}): name the window.")
