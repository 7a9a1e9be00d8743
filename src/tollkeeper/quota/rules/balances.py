"""Combines the balances of a user's quotas. No I/O."""

from collections.abc import Sequence

from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.windows import Period

NO_TOKEN_QUOTA = Balance("user", Unit.TOKENS, Period.TOTAL, limit=0, used=0, reserved=0, resets_ms=None)
"""Stands for the missing token quota of a user who has none. The refusal of their calls shows the same values."""


def tightest(balances: Sequence[Balance]) -> Balance | None:
    """The balance with the lowest ratio of `remaining` to `limit`; None if there are no balances.

    Concurrency is not among them: it is not spent, and the call that it is shown to holds a part of it itself. Nor are
    quotas that only report.
    """
    spent = [balance for balance in balances if balance.unit is not Unit.CONCURRENCY and not balance.report_only]
    return min(spent, key=lambda balance: balance.remaining / balance.limit if balance.limit else 0, default=None)


def has_token_quota(own: Sequence[Balance]) -> bool:
    """Whether one of these counts tokens, and refuses calls. A user without such a quota of their own makes no call."""
    return any(balance.unit is Unit.TOKENS and not balance.report_only for balance in own)


def spendable(own: Sequence[Balance], tenants: Sequence[Balance]) -> Balance:
    """The tightest balance of user and tenant; NO_TOKEN_QUOTA for a user without a token quota of their own."""
    tight = tightest([*own, *tenants]) if has_token_quota(own) else None
    return tight or NO_TOKEN_QUOTA
