"""How values appear in responses: times, money, and the headers of quotas."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, NamedTuple, overload

import msgspec
from pydantic import WithJsonSchema

from tollkeeper.dialects.dropped import Dropped
from tollkeeper.quota.rules.balances import tightest
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance

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


def charge_headers(charge_id: str, balances: Sequence[Balance]) -> dict[str, str]:
    """The headers of every metered response: its charge and the tightest quota."""
    headers = {"X-Charge-ID": charge_id}
    if (balance := tightest(balances)) is not None:
        headers |= quota_headers(balance.quota, balance.limit, balance.remaining, balance.resets_ms)
    return headers


class LimitHeaders(NamedTuple):
    """The names of the headers in which another API describes a limit in tokens, and how it writes the reset.

    `format_reset` gets the time of the reset and the present time, both in milliseconds since the epoch.
    """

    limit: str
    remaining: str
    reset: str
    format_reset: Callable[[int, int], str]

    @property
    def names(self) -> tuple[str, str, str]:
        return self.limit, self.remaining, self.reset

    def render(self, limit: int, remaining: int, resets_ms: int | None, now_ms: int) -> dict[str, str]:
        """The headers for one quota. `resets_ms` is None for a quota that never resets."""
        headers = {self.limit: str(limit), self.remaining: str(remaining)}
        if resets_ms is not None:
            headers[self.reset] = self.format_reset(resets_ms, now_ms)
        return headers

    def render_tightest(self, balances: Sequence[Balance], now_ms: int) -> dict[str, str]:
        """The headers for the tightest quota in tokens; none if there is none."""
        balance = tightest([balance for balance in balances if balance.unit is Unit.TOKENS])
        return {} if balance is None else self.render(balance.limit, balance.remaining, balance.resets_ms, now_ms)


def dropped_header(dropped: Dropped) -> dict[str, str]:
    """The header that names what of the request was not sent to the provider; none if all of it was."""
    return {"X-Tollkeeper-Dropped": ", ".join(dropped.names)} if dropped.names else {}


def quota_headers(name: str, limit: int, remaining: int, resets_ms: int | None) -> dict[str, str]:
    """The headers that describe one quota. `resets_ms` is None for a quota that never resets."""
    headers = {"X-Quota-Name": name, "X-Quota-Limit": str(limit), "X-Quota-Remaining": str(remaining)}
    if resets_at := iso(resets_ms):
        headers["X-Quota-Reset"] = resets_at
    return headers
