"""Changes limits: sets them, grants on top of them, overrides them for a time, removes quotas. No I/O."""

from typing import NamedTuple, assert_never

from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.quota.rules.limit_changes import (
    Grant,
    LimitChange,
    Override,
    RemoveQuota,
    SetLimit,
    SpentRule,
    require_for_template,
    require_possible,
    require_rollover,
)
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.operations import Administer, Balance
from tollkeeper.quota.rules.page import Page, QuotaRow, WindowRow
from tollkeeper.quota.rules.settlement import balance_of
from tollkeeper.quota.rules.templates import follow_all
from tollkeeper.quota.rules.temporary import add_grant, add_override
from tollkeeper.quota.rules.windows import MAX_GRANTED
from tollkeeper.quota.time_sorted_ids import month_of


class _Change(NamedTuple):
    """A change, its quota, and the quota's current window."""

    change: LimitChange
    quota: QuotaRow
    window: WindowRow


def administer(page: Page, operation: Administer) -> tuple[Balance, ...]:
    """Change limits, all or none, and once: the operation may be repeated. Returns the balances of the quotas that it
    does not remove. Raises NotFound, InvalidRequest.
    """
    if len({change.key for change in operation.changes}) < len(operation.changes):
        raise InvalidRequest("The same quota is named twice.")
    is_committed = operation.operation_id in page.committed_sources
    changes = []
    for change in operation.changes:
        quota = page.quotas.get(change.key)
        if is_committed and isinstance(change, RemoveQuota):
            continue
        _require_quota(quota, change, is_committed=is_committed)
        assert quota is not None
        changes.append(_Change(change, quota, page.current_windows[quota.slot]))
        if not is_committed:
            _require_range(changes[-1])
    if not is_committed:
        page.committed_sources.add(operation.operation_id)
        for one in changes:
            _apply(page, operation, one)
    return tuple(balance_of(window) for change, _, window in changes if not isinstance(change, RemoveQuota))


def _require_quota(quota: QuotaRow | None, change: LimitChange, *, is_committed: bool) -> None:
    """Raise NotFound for a change of a quota that there is not, or of one that was removed since it was changed."""
    if quota is None or (quota.removed_ms is not None and not isinstance(change, SetLimit)):
        raise NotFound("There is no such quota to change. Set a limit first.")
    if quota.is_new and is_committed:
        raise NotFound("The quota was removed after this change of it.")


def _require_range(wanted: _Change) -> None:
    change, quota, window = wanted
    require_possible(change.key)
    require_for_template(change)
    if isinstance(change, RemoveQuota):
        return
    if isinstance(change, SetLimit):
        require_rollover(change.key, change.rollover_cap)
    base = change.limit if isinstance(change, SetLimit | Override) else quota.granted
    is_possible = 0 <= base <= MAX_GRANTED and 0 <= window.granted + _added(wanted) <= MAX_GRANTED
    if not is_possible or (isinstance(change, Grant) and change.amount < 0):
        raise InvalidRequest(f"A quota is between 0 and {MAX_GRANTED:,}.")


def _added(wanted: _Change) -> int:
    """By how much a change moves the current window, at most. What was granted to it on top of the limit stays."""
    change, quota, window = wanted
    if isinstance(change, Grant):
        return change.amount
    if isinstance(change, RemoveQuota):
        return 0
    if isinstance(change, SetLimit):
        return change.limit - quota.granted if window.override is None else 0
    return change.limit - (quota.granted if window.override is None else window.override)


def _apply(page: Page, operation: Administer, wanted: _Change) -> None:
    change, quota, window = wanted
    operation_id, more = operation.operation_id, _added(wanted)
    match change:
        case SetLimit():
            kind, quota.granted, quota.removed_ms = EntryKind.LIMIT, change.limit, None
            if change.rollover_cap is not None:
                quota.rollover_cap = window.quota.rollover_cap = change.rollover_cap or None
            page.changed_limits[quota.id] = quota
        case RemoveQuota():
            kind, quota.removed_ms = EntryKind.REMOVE, page.now_ms
            page.changed_limits[quota.id] = quota
        case Grant():
            kind = EntryKind.GRANT
            if change.until_ms is not None:
                add_grant(page, window, change.amount, change.until_ms, operation_id)
        case Override():
            kind, from_ms = EntryKind.OVERRIDE, change.from_ms or page.now_ms
            if not add_override(page, window, change.limit, from_ms, change.until_ms, operation_id):
                more = 0
            quota.overrides_end_ms = max(quota.overrides_end_ms or 0, change.until_ms)
            page.changed_limits[quota.id] = quota
        case _:
            assert_never(change)
    _post(page, operation, change, window, kind, more)
    if isinstance(change, SetLimit):
        if change.when_spent is not None:
            _set_rule(page, operation, wanted, change.when_spent)
        follow_all(page, quota, operation.operation_id, month_of(operation.operation_id))


def _set_rule(page: Page, operation: Administer, wanted: _Change, when_spent: SpentRule) -> None:
    """Set what becomes of calls for which there is no room."""
    change, quota, window = wanted
    quota.report_only, quota.fallback_model = when_spent
    window.quota.fallback_model = quota.fallback_model
    if window.report_only != quota.report_only:
        window.report_only = quota.report_only
        page.mark_terms(window)
        _post(page, operation, change, window, EntryKind.REPORT if quota.report_only else EntryKind.BLOCK, 0)


def _post(
    page: Page, operation: Administer, change: LimitChange, window: WindowRow, kind: EntryKind, granted: int
) -> None:
    month, reason = month_of(operation.operation_id), change.reason or operation.reason
    page.post(window, kind, operation.operation_id, month, granted=granted, actor=operation.actor, reason=reason)
