"""Compares what a provider says was used with the charges of the same time.

The sums of the roll-ups are compared, by the time of the reserves. The provider may count a call that ran across the
end of a time in the next one: such differences cancel out between two neighbouring times.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import bindparam, text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.quota.partition_months import month_after, month_at
from tollkeeper.quota.time_sorted_ids import USAGE_BUCKET_MS
from tollkeeper.tenant_scope import TenantScope
from tollkeeper.usage.buckets import first_id
from tollkeeper.usage.exports import ExportLine

_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
"""The date at the end of the names that providers report for a model: `gpt-4o-mini-2024-07-18`."""
_SUMS = text(
    "SELECT model, CAST(sum(calls) AS bigint), CAST(sum(input_tokens) AS bigint), CAST(sum(output_tokens) AS bigint),"
    " CAST(sum(cached_input_tokens) AS bigint) FROM usage_buckets WHERE tenant_id IN :tenants AND provider = :provider"
    " AND bucket_ms >= :start AND bucket_ms < :end GROUP BY model"
).bindparams(bindparam("tenants", expanding=True))
_CHARGES = text(
    "SELECT id, basis FROM charges WHERE tenant_id = :tenant_id AND month = :month AND id >= :first AND id < :after"
    " AND provider = :provider AND model = :model AND state = 'settled' AND basis <> 'cache'"
    " ORDER BY CASE WHEN basis = 'provider' AND NOT adjusted THEN 1 ELSE 0 END, id LIMIT :most"
)
_TENANTS = text("SELECT id FROM tenants ORDER BY id")
_OWN_KEYS = text("SELECT DISTINCT tenant_id FROM provider_keys WHERE provider = :provider")


class Amounts(NamedTuple):
    """Requests and tokens of one model in one time. None is what an export does not have."""

    requests: int | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int | None

    def differs_from(self, charged: "Amounts") -> bool:
        """Whether any amount that both have is another one."""
        pairs = zip(self, charged, strict=True)
        return any(reported is not None and reported != ours for reported, ours in pairs)


@dataclass(slots=True)
class Difference:
    """A time and a model for which the provider's amounts are not those of the charges. `charge_ids` are the first of
    its charges: those whose usage is not the provider's report come before the others.
    """

    start_ms: int
    end_ms: int
    model: str
    reported: Amounts
    charged: Amounts
    charge_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Reconciliation:
    """What was compared, and what differs. `left_out` are tenants with a key of their own for the provider."""

    compared: int = 0
    differences: list[Difference] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)


async def reconcile(
    session: AsyncSession,
    scope: TenantScope,
    provider: str,
    lines: Iterable[ExportLine],
    models: Mapping[str, str],
    *,
    most_ids: int,
) -> Reconciliation:
    """Compare an export with the charges of a provider. `models` are our names for the export's, where they are not the
    same. In the scope of all tenants, those with a key of their own for the provider are left out: the export is that
    of the operator's key.
    """
    connection = await session.connection()
    found = Reconciliation()
    tenants = [scope.tenant_id] if scope.tenant_id is not None else [*(await connection.execute(_TENANTS)).scalars()]
    if scope.tenant_id is None:
        found.left_out = [*(await connection.execute(_OWN_KEYS, {"provider": provider})).scalars()]
        tenants = [tenant_id for tenant_id in tenants if tenant_id not in found.left_out]
    for (start_ms, end_ms), of_time in sorted(_by_time(lines).items()):
        values = {"tenants": tenants, "provider": provider, "start": start_ms, "end": end_ms}
        rows = (await connection.execute(_SUMS, values)).all() if tenants else []
        charged = {row[0]: Amounts(*row[1:]) for row in rows if row[1]}
        reported = _by_model(of_time, models, charged)
        for model in sorted(reported.keys() | charged.keys()):
            found.compared += 1
            theirs, ours = reported.get(model, Amounts(0, 0, 0, None)), charged.get(model, Amounts(0, 0, 0, 0))
            if theirs.differs_from(ours):
                found.differences.append(Difference(start_ms, end_ms, model, theirs, ours))
    for difference in found.differences:
        difference.charge_ids = await _charges_of(session, tenants, provider, difference, most_ids)
    return found


def _by_time(lines: Iterable[ExportLine]) -> dict[tuple[int, int], list[ExportLine]]:
    """The lines of each time, in whole quarters of an hour: that is how exactly charges are added up."""
    times: dict[tuple[int, int], list[ExportLine]] = {}
    for line in lines:
        start = line.start_ms - line.start_ms % USAGE_BUCKET_MS
        end = max(line.end_ms + -line.end_ms % USAGE_BUCKET_MS, start + USAGE_BUCKET_MS)
        times.setdefault((start, end), []).append(line)
    return times


def _by_model(lines: Iterable[ExportLine], models: Mapping[str, str], charged: Collection[str]) -> dict[str, Amounts]:
    """The amounts of each model, by our names: the one that is given, or the same, or the one without its date."""
    found: dict[str, Amounts] = {}
    for line in lines:
        undated = _SNAPSHOT.sub("", line.model)
        model = models.get(line.model) or (undated if line.model not in charged and undated in charged else line.model)
        before = found.get(model, Amounts(0, 0, 0, 0))
        found[model] = Amounts(
            _plus(before.requests, line.requests),
            before.input_tokens + line.input_tokens,
            before.output_tokens + line.output_tokens,
            _plus(before.cached_tokens, line.cached_tokens),
        )
    return found


def _plus(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


async def _charges_of(
    session: AsyncSession, tenants: Collection[int], provider: str, difference: Difference, most: int
) -> list[str]:
    connection = await session.connection()
    found: list[tuple[bool, str]] = []
    ids: dict[str, Any] = {"first": first_id(difference.start_ms), "after": first_id(difference.end_ms)}
    for tenant_id in tenants:
        month = month_at(difference.start_ms)
        while month <= month_at(difference.end_ms - 1):
            of_month = {"tenant_id": tenant_id, "month": month, "provider": provider, "model": difference.model}
            rows = await connection.execute(_CHARGES, {**of_month, **ids, "most": most})
            found += [(basis == "provider", charge_id) for charge_id, basis in rows]
            month = month_after(month)
    return [charge_id for _, charge_id in sorted(found)[:most]]
