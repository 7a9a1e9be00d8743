"""The tests of the tests: a ledger with one deliberate mistake does not get past the state machine."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from defect_detection import Defect, is_detected
from ledger_machine import LedgerMachine
from ledger_world import World

from support.factories import FakeClock, make_store
from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaRefusal
from tollkeeper.quota.rules import admission, decide
from tollkeeper.quota.rules import settlement as ends
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.models import Basis, EntryKind
from tollkeeper.quota.rules.operations import ClosedCharge, Expire, Extend, Hold, Release, Replayed, Reserve, Settle
from tollkeeper.quota.rules.page import Page, ReadSet, WindowRow
from tollkeeper.quota.rules.windows import Period, span
from tollkeeper.quota.stores.sqlite.row_cache import RowCache
from tollkeeper.quota.time_sorted_ids import month_of

pytestmark = pytest.mark.exhaustive


def no_compare_and_set(patch: pytest.MonkeyPatch) -> None:
    """Whoever comes second closes the charge again."""

    def close(
        page: Page, charge: ChargeRow, kind: EntryKind, basis: Basis, usage: Usage, error: str | None
    ) -> ClosedCharge:
        charge.closed_ms = None
        return genuine(page, charge, kind, basis, usage, error)

    genuine = ends.close
    patch.setattr(decide, "close", close)


def nothing_for_a_count(patch: pytest.MonkeyPatch) -> None:
    """Where the provider reported no usage, nothing is charged."""

    def settle(page: Page, operation: Settle) -> Any:
        if operation.basis is Basis.COUNTED:
            operation.usage = Usage(0, 0)
        return genuine(page, operation)

    genuine = decide.settle
    patch.setattr(decide, "settle", settle)


def only_what_is_settled_counts(patch: pytest.MonkeyPatch) -> None:
    """A reserve does not look at what calls in flight hold."""

    def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
        pending = {window.id: window.pending for window in page.current_windows.values()}
        for window in page.current_windows.values():
            window.pending = 0
        try:
            return genuine(page, operation)
        finally:
            for window in page.current_windows.values():
                window.pending += pending[window.id]

    genuine = admission.reserve
    patch.setattr(decide, "reserve", reserve)


def a_part_is_enough(patch: pytest.MonkeyPatch) -> None:
    """Where the tenant's quota refuses, the user's own alone is held."""

    def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
        try:
            return genuine(page, operation)
        except QuotaRefusal:
            account = page.accounts[operation.caller.user_id]
            own = tuple(quota for quota in account.quotas if quota.key.subject.user_id is not None)
            page.accounts[operation.caller.user_id] = replace(account, quotas=own)
            return genuine(page, operation)

    genuine = admission.reserve
    patch.setattr(decide, "reserve", reserve)


def a_refusal_keeps_its_hold(patch: pytest.MonkeyPatch) -> None:
    """What was held before the quota that refused is not given back."""

    def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
        try:
            return genuine(page, operation)
        except QuotaRefusal:
            first = page.current_windows[page.accounts[operation.caller.user_id].quotas[0].id]
            page.post(first, EntryKind.RESERVE, operation.charge_id, month_of(operation.charge_id), pending=1)
            raise

    genuine = admission.reserve
    patch.setattr(decide, "reserve", reserve)


def forgiveness_without_end(patch: pytest.MonkeyPatch) -> None:
    """Every unknown outcome is forgiven."""
    patch.setattr(ends, "MAX_FORGIVEN_PERCENT", 10**9)


def a_sequence_that_stands_still(patch: pytest.MonkeyPatch) -> None:
    """A release writes its line, and the window keeps its number."""

    def post(page: Page, window: WindowRow, kind: EntryKind, source_id: str, **amounts: Any) -> None:
        genuine(page, window, kind, source_id, **amounts)
        window.sequence -= kind is EntryKind.RELEASE

    genuine = Page.post
    patch.setattr(Page, "post", post)


def a_balance_without_its_entry(patch: pytest.MonkeyPatch) -> None:
    """A refund moves the balance and writes no line."""

    def post(page: Page, window: WindowRow, kind: EntryKind, source_id: str, **amounts: Any) -> None:
        genuine(page, window, kind, source_id, **amounts)
        if kind is EntryKind.REFUND:
            page.new_entries.pop()
            window.sequence -= 1

    genuine = Page.post
    patch.setattr(Page, "post", post)


def the_late_truth_is_dropped(patch: pytest.MonkeyPatch) -> None:
    """What comes after an expiry changes nothing."""

    def close(
        page: Page, charge: ChargeRow, kind: EntryKind, basis: Basis, usage: Usage, error: str | None
    ) -> ClosedCharge:
        if not charge.open:
            return ends.closed_charge(page, charge)
        return genuine(page, charge, kind, basis, usage, error)

    genuine = ends.close
    patch.setattr(decide, "close", close)


def leases_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """A sweep ends calls that are alive."""

    def expire(page: Page, operation: Expire) -> bool:
        if operation.charge_id in page.charges:
            page.charges[operation.charge_id].lease_ms = 0
        return genuine(page, operation)

    genuine = decide.expire
    patch.setattr(decide, "expire", expire)


def released_whatever_was_sent(patch: pytest.MonkeyPatch) -> None:
    """A lapsed call is given back whole, as if nothing had gone out."""
    patch.setattr(decide, "usage_at_expiry", lambda charge: (Basis.NONE, Usage(0, 0)))


def a_release_that_books(patch: pytest.MonkeyPatch) -> None:
    """A release charges the hold."""

    def release(page: Page, operation: Release) -> Any:
        charge = page.charges.get(operation.charge_id)
        if charge is None:
            return None
        return ends.close(page, charge, EntryKind.RELEASE, Basis.COUNTED, Usage(10**6, 0), None)

    patch.setattr(decide, "release", release)


def a_run_again_is_new(patch: pytest.MonkeyPatch) -> None:
    """After a lost answer to COMMIT, a reserve holds once more."""

    def declare_reads(operation: Reserve, read_set: ReadSet, *, retried: bool) -> None:
        read_set.callers[operation.caller.user_id] = operation.caller.tenant_id
        operation.charge_id += "x" * retried

    patch.setattr(Reserve, "declare_reads", declare_reads)


def memory_of_what_others_changed(patch: pytest.MonkeyPatch) -> None:
    """Rows are remembered although another process has committed since, or although the batch failed."""
    patch.setattr(RowCache, "clear", lambda cache: None)


def months_of_thirty_days(patch: pytest.MonkeyPatch) -> None:
    """A month that does not follow the calendar."""

    def thirty_days(period: Period, now_ms: int) -> tuple[int, int | None]:
        length = 30 * 86_400_000
        starts = now_ms - now_ms % length
        return (starts, starts + length) if period is Period.MONTH else span(period, now_ms)

    patch.setattr("tollkeeper.quota.stores.sqlite.row_cache.span", thirty_days)


def a_refused_extension_keeps_what_failed(patch: pytest.MonkeyPatch) -> None:
    """The failed attempt is released only when there is a next one."""

    def extend(page: Page, operation: Extend) -> Hold | Replayed:
        held = admission.reserve(page, operation)
        genuine(page, operation)
        return held

    genuine = admission.extend
    patch.setattr(decide, "extend", extend)


def a_failed_attempt_is_paid(patch: pytest.MonkeyPatch) -> None:
    """What was sent before the failure is charged."""

    def extend(page: Page, operation: Extend) -> Hold | Replayed:
        failed = page.charges.get(operation.previous)
        if failed is not None and failed.open:
            ends.close(page, failed, EntryKind.SETTLE, Basis.COUNTED, Usage(failed.input_bound, 0), None)
        return admission.reserve(page, operation)

    patch.setattr(decide, "extend", extend)


VARIANTS: list[Defect] = [
    no_compare_and_set,
    nothing_for_a_count,
    only_what_is_settled_counts,
    a_part_is_enough,
    a_refusal_keeps_its_hold,
    forgiveness_without_end,
    a_sequence_that_stands_still,
    a_balance_without_its_entry,
    the_late_truth_is_dropped,
    leases_do_not_count,
    released_whatever_was_sent,
    a_release_that_books,
    a_run_again_is_new,
    a_refused_extension_keeps_what_failed,
    a_failed_attempt_is_paid,
    memory_of_what_others_changed,
    months_of_thirty_days,
]


class ResettingStore:
    """Windows that are over are emptied and used again, as a reset job would."""

    lost_reason: str | None = None
    refuses_calls = False

    def __init__(self, database_url: str, clock: FakeClock) -> None:
        self._path = database_url.removeprefix("sqlite:///")
        self._clock = clock
        self._genuine = make_store(database_url, clock)

    async def run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            over = connection.execute(
                "SELECT windows.id, period FROM windows JOIN quotas ON quotas.id = quota_id WHERE ends_ms <= ?",
                (self._clock.ms,),
            ).fetchall()
            for window_id, period in over:
                renewed = (*span(Period(period), self._clock.ms), window_id)
                connection.execute("UPDATE windows SET starts_ms = ?, ends_ms = ?, settled = 0 WHERE id = ?", renewed)
        await self._genuine.run(read_set, decide)

    async def find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        return await self._genuine.find_lapsed(limit)

    async def delete_old_keys(self, limit: int) -> int:
        return await self._genuine.delete_old_keys(limit)

    async def delete_free_charges(self, min_age_ms: int, limit: int) -> int:
        return await self._genuine.delete_free_charges(min_age_ms, limit)

    async def probe(self) -> None:
        await self._genuine.probe()

    async def close(self) -> None:
        await self._genuine.close()


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    made = World(sqlite_url)
    yield made
    made.close()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_a_defect_in_the_ledger_is_detected(world: World, variant: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    variant(monkeypatch)
    assert is_detected(world, LedgerMachine)


def test_a_reset_in_place_is_detected(sqlite_url: str) -> None:
    world = World(sqlite_url, ResettingStore)
    assert is_detected(world, LedgerMachine)
    world.close()
