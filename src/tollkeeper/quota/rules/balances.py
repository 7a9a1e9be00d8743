"""How a user's quotas stand, taken together. Pure."""

from collections.abc import Sequence

from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.windows import Period

NO_TOKEN_QUOTA = Balance("user", Unit.TOKENS, Period.TOTAL, limit=0, used=0, reserved=0, resets_ms=None)
"""The balance of a user without a token quota of their own. The refusal of their calls shows the same."""


def tightest(balances: Sequence[Balance]) -> Balance | None:
    """The quota with the lowest remaining ÷ limit."""
    return min(balances, key=lambda balance: balance.remaining / balance.limit if balance.limit else 0, default=None)


def has_token_quota(own: Sequence[Balance]) -> bool:
    """Whether a user with these quotas of their own can spend anything at all."""
    return any(balance.unit is Unit.TOKENS for balance in own)


def spendable(own: Sequence[Balance], tenants: Sequence[Balance]) -> Balance:
    """The tightest quota of user and tenant; one with limit 0 for a user without a token quota of their own."""
    tight = tightest([*own, *tenants]) if has_token_quota(own) else None
    return tight or NO_TOKEN_QUOTA
