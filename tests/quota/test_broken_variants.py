"""The tests of the tests: a ledger with one deliberate mistake does not get past the state machine."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from defect_detection import Defect, is_detected
from ledger_machine import LedgerMachine
from ledger_world import World

from support.factories import FakeClock, make_store
from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaRefusal
from tollkeeper.quota.rules import administer as administration
from tollkeeper.quota.rules import admission, decide, free_calls, temporary, windows
from tollkeeper.quota.rules import rollover as rollovers
from tollkeeper.quota.rules import settlement as ends
from tollkeeper.quota.rules.administer import administer as administer_limits
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Basis, EntryKind, Unit
from tollkeeper.quota.rules.operations import (
    Administer,
    ClosedCharge,
    Expire,
    Extend,
    Hold,
    Release,
    Replayed,
    Reserve,
    Settle,
)
from tollkeeper.quota.rules.page import Account, Page, QuotaRow, ReadSet, WindowHold, WindowRow
from tollkeeper.quota.rules.room import find_fallback
from tollkeeper.quota.rules.windows import Calendar, Period, span
from tollkeeper.quota.stores import rows
from tollkeeper.quota.stores.rows import new_window
from tollkeeper.quota.stores.sqlite import row_cache
from tollkeeper.quota.stores.sqlite import temporary as sqlite_temporary
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

    def expire(page: Page, operation: Expire) -> ClosedCharge | None:
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

    def thirty_days(period: Period, now_ms: int, calendar: Calendar) -> tuple[int, int | None]:
        length = 30 * 86_400_000
        starts = now_ms - now_ms % length
        return (starts, starts + length) if period is Period.MONTH else span(period, now_ms, calendar)

    patch.setattr(windows, "span", thirty_days)


def a_short_window_between_calendars(patch: pytest.MonkeyPatch) -> None:
    """The window after a change of the calendar ends at its first boundary, so that a change adds a grant."""
    patch.setattr(windows, "_SHORTEST_MS", dict.fromkeys(Period, 1))


def a_change_of_calendar_at_once(patch: pytest.MonkeyPatch) -> None:
    """A window that has begun by the old calendar does not count any more."""

    def covers(window: WindowRow, now_ms: int) -> bool:
        return span(window.quota.key.period, now_ms, window.quota.calendar) == (window.starts_ms, window.ends_ms)

    patch.setattr(WindowRow, "covers", covers)


def days_of_utc(patch: pytest.MonkeyPatch) -> None:
    """The time zone of a tenant does not count."""
    patch.setattr(windows, "load_time_zone", lambda name: ZoneInfo("UTC"))


def weeks_from_sunday(patch: pytest.MonkeyPatch) -> None:
    """A week begins on another day."""

    def shifted(period: Period, now_ms: int, calendar: Calendar) -> tuple[int, int | None]:
        if period is not Period.WEEK:
            return span(period, now_ms, calendar)
        starts, ends = span(period, now_ms + 86_400_000, calendar)
        return starts - 86_400_000, (ends or 0) - 86_400_000

    patch.setattr(windows, "span", shifted)


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


def a_hit_for_whoever_had_an_account(patch: pytest.MonkeyPatch) -> None:
    """A call at no cost does not look at the credential."""
    patch.setattr(free_calls, "valid_account", lambda page, caller: page.accounts[caller.user_id])


def a_released_call_is_a_request(patch: pytest.MonkeyPatch) -> None:
    """A call that the provider refused counts where requests are counted."""

    def costs(charge: ChargeRow, basis: Basis, usage: Usage, *, forgive: bool) -> ends.Costs:
        return genuine(charge, basis, usage, forgive=forgive)._replace(requests=1)

    genuine = ends._costs
    patch.setattr(ends, "_costs", costs)


def a_slot_is_spent(patch: pytest.MonkeyPatch) -> None:
    """The slot of a call that has ended is not free again."""
    genuine = ends.Costs.of
    patch.setattr(ends.Costs, "of", lambda costs, unit: 1 if unit is Unit.CONCURRENCY else genuine(costs, unit))


def a_slot_is_forgiven(patch: pytest.MonkeyPatch) -> None:
    """The slot of a lost call counts as forgiven, as the rest of its tokens does."""
    patch.setattr(ends, "_unspent", lambda charge, unit, costs: charge.held(unit) - costs.of(unit))


def a_waiting_job_has_a_slot(patch: pytest.MonkeyPatch) -> None:
    """A job is in flight from its reserve on."""
    patch.setattr(QuotaRow, "is_held_at_dispatch", property(lambda quota: quota.key.period.held_at_dispatch))


def a_hit_is_no_request(patch: pytest.MonkeyPatch) -> None:
    """An answer from the response cache is not counted."""
    patch.setattr(free_calls, "fit_request", lambda windows, terms, now_ms: [])


def a_hit_needs_no_room(patch: pytest.MonkeyPatch) -> None:
    """An answer from the response cache is counted, also above the limit."""
    patch.setattr(free_calls, "fit_request", lambda windows, terms, now_ms: [WindowHold(one, 1) for one in windows])


def a_quota_that_reports_counts_as_own(patch: pytest.MonkeyPatch) -> None:
    """A user whose only token quota reports can make calls."""
    patch.setattr(WindowRow, "admits_owner", property(lambda window: window.quota.is_own_token_quota))


def a_switch_to_block_counts_later(patch: pytest.MonkeyPatch) -> None:
    """The current window goes on only reporting."""

    def administer(page: Page, operation: Administer) -> Any:
        modes = {id_: window.report_only for id_, window in page.current_windows.items()}
        balances = genuine(page, operation)
        for id_, window in page.current_windows.items():
            window.report_only = modes[id_] or window.report_only
        return balances

    genuine = administer_limits
    patch.setattr(decide, "administer", administer)


def a_mode_without_its_entry(patch: pytest.MonkeyPatch) -> None:
    """A quota only reports from now on, and no entry says so."""

    def post(page: Page, window: WindowRow, kind: EntryKind, *values: Any, **amounts: Any) -> None:
        if kind is not EntryKind.REPORT:
            genuine(page, window, kind, *values, **amounts)

    genuine = Page.post
    patch.setattr(Page, "post", post)


def a_new_window_blocks(patch: pytest.MonkeyPatch) -> None:
    """The window after the one in which a quota was set to report refuses calls."""

    def blocking(quota: QuotaRow, *values: Any) -> WindowRow:
        return new_window(replace(quota, report_only=False), *values)

    patch.setattr(row_cache, "new_window", blocking)


def what_reports_is_not_said(patch: pytest.MonkeyPatch) -> None:
    """A call is admitted, and nothing says which quota would have refused it."""
    patch.setattr(admission, "unenforced", lambda windows, terms, granted_output: ())


def a_quota_of_any_key(patch: pytest.MonkeyPatch) -> None:
    """A call by a key does not hold on the quota of that key."""
    patch.setattr(Account, "quotas_of", lambda account, billing: account.quotas)


def a_key_is_its_user(patch: pytest.MonkeyPatch) -> None:
    """The quota of a key admits calls, as one of the user's own does."""
    genuine = QuotaRow.__post_init__

    def post_init(quota: QuotaRow) -> None:
        genuine(quota)
        quota.is_own_token_quota = quota.key.unit is Unit.TOKENS and quota.key.subject.user_id is not None

    patch.setattr(QuotaRow, "__post_init__", post_init)


