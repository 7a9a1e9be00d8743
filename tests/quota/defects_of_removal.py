"""Defects in the removal of quotas: in what it ends, and in what it leaves."""

import re
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


def _of_all(statement: str) -> str:
    """The statement for all quotas, also removed ones, which the indexes that it names do not have."""
    return re.sub(r"INDEXED BY \w+ ", "", statement.replace(APPLIES, "true"))


def a_removed_quota_goes_on(patch: pytest.MonkeyPatch) -> None:
    """Calls hold on it as before."""
    patch.setattr(row_cache, "_READ_QUOTAS", _of_all(row_cache._READ_QUOTAS))


def a_new_quota_has_what_was_used_of_the_old_one(patch: pytest.MonkeyPatch) -> None:
    """The removed row applies again, with its windows."""
    for name in ("_FIND_QUOTA_OF_USER", "_FIND_QUOTA_OF_TENANT"):
        patch.setattr(quotas, name, _of_all(getattr(quotas, name)))


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
