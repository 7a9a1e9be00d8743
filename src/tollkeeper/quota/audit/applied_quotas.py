"""Finds charges that skipped a quota: one that applied when they were reserved, but on which they hold nothing. No I/O.

A quota is as old as its first window, which is opened in the transaction that creates the quota.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tollkeeper.quota.audit.invariants import Fault, Problem
from tollkeeper.quota.rules.models import Basis, EntryKind

YOUNG_MS = 60_000
"""The age up to which a charge may lack a quota: a reserve that began before the quota was committed does not see it.
More than any transaction of the ledger takes.
"""


class QuotasByOwner:
    """The quotas of the users and tenants of a chunk. A row has the quota's columns, and `since_ms`: its first window.

    A quota without a window has never applied to a call.
    """

    def __init__(self, rows: Iterable[Any]) -> None:
        self._of_user: dict[int, list[Any]] = {}
        self._of_tenant: dict[int, list[Any]] = {}
        for row in rows:
            if row.since_ms is None:
                continue
            if row.user_id is not None:
                self._of_user.setdefault(row.user_id, []).append(row)
            else:
                self._of_tenant.setdefault(row.tenant_id, []).append(row)

    def before(self, charge: Any) -> Iterator[Any]:
        """The quotas of a charge's user and tenant that are older than the charge."""
        for quotas in (self._of_user.get(charge.user_id, ()), self._of_tenant.get(charge.tenant_id, ())):
            for quota in quotas:
                if quota.since_ms < charge.created_ms:
                    yield quota


def skipped_quotas(charge: Any, entries: Sequence[Any], quotas: QuotasByOwner) -> list[Any]:
    """The older quotas on which a charge holds nothing in the window of its time. A replay needs no hold.

    `entries` are the charge's, with the columns of their windows.
    """
    if charge.basis == Basis.CACHE:
        return []
    held = {
        entry.quota_id for entry in entries if entry.kind == EntryKind.RESERVE and _covers(entry, charge.created_ms)
    }
    return [quota for quota in quotas.before(charge) if quota.id not in held]


def is_young(quota: Any, charge: Any) -> bool:
    """Whether a quota was created so shortly before a charge that the reserve need not have seen it."""
    return bool(charge.created_ms - quota.since_ms <= YOUNG_MS)


def skipped_quota_problem(charge: Any, quota: Any) -> Problem:
    """The problem of a charge that skipped a quota."""
    owner = "tenant" if quota.user_id is None else "user"
    what = f"it holds nothing on quota {quota.id} ({owner}, {quota.unit}, {quota.period}) in the window of its time"
    return Problem(Fault.SKIPPED_QUOTA, f"charge {charge.id}", what)


def _covers(window: Any, at_ms: int) -> bool:
    starts_ms, ends_ms = window.starts_ms, window.ends_ms
    return starts_ms is not None and starts_ms <= at_ms and (ends_ms is None or at_ms < ends_ms)