def a_group_for_whoever_was_in_it(patch: pytest.MonkeyPatch) -> None:
    """A call for a group is admitted after the membership has ended."""
    patch.setattr(Account, "require_group", lambda account, group: None)


def no_default_group(patch: pytest.MonkeyPatch) -> None:
    """A call that names no group counts for none."""
    patch.setattr(Account, "group_of", lambda account, billing: account.groups.get(billing.group))


def a_fallback_although_there_is_room(patch: pytest.MonkeyPatch) -> None:
    """A quota names its other model whichever quota has refused the call."""

    def find(windows: list[WindowRow], least_output: int, most_output: Any) -> str | None:
        return find_fallback(windows, least_output, lambda unit, room: -1)

    patch.setattr(admission, "find_fallback", find)


def a_quota_that_reports_falls_back(patch: pytest.MonkeyPatch) -> None:
    """A switch to report only leaves the other model in place."""

    def administer(page: Page, operation: Administer) -> Any:
        models = {key: quota.fallback_model for key, quota in page.quotas.items()}
        balances = genuine(page, operation)
        for key, quota in page.quotas.items():
            quota.fallback_model = quota.fallback_model or models[key]
        return balances

    genuine = administer_limits
    patch.setattr(decide, "administer", administer)


def a_grant_that_stays(patch: pytest.MonkeyPatch) -> None:
    """A grant is not taken back at its expiry."""
    patch.setattr(temporary, "expired_grants", lambda rows, window, now_ms: [])


