"""Changes of quotas by an administrator: the request, its effect now, and its application."""

from dataclasses import dataclass
from enum import StrEnum

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import InvalidRequest
from tollkeeper.quota import queries
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period


class Action(StrEnum):
    """Set a limit, or add to the limit of the current window."""

    SET = "set"
    GRANT = "grant"


@dataclass(frozen=True, slots=True)
class Target:
    """The user or tenant whose quota changes, and the name to show for them."""

    subject: Subject
    label: str


@dataclass(frozen=True, slots=True)
class QuotaChange:
    """A requested change. Without a window, the target must have exactly one quota in this unit."""

    target: Target
    action: Action
    amount: int
    reason: str
    window: Period | None = None
    unit: Unit = Unit.TOKENS


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A change and its effect now. `before` and `after` are limits of the current window; None if there is no quota.

    `base` is the limit of windows to come: that of the current window, without what was granted to it.
    """

    request: QuotaChange
    key: QuotaKey
    before: int | None
    base: int = 0

    @property
    def after(self) -> int:
        """The limit of the current window after the change. What was granted to it stays."""
        more = self.request.amount - (self.base if self.request.action is Action.SET else 0)
        return (self.before or 0) + more


async def plan_change(session: AsyncSession, request: QuotaChange, now_ms: int) -> PlannedChange:
    """The effect of a change now. Raises InvalidRequest for a grant without a quota, or a limit that is too large."""
    target = request.target
    window = request.window or await only_window(session, target, request.unit)
    key = QuotaKey(target.subject, request.unit, window)
    before, base = await queries.limits_of(session, key, now_ms)
    if before is None and request.action is Action.GRANT:
        raise InvalidRequest(f"{target.label} has no quota for the {window} window to grant to: set a limit first.")
    change = PlannedChange(request, key, before, base)
    if change.after > MAX_GRANTED:
        raise InvalidRequest(f"{target.label} would have {change.after}; no quota is above {MAX_GRANTED}.")
    return change


async def only_window(session: AsyncSession, target: Target, unit: Unit) -> Period:
    """The window of the target's only quota in this unit. Raises InvalidRequest if there is none, or several."""
    periods = [quota.key.period for quota in await queries.quotas_of(session, target.subject) if quota.key.unit is unit]
    if len(periods) == 1:
        return periods[0]
    noun = "token quota" if unit is Unit.TOKENS else "money quota"
    if not periods:
        raise InvalidRequest(f"{target.label} has no {noun} yet: name the window.")
    raise InvalidRequest(f"{target.label} has more than one {noun} ({', '.join(periods)}): name the window.")
