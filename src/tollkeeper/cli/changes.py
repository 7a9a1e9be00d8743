"""Changes of quotas: what was asked for, what it would do, and doing it. One way for the command and for the script."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli.context import CommandContext
from tollkeeper.cli.subjects import Target, only_window
from tollkeeper.cli.values import Action
from tollkeeper.errors import InvalidRequest
from tollkeeper.quota import queries
from tollkeeper.quota.rules.decide import MAX_GRANTED
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance, Grant, SetLimit
from tollkeeper.quota.rules.page import QuotaKey
from tollkeeper.quota.rules.windows import Period


@dataclass(frozen=True, slots=True)
class QuotaChange:
    """A change as asked for. Without a window, it is the one quota that the target has."""

    target: Target
    action: Action
    amount: int
    reason: str
    window: Period | None = None
    unit: Unit = Unit.TOKENS


@dataclass(frozen=True, slots=True)
class Change:
    """A change as it would be made now. `before` and `after` are limits of the current window; None: no quota yet."""

    wish: QuotaChange
    key: QuotaKey
    before: int | None

    @property
    def after(self) -> int:
        if self.wish.action is Action.SET:
            return self.wish.amount
        return (self.before or 0) + self.wish.amount

    @property
    def act(self) -> SetLimit | Grant:
        if self.wish.action is Action.SET:
            return SetLimit(self.key, self.wish.amount, self.wish.reason)
        return Grant(self.key, self.wish.amount, self.wish.reason)


async def plan(session: AsyncSession, wish: QuotaChange, now_ms: int) -> Change:
    """What a wish comes to. Raises InvalidRequest when there is no quota to grant to, or it would grow too large."""
    target = wish.target
    window = wish.window or await only_window(session, target, wish.unit)
    balances = await queries.balances_of(session, [target.subject], now_ms)
    before = next((one.limit for one in balances if (one.unit, one.period) == (wish.unit, window)), None)
    if before is None and wish.action is Action.GRANT:
        raise InvalidRequest(f"{target.label} has no quota for the {window} window to grant to: set a limit first.")
    change = Change(wish, QuotaKey(target.subject, wish.unit, window), before)
    if change.after > MAX_GRANTED:
        raise InvalidRequest(f"{target.label} would have {change.after}; no quota is above {MAX_GRANTED}.")
    return change


async def make(install: CommandContext, changes: Sequence[Change], *, actor: str) -> tuple[Balance, ...]:
    """Make them all in one operation of the ledger, or none. Answers how each quota stands after it.

    Each is an entry with the actor and its own reason. Raises InvalidRequest, LedgerUnavailable.
    """
    acts = tuple(change.act for change in changes)
    async with install.ledger() as ledger:
        return await ledger.administer(acts, actor=actor, reason=changes[0].wish.reason)
