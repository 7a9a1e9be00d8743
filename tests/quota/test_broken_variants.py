"""The tests of the tests: a ledger with one deliberate mistake does not get past the state machine."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from catching import Break, caught
from ledger_machine import LedgerMachine
from ledger_world import World

from factories import FakeClock, make_store
from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaRefusal
from tollkeeper.quota import closing as ends
from tollkeeper.quota import reserving, verbs
from tollkeeper.quota.models import Basis, Kind
from tollkeeper.quota.operations import Closed, Expire, Extend, Held, Release, Replayed, Reserve, Settle
from tollkeeper.quota.sqlite_memory import Memory
from tollkeeper.quota.store import ChargeRow, Needs, Page, WindowRow
from tollkeeper.quota.windows import Period, span

pytestmark = pytest.mark.exhaustive


def no_compare_and_set(patch: pytest.MonkeyPatch) -> None:
    """Whoever comes second closes the charge again."""

    def close(page: Page, charge: ChargeRow, kind: Kind, basis: Basis, usage: Usage, error: str | None) -> Closed:
        charge.closed_ms = None
        return genuine(page, charge, kind, basis, usage, error)

    genuine = ends.close
    patch.setattr(verbs, "close", close)


def nothing_for_a_count(patch: pytest.MonkeyPatch) -> None:
    """Where the provider reported no usage, nothing is charged."""

    def settle(page: Page, operation: Settle) -> Any:
        if operation.basis is Basis.COUNTED:
            operation.usage = Usage(0, 0)
        return genuine(page, operation)

    genuine = verbs.settle
    patch.setattr(verbs, "settle", settle)


def only_what_is_settled_counts(patch: pytest.MonkeyPatch) -> None:
    """A reserve does not look at what calls in flight hold."""

    def reserve(page: Page, operation: Reserve) -> Held | Replayed:
        pending = {window.id: window.pending for window in page.current.values()}
        for window in page.current.values():
            window.pending = 0
        try:
            return genuine(page, operation)
        finally:
            for window in page.current.values():
                window.pending += pending[window.id]

    genuine = reserving.reserve
    patch.setattr(verbs, "reserve", reserve)


def a_part_is_enough(patch: pytest.MonkeyPatch) -> None:
    """Where the tenant's quota refuses, the user's own alone is held."""

    def reserve(page: Page, operation: Reserve) -> Held | Replayed:
        try:
            return genuine(page, operation)
        except QuotaRefusal:
            account = page.accounts[operation.caller.user_id]
            own = tuple(quota for quota in account.quotas if quota.key.subject.user_id is not None)
            page.accounts[operation.caller.user_id] = replace(account, quotas=own)
            return genuine(page, operation)

    genuine = reserving.reserve
    patch.setattr(verbs, "reserve", reserve)


def a_refusal_keeps_its_hold(patch: pytest.MonkeyPatch) -> None:
    """What was held before the quota that refused is not given back."""

    def reserve(page: Page, operation: Reserve) -> Held | Replayed:
        try:
            return genuine(page, operation)
        except QuotaRefusal:
            first = page.current[page.accounts[operation.caller.user_id].quotas[0].id]
            page.move(first, Kind.RESERVE, operation.charge_id, pending=1)
            raise

    genuine = reserving.reserve
    patch.setattr(verbs, "reserve", reserve)


def forgiveness_without_end(patch: pytest.MonkeyPatch) -> None:
    """Every unknown outcome is forgiven."""
    patch.setattr(ends, "FORGIVEN_PERCENT", 10**9)


def a_sequence_that_stands_still(patch: pytest.MonkeyPatch) -> None:
    """A release writes its line, and the window keeps its number."""

    def move(page: Page, window: WindowRow, kind: Kind, source_id: str, **amounts: Any) -> None:
        genuine(page, window, kind, source_id, **amounts)
        window.sequence -= kind is Kind.RELEASE

    genuine = Page.move
    patch.setattr(Page, "move", move)


def a_balance_without_its_entry(patch: pytest.MonkeyPatch) -> None:
    """A refund moves the balance and writes no line."""

    def move(page: Page, window: WindowRow, kind: Kind, source_id: str, **amounts: Any) -> None:
        genuine(page, window, kind, source_id, **amounts)
        if kind is Kind.REFUND:
            page.entries.pop()
            window.sequence -= 1

    genuine = Page.move
    patch.setattr(Page, "move", move)


def the_late_truth_is_dropped(patch: pytest.MonkeyPatch) -> None:
    """What comes after an expiry changes nothing."""

    def close(page: Page, charge: ChargeRow, kind: Kind, basis: Basis, usage: Usage, error: str | None) -> Closed:
        if not charge.open:
            return ends.closed(page, charge)
        return genuine(page, charge, kind, basis, usage, error)

    genuine = ends.close
    patch.setattr(verbs, "close", close)


def leases_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """A sweep ends calls that are alive."""

    def expire(page: Page, operation: Expire) -> bool:
        if operation.charge_id in page.charges:
            page.charges[operation.charge_id].lease_ms = 0
        return genuine(page, operation)

    genuine = verbs.expire
    patch.setattr(verbs, "expire", expire)


def released_whatever_was_sent(patch: pytest.MonkeyPatch) -> None:
    """A lapsed call is given back whole, as if nothing had gone out."""
    patch.setattr(verbs, "outcome_of_lapse", lambda charge: (Basis.NONE, Usage(0, 0)))


def a_release_that_books(patch: pytest.MonkeyPatch) -> None:
    """A release charges the hold."""

    def release(page: Page, operation: Release) -> Any:
        charge = page.charges.get(operation.charge_id)
        if charge is None:
            return None
        return ends.close(page, charge, Kind.RELEASE, Basis.COUNTED, Usage(10**6, 0), None)

    patch.setattr(verbs, "release", release)


def a_run_again_is_new(patch: pytest.MonkeyPatch) -> None:
    """After a lost answer to COMMIT, a reserve holds once more."""

    def declare(operation: Reserve, needs: Needs, *, again: bool) -> None:
        needs.callers.add(operation.caller.user_id)
        operation.charge_id += "x" * again

    patch.setattr(Reserve, "declare", declare)


def memory_of_what_others_changed(patch: pytest.MonkeyPatch) -> None:
    """Rows are remembered although another process has committed since, or although the batch failed."""
    patch.setattr(Memory, "forget", lambda memory: None)


def months_of_thirty_days(patch: pytest.MonkeyPatch) -> None:
    """A month that does not follow the calendar."""

    def thirty_days(period: Period, now_ms: int) -> tuple[int, int | None]:
        length = 30 * 86_400_000
        starts = now_ms - now_ms % length
        return (starts, starts + length) if period is Period.MONTH else span(period, now_ms)

    patch.setattr("tollkeeper.quota.sqlite_memory.span", thirty_days)


def a_refused_extension_keeps_what_failed(patch: pytest.MonkeyPatch) -> None:
    """The failed attempt is released only when there is a next one."""

    def extend(page: Page, operation: Extend) -> Held | Replayed:
        held = reserving.reserve(page, operation)
        genuine(page, operation)
        return held

    genuine = reserving.extend
    patch.setattr(verbs, "extend", extend)


def a_failed_attempt_is_paid(patch: pytest.MonkeyPatch) -> None:
    """What was sent before the failure is charged."""

    def extend(page: Page, operation: Extend) -> Held | Replayed:
        failed = page.charges.get(operation.previous)
        if failed is not None and failed.open:
            ends.close(page, failed, Kind.SETTLE, Basis.COUNTED, Usage(failed.input_bound, 0), None)
        return reserving.reserve(page, operation)

    patch.setattr(verbs, "extend", extend)


VARIANTS: list[Break] = [
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

    def __init__(self, database_url: str, clock: FakeClock) -> None:
        self._path = database_url.removeprefix("sqlite:///")
        self._clock = clock
        self._genuine = make_store(database_url, clock)

    async def run(self, needs: Needs, decide: Callable[[Page], None]) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            over = connection.execute(
                "SELECT windows.id, period FROM windows JOIN quotas ON quotas.id = quota_id WHERE ends_ms <= ?",
                (self._clock.ms,),
            ).fetchall()
            for window_id, period in over:
                renewed = (*span(Period(period), self._clock.ms), window_id)
                connection.execute("UPDATE windows SET starts_ms = ?, ends_ms = ?, settled = 0 WHERE id = ?", renewed)
        await self._genuine.run(needs, decide)

    async def lapsed(self, most: int) -> list[str]:
        return await self._genuine.lapsed(most)

    async def forget_keys(self, most: int) -> int:
        return await self._genuine.forget_keys(most)

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
def test_a_ledger_with_one_mistake_is_caught(world: World, variant: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    variant(monkeypatch)
    assert caught(world, LedgerMachine)


def test_a_reset_in_place_is_caught(sqlite_url: str) -> None:
    world = World(sqlite_url, ResettingStore)
    assert caught(world, LedgerMachine)
    world.close()
