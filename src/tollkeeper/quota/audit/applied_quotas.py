"""Finds charges that skipped a quota: one that applied when they were reserved, but on which they hold nothing. No I/O.

A quota is as old as its first window, which is opened in the transaction that creates the quota. It applies until it is
removed.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import accumulate, chain
from operator import attrgetter

from tollkeeper.quota.audit.facts import (
    NO_WINDOW,
    WITHOUT_NAME,
    ChargeFacts,
    QuotaFacts,
    Values,
    WindowFacts,
    Windows,
    counts_for,
    value_of,
)
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.rules.models import LINKED_SURFACES, Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.rules.subjects import EACH_OF, OF_EACH, SubjectKind
from tollkeeper.quota.rules.windows import Period
from tollkeeper.tags import decode_tags, split_tag

_RESERVE = EntryKind.RESERVE.value
YOUNG_MS = 60_000
"""The age up to which a charge may lack a quota: a reserve that began before the quota was committed does not see it.
More than any transaction of the ledger takes.
"""
_SINCE = attrgetter("since_ms")


class _Quotas:
    """The quotas of one owner. Of the removed ones, of which there can be any number, only those of a time are read."""

    def __init__(self) -> None:
        self._applying: list[QuotaFacts] = []
        self._removed: dict[tuple[str, ...], list[QuotaFacts]] = {}
        self._removed_until: dict[tuple[str, ...], list[int]] = {}
        """Of each name's removed quotas, by their age: when the last of those up to it was removed."""

    def add(self, quota: QuotaFacts) -> None:
        if quota.removed_ms is None:
            self._applying.append(quota)
        else:
            self._removed.setdefault((quota.kind, quota.subject, quota.unit, quota.period), []).append(quota)
            self._removed_until.clear()

    def near(self, at_ms: int) -> Iterable[QuotaFacts]:
        """The quotas that may have applied less than YOUNG_MS before or after a time."""
        return chain(self._applying, self._removed_near(at_ms)) if self._removed else self._applying

    def _removed_near(self, at_ms: int) -> Iterator[QuotaFacts]:
        if not self._removed_until:
            self._sort()
        for name, quotas in self._removed.items():
            until_ms = self._removed_until[name]
            place = bisect_right(quotas, at_ms + YOUNG_MS, key=_SINCE) - 1
            while place >= 0 and until_ms[place] > at_ms - YOUNG_MS:
                yield quotas[place]
                place -= 1

    def _sort(self) -> None:
        for name, quotas in self._removed.items():
            quotas.sort(key=_SINCE)
            self._removed_until[name] = list(accumulate((quota.removed_ms or 0 for quota in quotas), max))


class QuotasByOwner:
    """The quotas of users and tenants. Those of tenants include templates."""

    def __init__(self) -> None:
        self._of_user: dict[int, _Quotas] = {}
        self._of_tenant: dict[int, _Quotas] = {}
        self._of_tag: dict[tuple[int, str], _Quotas] = {}

    def __len__(self) -> int:
        """How many users and tenants are known."""
        return len(self._of_user) + len(self._of_tenant)

    def unknown(self, charges: Iterable[ChargeFacts]) -> tuple[list[int], list[int]]:
        """The users and the tenants of these charges whose quotas are not known."""
        users, tenants = ({getattr(charge, owner) for charge in charges} for owner in ("user_id", "tenant_id"))
        return sorted(users - self._of_user.keys()), sorted(tenants - self._of_tenant.keys())

    def add(self, users: Iterable[int], tenants: Iterable[int], quotas: Iterable[QuotaFacts]) -> None:
        """Note the quotas of these users and tenants."""
        self._of_user.update((user, _Quotas()) for user in users)
        self._of_tenant.update((tenant, _Quotas()) for tenant in tenants)
        for quota in quotas:
            if quota.user_id is not None:
                self._of_user[quota.user_id].add(quota)
            elif quota.kind == SubjectKind.TAG:
                self._of_tag.setdefault((quota.tenant_id, quota.subject), _Quotas()).add(quota)
            else:
                self._of_tenant[quota.tenant_id].add(quota)

    def clear(self) -> None:
        """Forget all quotas."""
        self._of_user.clear()
        self._of_tenant.clear()
        self._of_tag.clear()

    def are_held(self, charge: ChargeFacts, held: Set[tuple[int | None, str | None]]) -> bool:
        """Whether a charge holds on all quotas that may apply to it and are older, by their ids and its values. If so,
        it has skipped none of those in `before`.
        """
        at_ms, tenant_id = charge.created_ms, charge.tenant_id
        owners = [self._of_user.get(charge.user_id), self._of_tenant.get(tenant_id)]
        if charge.tags:
            owners += [self._of_tag.get((tenant_id, tag)) for tag in decode_tags(charge.tags)]
        for owner in filter(None, owners):
            for quota in owner.near(at_ms):
                if quota.since_ms >= at_ms:
                    continue
                if quota.kind in WITHOUT_NAME:
                    value: str | None = ""
                elif counts_for(charge, quota.kind, quota.subject):
                    value = value_of(charge, quota.kind, quota.subject)
                else:
                    continue
                if (quota.id, value) not in held:
                    return False
        return True

    def before(self, charge: ChargeFacts) -> Iterator[QuotaFacts]:
        """The quotas that apply to a charge and are older."""
        at_ms, none = charge.created_ms, _Quotas()
        of_user = list(self._of_user.get(charge.user_id, none).near(at_ms))
        of_tenant = self._of_tenant.get(charge.tenant_id, none).near(at_ms)
        tags = [self._of_tag.get((charge.tenant_id, tag), none) for tag in decode_tags(charge.tags)]
        of_tags = [list(of_tag.near(at_ms)) for of_tag in tags]
        for quota in chain(of_user, of_tenant, *of_tags):
            applies = quota.since_ms < charge.created_ms and not _is_over(quota, charge.created_ms)
            applies = applies and counts_for(charge, quota.kind, quota.subject)
            own = chain(of_user, *of_tags) if quota.kind in OF_EACH else ()
            if applies and not any(_replaces(one, quota, charge) for one in own):
                yield quota