def a_grant_that_is_taken_back_twice(patch: pytest.MonkeyPatch) -> None:
    """The end of a grant is written, and the grant stays."""

    def write(page: Page, *values: Any) -> None:
        genuine(page, *values)
        page.ended_grants.clear()

    genuine = temporary.write_due
    patch.setattr(rows, "write_due", write)


def an_override_of_one_window(patch: pytest.MonkeyPatch) -> None:
    """The next window opens with the quota's limit."""
    patch.setattr(row_cache, "is_overridden", lambda quota, now_ms: False)


def an_override_without_end(patch: pytest.MonkeyPatch) -> None:
    """What has begun goes on."""
    patch.setattr(temporary, "next_due", lambda rows, window, after_ms: None)
    patch.setattr(temporary, "_fall_due", lambda page, window, at_ms: page.mark_terms(window))


def a_limit_counts_during_an_override(patch: pytest.MonkeyPatch) -> None:
    """Setting the limit moves a window whose limit is another one at this time."""

    def added(wanted: Any) -> int:
        change, quota, _ = wanted
        return int(change.limit - quota.granted) if isinstance(change, SetLimit) else genuine(wanted)

    genuine: Callable[[Any], int] = administration._added
    patch.setattr(administration, "_added", added)


def what_is_due_waits(patch: pytest.MonkeyPatch) -> None:
    """What is due is written after the decision."""
    patch.setattr(sqlite_temporary, "due_windows", lambda page: {})


def what_was_spent_rolls_over(patch: pytest.MonkeyPatch) -> None:
    """The next window gets the limit of the one before, whatever was used of it."""

    def rollover(period: Period, cap: int | None, limit: int, previous: WindowRow, *values: Any) -> int:
        return genuine(period, cap, limit, replace(previous, settled=0, pending=0), *values)

    genuine = rollovers.rollover
    patch.setattr(rollovers, "rollover", rollover)


def grants_roll_over(patch: pytest.MonkeyPatch) -> None:
    """What was granted on top of a limit is among what rolls over."""

    def rollover(period: Period, cap: int | None, limit: int, previous: WindowRow, *values: Any) -> int:
        return genuine(period, cap, previous.granted - previous.rolled, previous, *values)

    genuine = rollovers.rollover
    patch.setattr(rollovers, "rollover", rollover)


def a_rollover_without_its_entry(patch: pytest.MonkeyPatch) -> None:
    """A window is opened with more than its limit."""

    def post(page: Page, window: WindowRow, kind: EntryKind, *values: Any, **amounts: Any) -> None:
        if kind is EntryKind.ROLLOVER:
            window.granted += amounts["granted"]
            page.changed_windows[window.id] = window
        else:
            genuine(page, window, kind, *values, **amounts)

    genuine = Page.post
    patch.setattr(Page, "post", post)


VARIANTS: list[Defect] = [
    a_group_for_whoever_was_in_it,
    no_default_group,
    a_quota_of_any_key,
    a_key_is_its_user,
    what_was_spent_rolls_over,
    grants_roll_over,
    a_rollover_without_its_entry,
    a_grant_that_stays,
    a_grant_that_is_taken_back_twice,
    an_override_of_one_window,
    an_override_without_end,
    a_limit_counts_during_an_override,
    what_is_due_waits,
    a_fallback_although_there_is_room,
    a_quota_that_reports_falls_back,
    a_quota_that_reports_counts_as_own,
    a_switch_to_block_counts_later,
    a_mode_without_its_entry,
    a_new_window_blocks,
    what_reports_is_not_said,
    a_released_call_is_a_request,
    a_slot_is_spent,
    a_slot_is_forgiven,
    a_waiting_job_has_a_slot,
    a_hit_is_no_request,
    a_hit_needs_no_room,
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
    a_short_window_between_calendars,
    a_change_of_calendar_at_once,
    days_of_utc,
    weeks_from_sunday,
    a_hit_for_whoever_had_an_account,
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


SLOW = {a_short_window_between_calendars, days_of_utc, a_waiting_job_has_a_slot, forgiveness_without_end}
"""Those whose detection takes many examples; only in `make prove`."""


@pytest.mark.parametrize(
    "variant",
    [pytest.param(one, id=one.__name__, marks=[pytest.mark.prove_only] * (one in SLOW)) for one in VARIANTS],
)
def test_a_defect_in_the_ledger_is_detected(world: World, variant: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    variant(monkeypatch)
    assert is_detected(world, LedgerMachine)


def test_a_reset_in_place_is_detected(sqlite_url: str) -> None:
    world = World(sqlite_url, ResettingStore)
    assert is_detected(world, LedgerMachine)
    world.close()
