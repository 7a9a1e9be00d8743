"""Defects in windows: in when they begin and end, and in what rolls over from one into the next."""

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import scenarios_of_limits as scenarios
from defect_detection import Detectable

from tollkeeper.quota.rules import rollover as rollovers
from tollkeeper.quota.rules import windows
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.page import Page, WindowRow
from tollkeeper.quota.rules.windows import Calendar, Period, span


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


DEFECTS: list[Detectable] = [
    Detectable(months_of_thirty_days, scenarios.windows_of_a_calendar),
    Detectable(a_short_window_between_calendars, scenarios.change_of_a_calendar),
    Detectable(a_change_of_calendar_at_once, scenarios.change_of_a_calendar),
    Detectable(days_of_utc, scenarios.windows_of_a_calendar),
    Detectable(weeks_from_sunday, scenarios.windows_of_a_calendar),
    Detectable(what_was_spent_rolls_over, scenarios.rollover),
    Detectable(grants_roll_over, scenarios.rollover),
    Detectable(a_rollover_without_its_entry, scenarios.rollover),
]
