"""Pages made by hand, on which verbs can be decided without a database."""

from collections.abc import Mapping

from tollkeeper.chat import Price
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.admission import reserve
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Hold, Reserve, Terms
from tollkeeper.quota.rules.page import Account, Page, QuotaKey, QuotaRow, Subject, WindowRow
from tollkeeper.quota.rules.windows import Period, span

NOW_MS = 1_700_000_000_000
LEASE_MS = 60_000
CALLER = Principal(7, 3, Role.MEMBER, 0)
OWN, SHARED = Subject(3, 7), Subject(3)
PRICE = Price(2_500_000, 1_250_000, 10_000_000)


def quota(period: Period, subject: Subject = OWN, unit: Unit = Unit.TOKENS) -> QuotaKey:
    return QuotaKey(subject, unit, period)


def page_of(
    limits: dict[QuotaKey, int], *, active: bool = True, api_keys: Mapping[str, int | None] | None = None
) -> Page:
    """A page on which these quotas apply to the caller, each in an empty window."""
    page = Page(NOW_MS)
    rows = [QuotaRow(number, key, limit) for number, (key, limit) in enumerate(limits.items(), 1)]
    page.accounts[CALLER.user_id] = Account(CALLER.tenant_id, active, 0, tuple(rows), api_keys or {})
    for row in rows:
        page.current_windows[row.id] = WindowRow(row.id, row, *span(row.key.period, NOW_MS), row.granted)
    return page


def window(page: Page, key: QuotaKey) -> WindowRow:
    [found] = [one for one in page.current_windows.values() if one.quota.key == key]
    return found


def balances(page: Page) -> list[tuple[int, int, int]]:
    """Settled, pending and forgiven of each window."""
    return [(one.settled, one.pending, one.forgiven) for one in page.current_windows.values()]


def terms_of(
    input_bound: int = 10,
    output: int = 90,
    *,
    least: int | None = None,
    weight_milli: int = 1_000,
    price: Price | None = None,
) -> Terms:
    meter = Meter(weight_milli, price)
    return Terms("query", "echo", "echo", meter, input_bound, output, output if least is None else least)


def hold(page: Page, charge: str, terms: Terms | None = None, *, dispatch: bool = True) -> Hold:
    held = reserve(page, Reserve(charge, CALLER, terms or terms_of(), LEASE_MS, dispatch))
    assert isinstance(held, Hold)
    return held
