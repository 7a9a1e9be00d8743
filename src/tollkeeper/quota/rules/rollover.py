"""What is unused in a window, and rolls over into the next one, up to a cap. No I/O.

It is an entry of the next window, written when that is created, from the balances of the window before, under its lock:
what becomes of its calls later changes nothing. Grants do not roll over.
"""

from collections.abc import Sequence

from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.page import Page, Succession, WindowRow
from tollkeeper.quota.rules.temporary import NO_TEMPORARY, Temporary, TemporaryRow, override_at
from tollkeeper.quota.rules.windows import MEAN_MS, Period


def rollover(
    period: Period,
    cap: int | None,
    limit: int,
    previous: WindowRow,
    starts_ms: int,
    overrides: Sequence[TemporaryRow] = NO_TEMPORARY,
) -> int:
    """What rolls over from the last window of a quota, whose cap and limit these are, into one that starts now.

    In between, as many windows count as unused as fit by their mean length, each with the lowest limit of that time.
    """
    if cap is None or previous.ends_ms is None:
        return 0
    base = override_at(overrides, previous.ends_ms - 1)
    base = limit if base is None else base
    unused = max(0, base + previous.rolled - previous.settled - previous.pending)
    mean_ms = MEAN_MS[period]
    absent = (2 * (starts_ms - previous.ends_ms) + mean_ms) // (2 * mean_ms)
    if absent > 0:
        meanwhile = [row.amount for row in overrides if row.starts_ms < starts_ms and row.ends_ms > previous.ends_ms]
        unused = min(cap, unused) + absent * min([limit, *meanwhile])
    return min(cap, unused)


def write_rollover(page: Page, one: Succession, temporary: Temporary, source_id: str, month: int) -> None:
    """Grant to a new window what rolls over from the one before."""
    window, previous = one
    overrides = [row for row in temporary.rows if row.window_id is None]
    terms = window.quota.key.period, temporary.rollover_cap, temporary.limit
    window.rolled = rollover(*terms, previous, window.starts_ms, overrides)
    if window.rolled:
        page.post(window, EntryKind.ROLLOVER, source_id, month, granted=window.rolled)
        page.mark_terms(window)
