"""Defects in the removal of quotas: in what it ends, and in what it leaves."""

from typing import Any

import pytest
import scenarios_of_removal as scenarios
from defect_detection import Detectable

from tollkeeper.quota.rules import administer
from tollkeeper.quota.rules.limit_changes import RemoveQuota
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.page import Page
from tollkeeper.quota.stores.rows import APPLIES
from tollkeeper.quota.stores.sqlite import quotas, row_cache


def a_removed_quota_goes_on(patch: pytest.MonkeyPatch) -> None:
    """Calls hold on it as before."""
    patch.setattr(row_cache, "_READ_QUOTAS", row_cache._READ_QUOTAS.replace(APPLIES, "true"))


def a_new_quota_has_what_was_used_of_the_old_one(patch: pytest.MonkeyPatch) -> None:
    """The removed row applies again, with its windows."""
    patch.setattr(quotas, "_FIND_QUOTA", quotas._FIND_QUOTA.replace(APPLIES, "true"))


def what_is_held_ends_with_the_quota(patch: pytest.MonkeyPatch) -> None:
    """The window holds nothing from the removal on, and is settled below that."""
    genuine = administer._post

    def post(page: Page, operation: Any, change: Any, window: Any, kind: EntryKind, granted: int) -> None:
        genuine(page, operation, change, window, kind, granted)
        if kind is EntryKind.REMOVE:
            page.post(window, EntryKind.RELEASE, operation.operation_id, 202402, pending=-window.pending)

    patch.setattr(administer, "_post", post)


def removal_takes_the_limit(patch: pytest.MonkeyPatch) -> None:
    """The limit of the removed quota is 0, so its windows seem to have been spent beyond it."""
    genuine = administer._added

    def added(wanted: Any) -> int:
        is_removal = isinstance(wanted.change, RemoveQuota)
        return -int(wanted.window.granted) if is_removal else genuine(wanted)

    patch.setattr(administer, "_added", added)


DEFECTS: list[Detectable] = [
    Detectable(a_removed_quota_goes_on, scenarios.removal),
    Detectable(a_removed_quota_goes_on, scenarios.removal_of_a_template),
    Detectable(a_new_quota_has_what_was_used_of_the_old_one, scenarios.removal),
    Detectable(what_is_held_ends_with_the_quota, scenarios.removal),
    Detectable(removal_takes_the_limit, scenarios.removal),
]
