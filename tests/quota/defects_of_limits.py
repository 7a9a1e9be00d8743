"""Defects in limits: in what becomes of calls without room, and in limits that change by themselves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import scenarios_of_limits as scenarios
from defect_detection import Detectable

from tollkeeper.quota.rules import administer as administration
from tollkeeper.quota.rules import admission, decide, temporary
from tollkeeper.quota.rules.administer import administer as administer_limits
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.operations import Administer
from tollkeeper.quota.rules.page import Page, QuotaRow, WindowRow
from tollkeeper.quota.rules.room import find_fallback
from tollkeeper.quota.stores import rows
from tollkeeper.quota.stores.rows import new_window
from tollkeeper.quota.stores.sqlite import row_cache
from tollkeeper.quota.stores.sqlite import temporary as sqlite_temporary


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


DEFECTS: list[Detectable] = [
    Detectable(a_quota_that_reports_counts_as_own, scenarios.report_only),
    Detectable(a_switch_to_block_counts_later, scenarios.report_only),
    Detectable(a_mode_without_its_entry, scenarios.report_only),
    Detectable(a_new_window_blocks, scenarios.report_only),
    Detectable(what_reports_is_not_said, scenarios.report_only),
    Detectable(a_fallback_although_there_is_room, scenarios.fallback),
    Detectable(a_quota_that_reports_falls_back, scenarios.fallback),
    Detectable(a_grant_that_stays, scenarios.grants_that_expire),
    Detectable(a_grant_that_is_taken_back_twice, scenarios.grants_that_expire),
    Detectable(an_override_of_one_window, scenarios.overrides),
    Detectable(an_override_without_end, scenarios.overrides),
    Detectable(a_limit_counts_during_an_override, scenarios.overrides),
    Detectable(what_is_due_waits, scenarios.grants_that_expire),
]
