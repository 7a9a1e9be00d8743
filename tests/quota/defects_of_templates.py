"""Defects in templates: in who has the quota of one, and in how windows follow it."""

from collections.abc import Iterable
from typing import Any

import pytest
import scenarios_of_templates as scenarios
from defect_detection import Detectable

from tollkeeper.quota.rules import accounts, administer, subjects, tag_rules
from tollkeeper.quota.rules.page import Page, QuotaRow, WindowRow
from tollkeeper.quota.rules.subjects import Billing
from tollkeeper.quota.stores import rows
from tollkeeper.quota.stores.sqlite import row_cache

genuine_not_replaced = subjects.not_replaced


def all_share_a_window(patch: pytest.MonkeyPatch) -> None:
    """All users count in one window."""

    def shared(templates: Iterable[QuotaRow], _value: str, own: Iterable[QuotaRow]) -> Any:
        return genuine_not_replaced(templates, "1", own)

    patch.setattr(accounts, "not_replaced", shared)


def a_template_beside_ones_own(patch: pytest.MonkeyPatch) -> None:
    """It goes on limiting those who have a quota of their own."""

    def beside(templates: Iterable[QuotaRow], value: str, _own: Iterable[QuotaRow]) -> Any:
        return genuine_not_replaced(templates, value, ())

    patch.setattr(accounts, "not_replaced", beside)


def any_quota_of_ones_own_replaces(patch: pytest.MonkeyPatch) -> None:
    """A quota of one's own with another window replaces a template."""

    def replaced(templates: Iterable[QuotaRow], value: str, own: Iterable[QuotaRow]) -> Any:
        return () if [*own] else genuine_not_replaced(templates, value, ())

    patch.setattr(accounts, "not_replaced", replaced)


def windows_keep_their_limit(patch: pytest.MonkeyPatch) -> None:
    """A new limit counts for new windows only."""
    patch.setattr(rows, "lags", lambda _window: False)
    patch.setattr(row_cache, "lags", lambda _window: False)


def a_change_counts_in_the_next_batch(patch: pytest.MonkeyPatch) -> None:
    """A call in the transaction of the change is decided by the limit of before."""
    patch.setattr(administer, "follow_all", lambda *_: None)


def what_is_shown_does_not_follow(patch: pytest.MonkeyPatch) -> None:
    """A call at no cost is shown the limit of before."""
    patch.setattr(row_cache, "lags", lambda _window: False)


def a_window_follows_without_an_entry(patch: pytest.MonkeyPatch) -> None:
    """Its limit is set, and nothing says why."""

    def follow(page: Page, window: WindowRow, temporary: Any, *_: Any) -> None:
        window.granted += temporary.limit - (window.base or 0)
        window.base, window.report_only = temporary.limit, temporary.report_only
        page.mark_terms(window)

    patch.setattr(rows, "follow", follow)


def conversations_have_no_quota(patch: pytest.MonkeyPatch) -> None:
    """What a call counts for has no conversation."""
    patch.setattr(Billing, "conversation", None)


def a_tag_has_its_template_beside_its_own_quota(patch: pytest.MonkeyPatch) -> None:
    """A value with a quota of its own is still limited by the template."""

    def beside(templates: Iterable[QuotaRow], value: str, _own: Iterable[QuotaRow]) -> Any:
        return genuine_not_replaced(templates, value, ())

    patch.setattr(tag_rules, "not_replaced", beside)


DEFECTS: list[Detectable] = [
    Detectable(all_share_a_window, scenarios.template_of_each_user),
    Detectable(a_template_beside_ones_own, scenarios.template_of_each_user),
    Detectable(any_quota_of_ones_own_replaces, scenarios.template_of_each_user),
    Detectable(windows_keep_their_limit, scenarios.template_that_changes),
    Detectable(a_change_counts_in_the_next_batch, scenarios.template_that_changes),
    Detectable(what_is_shown_does_not_follow, scenarios.template_that_changes),
    Detectable(a_window_follows_without_an_entry, scenarios.template_that_changes),
    Detectable(conversations_have_no_quota, scenarios.templates_of_keys_and_conversations),
    Detectable(a_tag_has_its_template_beside_its_own_quota, scenarios.template_of_a_tag),
]
