"""How quotas stand, for callers: the tightest of them, in headers and as a field."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.windows import Period

NO_TOKEN_QUOTA = Balance("user", Unit.TOKENS, Period.TOTAL, limit=0, used=0, reserved=0, resets_ms=None)
"""How someone stands who has no token quota of their own. The refusal of their calls says the same."""


def tightest(balances: Sequence[Balance]) -> Balance | None:
    """The quota with the lowest remaining ÷ limit."""
    return min(balances, key=lambda balance: balance.remaining / balance.limit if balance.limit else 0, default=None)


def has_token_quota(own: Sequence[Balance]) -> bool:
    """Whether any call can be admitted at all, for a user with these quotas of their own."""
    return any(balance.unit is Unit.TOKENS for balance in own)


def in_front(own: Sequence[Balance], tenants: Sequence[Balance]) -> Balance:
    """What a user can spend: the tightest quota, and nothing without a token quota of their own."""
    tight = tightest([*own, *tenants]) if has_token_quota(own) else None
    return tight or NO_TOKEN_QUOTA


def charge_headers(charge_id: str, balances: Sequence[Balance]) -> dict[str, str]:
    """What every metered reply says of its charge and of the tightest quota."""
    headers = {"X-Charge-ID": charge_id}
    if (tight := tightest(balances)) is not None:
        headers |= quota_headers(tight.quota, tight.limit, tight.remaining, tight.resets_ms)
    return headers


def quota_headers(name: str, limit: int, remaining: int, resets_ms: int | None) -> dict[str, str]:
    """The headers that say how one quota stands."""
    headers = {"X-Quota-Name": name, "X-Quota-Limit": str(limit), "X-Quota-Remaining": str(remaining)}
    if resets_at := iso(resets_ms):
        headers["X-Quota-Reset"] = resets_at
    return headers


@lru_cache(maxsize=1_000)
def iso(epoch_ms: int | None) -> str | None:
    """ISO 8601 in UTC; None for a moment that never comes."""
    if epoch_ms is None:
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
