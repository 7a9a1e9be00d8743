"""Templates: quotas of each user, API key, conversation or value of a tag, without a row until first use. No I/O.

A template is one quota, and each of its values has windows of its own. A user's, a key's or a tag's own quota of the
same unit and window replaces the template for them.

The limit of a template may change at any time, and then differs from the one of which its windows were opened
(`WindowRow.base`). A window follows it before the next decision about it. So a change locks no windows but one: the
template has windows of its own, of no value, which only keep the entries of its changes.
"""

from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.page import Page, WindowRow
from tollkeeper.quota.rules.subjects import QuotaRow
from tollkeeper.quota.rules.temporary import Temporary


def lags(window: WindowRow) -> bool:
    """Whether the template of a window has changed since the window was opened, or has followed it."""
    quota = window.quota
    return window.base is not None and (window.base != quota.granted or window.report_only != quota.report_only)


def lag(window: WindowRow) -> int:
    """By how much the limit of a window is to change, to follow its template."""
    return window.quota.granted - window.base if window.base is not None else 0


def follow(page: Page, window: WindowRow, temporary: Temporary, source_id: str, month: int) -> None:
    """Have a window follow its template, whose limit and mode are as read under the lock of the window."""
    assert window.base is not None
    more, window.base = temporary.limit - window.base, temporary.limit
    if more:
        page.post(window, EntryKind.LIMIT, source_id, month, granted=more)
    if window.report_only != temporary.report_only:
        window.report_only = temporary.report_only
        kind = EntryKind.REPORT if temporary.report_only else EntryKind.BLOCK
        page.post(window, kind, source_id, month)
    page.mark_terms(window)


def follow_all(page: Page, template: QuotaRow, source_id: str, month: int) -> None:
    """Have the windows of this batch follow their template, which has just changed. Others follow when read."""
    terms = Temporary(template.granted, template.rollover_cap, (), template.report_only)
    for window in page.current_windows.values():
        if window.quota.id == template.id and window.base is not None:
            window.quota.fallback_model = template.fallback_model
            follow(page, window, terms, source_id, month)