def skipped_quotas(
    charge: ChargeFacts, entries: Sequence[Values], windows: Windows, quotas: QuotasByOwner
) -> list[QuotaFacts]:
    """The older quotas on which a charge holds nothing in the window of its time. A replay needs no hold, and a job
    none per minute or hour, nor of concurrency, until it starts. The second call of a pair uses the slot of the first.
    Of answers from the cache, only requests are counted.
    """
    if charge.basis == Basis.CACHE and not entries:
        return []
    tenant_id = charge.tenant_id
    reserved = [
        windows.get((tenant_id, window_id), NO_WINDOW)
        for _, _, _, window_id, _, kind, *_ in entries
        if kind == _RESERVE
    ]
    held = {(window.quota_id, window.value) for window in reserved if _covers(window, charge.created_ms)}
    if quotas.are_held(charge, held):
        return []
    has_sent_nothing = charge.state == ChargeState.RESERVED or charge.basis == Basis.NONE
    return [
        quota
        for quota in quotas.before(charge)
        if (quota.id, value_of(charge, quota.kind, quota.subject)) not in held
        and not (has_sent_nothing and _is_held_at_dispatch(quota))
        and not (charge.surface in LINKED_SURFACES and quota.unit == Unit.CONCURRENCY)
        and (charge.basis != Basis.CACHE or quota.unit == Unit.REQUESTS)
    ]


def _replaces(own: QuotaFacts, template: QuotaFacts, charge: ChargeFacts) -> bool:
    """Whether a quota of a charge's user, key or tag replaces a template, for a charge that may have seen it."""
    if EACH_OF.get(SubjectKind(own.kind)) != template.kind or not counts_for(charge, own.kind, own.subject):
        return False
    is_of_tag = own.kind == SubjectKind.TAG
    is_same = own.unit == template.unit and own.period == template.period
    is_same = is_same and (not is_of_tag or split_tag(own.subject)[0] == template.subject)
    return bool(is_same and own.since_ms <= charge.created_ms + YOUNG_MS) and not _is_over(
        own, charge.created_ms - YOUNG_MS
    )


def _is_over(quota: QuotaFacts, at_ms: int) -> bool:
    return quota.removed_ms is not None and quota.removed_ms <= at_ms


def is_young(quota: QuotaFacts, charge: ChargeFacts) -> bool:
    """Whether a quota was created so shortly before a charge that the reserve need not have seen it, or removed so
    shortly after its time that the reserve may have seen that.
    """
    return bool(charge.created_ms - quota.since_ms <= YOUNG_MS) or _is_over(quota, charge.created_ms + YOUNG_MS)


def skipped_quota_problem(charge: ChargeFacts, quota: QuotaFacts) -> Problem:
    """The problem of a charge that skipped a quota."""
    described = f"{quota.id} ({quota.kind}, {quota.unit}, {quota.period})"
    what = f"it holds nothing on quota {described} in the window of its time"
    return Problem(Fault.SKIPPED_QUOTA, f"charge {charge.id}", what)


def _is_held_at_dispatch(quota: QuotaFacts) -> bool:
    return Period(quota.period).held_at_dispatch or quota.unit == Unit.CONCURRENCY


def _covers(window: WindowFacts, at_ms: int) -> bool:
    starts_ms, ends_ms = window.starts_ms, window.ends_ms
    return starts_ms is not None and starts_ms <= at_ms and (ends_ms is None or at_ms < ends_ms)
