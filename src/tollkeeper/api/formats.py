"""How values appear in responses: times, money, and the headers of quotas."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, overload

import msgspec
from pydantic import WithJsonSchema

from tollkeeper.dialects.dropped import Dropped
from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.quota.rules.balances import tightest
from tollkeeper.quota.rules.operations import Balance, Unenforced

Moment = Annotated[
    str,
    WithJsonSchema({"type": "string", "format": "date-time"}),
    msgspec.Meta(extra_json_schema={"format": "date-time"}),
]
"""A time as responses have it: ISO 8601 in UTC. The annotations are for the schemas of pydantic and of msgspec."""


@overload
def iso(epoch_ms: int) -> str: ...
@overload
def iso(epoch_ms: None) -> None: ...
@overload
def iso(epoch_ms: int | None) -> str | None: ...
def iso(epoch_ms: int | None) -> str | None:
    """Milliseconds since the epoch as ISO 8601 in UTC; None for None."""
    return None if epoch_ms is None else _iso(epoch_ms)


@lru_cache(maxsize=1_000)
def _iso(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def iso_datetime(moment: datetime) -> str:
    """A moment as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def usd(micro_usd: int | None) -> str | None:
    """Micro-USD as a decimal string in USD."""
    return None if micro_usd is None else f"{micro_usd // 1_000_000}.{micro_usd % 1_000_000:06d}"


def charge_headers(
    charge_id: str, balances: Sequence[Balance], would_refuse: Sequence[Unenforced] = ()
) -> dict[str, str]:
    """The headers of every metered response: its charge, the tightest quota, and quotas that only report, if they would
    have refused the call.
    """
    headers = {"X-Charge-ID": charge_id}
    if (balance := tightest(balances)) is not None:
        headers |= quota_headers(balance.quota, balance.limit, balance.remaining, balance.resets_ms)
    return headers | would_refuse_header(would_refuse)


def would_refuse_header(would_refuse: Sequence[Unenforced]) -> dict[str, str]:
    """The header that names quotas that only report, and would have refused the call; none if there are none."""
    return {"X-Quota-Would-Refuse": ", ".join([one.quota for one in would_refuse])} if would_refuse else {}


def dropped_header(dropped: Dropped) -> dict[str, str]:
    """The header that names what of the request was not sent to the provider; none if all of it was."""
    return {"X-Tollkeeper-Dropped": ", ".join(dropped.names)} if dropped.names else {}


def fallback_header(fallback_for: str | None) -> dict[str, str]:
    """The header that names the model that was asked for, if a quota had no room for it, and another one answers."""
    return {} if fallback_for is None else {"X-Fallback-For": fallback_for}


def cache_headers(status: CacheStatus) -> dict[str, str]:
    """Whether the answer comes from the cache, and how old it is, in seconds."""
    return {"X-Cache": "hit", "Age": str(status.age_s)} if status.is_hit else {"X-Cache": "miss"}


def quota_headers(name: str, limit: int, remaining: int, resets_ms: int | None) -> dict[str, str]:
    """The headers that describe one quota. `resets_ms` is None for a quota that never resets."""
    headers = {"X-Quota-Name": name, "X-Quota-Limit": str(limit), "X-Quota-Remaining": str(remaining)}
    if resets_at := iso(resets_ms):
        headers["X-Quota-Reset"] = resets_at
    return headers
