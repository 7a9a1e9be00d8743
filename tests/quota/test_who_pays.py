"""Who pays: each way in which a call can end, and the truth that may come after it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import CALLER, LEASE_MS, OWN, PRICE, SHARED, balances, hold, page_of, quota, terms_of, window

from support.factories import charge_id
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict
from tollkeeper.quota.rules.decide import expire, refund, release, renew, settle
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.operations import ClosedCharge, Expire, Refund, Release, Renew, Settle
from tollkeeper.quota.rules.page import Page
from tollkeeper.quota.rules.windows import Period

DAY = quota(Period.DAY)
MINUTE = quota(Period.MINUTE)
MONTH = quota(Period.MONTH, SHARED)
MONEY = quota(Period.DAY, OWN, Unit.MICRO_USD)
TENANT = CALLER.tenant_id
A, B, C, UNKNOWN = map(charge_id, ["a", "b", "c", "unknown"])


def end(page: Page, charge: str, basis: Basis, usage: tuple[int, int]) -> ClosedCharge:
    closed = settle(page, Settle(charge, TENANT, Usage(*usage), basis))
    assert isinstance(closed, ClosedCharge)
    return closed


def lose(page: Page, charge: str) -> None:
    """Its process is gone, its lease over."""
    page.now_ms += LEASE_MS + 1
    assert expire(page, Expire(charge, TENANT))


@pytest.mark.parametrize(
    ("basis", "usage", "cost", "forgiven", "overrun"),
    [
        (Basis.PROVIDER, (7, 30), 37, 0, False),
        (Basis.PROVIDER, (0, 0), 0, 0, False),
        (Basis.PROVIDER, (10, 90), 100, 0, False),
        (Basis.PROVIDER, (10, 91), 101, 0, True),
        (Basis.PROVIDER, (10, 10**6), 10**6 + 10, 0, True),
        (Basis.COUNTED, (7, 30), 37, 0, False),
        (Basis.COUNTED, (10, 5_000), 100, 0, False),
        (Basis.UNKNOWN, (10, 0), 10, 90, False),
        (Basis.UNKNOWN, (10, 60), 70, 30, False),
        (Basis.UNKNOWN, (10, 500), 100, 0, False),
    ],
)
def test_what_a_call_costs(basis: Basis, usage: tuple[int, int], cost: int, forgiven: int, overrun: bool) -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    hold(page, A)
    closed = end(page, A, basis, usage)
    assert (closed.basis, closed.cost_tokens, closed.overrun) == (basis, cost, overrun)
    assert (closed.forgiven_tokens, closed.forgiven_micro_usd) == (forgiven, None)
    assert balances(page) == [(cost, 0, forgiven)] * 2
    charge = page.charges[A]
    assert (charge.state, charge.forgiven_tokens, charge.closed_ms) == ("settled", forgiven, page.now_ms)


def test_a_released_call_costs_nothing() -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    hold(page, A)
    closed = release(page, Release(A, TENANT, "provider_unavailable"))
    assert isinstance(closed, ClosedCharge)
    assert (closed.basis, closed.cost_tokens) == (Basis.NONE, 0)
    assert balances(page) == [(0, 0, 0)] * 2
    assert (page.charges[A].state, page.charges[A].error) == ("released", "provider_unavailable")


def test_both_units_are_paid_and_cached_input_has_its_own_price() -> None:
    page = page_of({DAY: 1_000, MONEY: 10_000})
    hold(page, A, terms_of(10, 90, weight_milli=2_000, price=PRICE))
    closed = settle(page, Settle(A, TENANT, Usage(10, 30, 4), Basis.PROVIDER))
    assert isinstance(closed, ClosedCharge)
    assert (closed.cost_tokens, closed.cost_micro_usd) == (80, 320)
    assert balances(page) == [(80, 0, 0), (320, 0, 0)]


def test_the_price_of_the_reserve_is_the_price_of_the_settle() -> None:
    """Whatever the catalog says by then: both are on the charge."""
    page = page_of({DAY: 1_000})
    hold(page, A, terms_of(weight_milli=3_000))
    assert page.charges[A].meter.weight_milli == 3_000
    assert end(page, A, Basis.PROVIDER, (1, 1)).cost_tokens == 6


def test_one_unknown_outcome_is_forgiven_whatever_it_costs() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, terms_of(10, 900))
    assert end(page, A, Basis.UNKNOWN, (10, 0)).cost_tokens == 10
    assert window(page, DAY).forgiven == 900


def test_further_unknown_outcomes_are_forgiven_up_to_5_percent_or_cost_the_hold() -> None:
    page = page_of({DAY: 1_000})
    for number, (output, forgiven) in enumerate([(20, 20), (30, 50), (1, 50), (0, 50)]):
        hold(page, charge_id(f"c{number}"), terms_of(10, output))
        cost = end(page, charge_id(f"c{number}"), Basis.UNKNOWN, (10, 0)).cost_tokens
        assert window(page, DAY).forgiven == forgiven
        assert cost == 10 + (output if output == 1 else 0)


def test_the_shortest_window_of_the_users_own_decides() -> None:
    """Not the longer one, which has plenty; not the tenant's; not the one of money."""
    page = page_of({DAY: 100_000, MINUTE: 1_000, MONTH: 10**6, quota(Period.MINUTE, OWN, Unit.MICRO_USD): 10**6})
    terms = terms_of(10, 51, price=PRICE)
    hold(page, A, terms)
    hold(page, B, terms)
    assert end(page, A, Basis.UNKNOWN, (10, 0)).cost_tokens == 10
    assert end(page, B, Basis.UNKNOWN, (10, 0)).cost_tokens == 61
    assert [one.forgiven for one in page.current_windows.values()] == [51, 51, 51, 510]


def test_expired_calls_are_forgiven_beyond_the_cap() -> None:
    page = page_of({DAY: 1_000})
    for charge in (A, B, C):
        hold(page, charge)
    renew(page, Renew({C: (10, 40)}, {C: TENANT}, LEASE_MS))
    for charge in (A, B, C):
        lose(page, charge)
    assert balances(page) == [(10 + 10 + 50, 0, 90 + 90 + 50)]
    assert {(charge.basis, charge.closed_by) for charge in page.charges.values()} == {("unknown", "expire")}


def test_a_call_that_was_not_dispatched_is_released_when_its_lease_expires() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, dispatch=False)
    lose(page, A)
    assert balances(page) == [(0, 0, 0)]
    assert (page.charges[A].state, page.charges[A].basis) == ("released", "none")


def test_a_lease_is_over_after_its_last_millisecond() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A)
    page.now_ms += LEASE_MS
    assert not expire(page, Expire(A, TENANT))
    page.now_ms += 1
    assert expire(page, Expire(A, TENANT))
    assert not expire(page, Expire(A, TENANT))
    assert not expire(page, Expire(UNKNOWN, TENANT))


def test_a_renewal_never_loosens_a_checkpoint() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A)
    renew(page, Renew({A: (5, 40)}, {A: TENANT}, LEASE_MS))
    renew(page, Renew({A: (7, 20)}, {A: TENANT}, 10))
    charge = page.charges[A]
    assert (charge.checkpoint_input, charge.checkpoint_output) == (5, 40)
    assert charge.lease_ms == page.now_ms + LEASE_MS


@pytest.mark.parametrize(
    ("basis", "usage", "settled", "forgiven", "overrun"),
    [
        (Basis.PROVIDER, (10, 0), 10, 0, False),
        (Basis.PROVIDER, (10, 60), 70, 0, False),
        (Basis.PROVIDER, (10, 90), 100, 0, False),
        (Basis.PROVIDER, (10, 95), 105, 0, True),
        (Basis.PROVIDER, (3, 0), 3, 0, False),
        (Basis.COUNTED, (10, 20), 30, 0, False),
        (Basis.COUNTED, (10, 500), 100, 0, False),
        (Basis.UNKNOWN, (10, 20), 30, 70, False),
        (Basis.UNKNOWN, (3, 0), 3, 90, False),
        (Basis.NONE, (0, 0), 0, 0, False),
    ],
)
def test_late_usage_takes_the_forgiven_part_back_and_the_rest_is_overrun(
    basis: Basis, usage: tuple[int, int], settled: int, forgiven: int, overrun: bool
) -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    hold(page, A)
    lose(page, A)
    for _ in range(2):
        closed = release(page, Release(A, TENANT)) if basis is Basis.NONE else end(page, A, basis, usage)
        assert isinstance(closed, ClosedCharge)
        assert (closed.cost_tokens, closed.overrun, closed.basis) == (settled, overrun, basis)
        assert balances(page) == [(settled, 0, forgiven)] * 2
    assert end(page, A, Basis.PROVIDER, (10, 77)).cost_tokens == settled, "there is only one late truth"
    assert page.charges[A].forgiven_tokens == forgiven


def test_late_usage_of_a_call_that_was_not_dispatched_is_all_overrun() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, dispatch=False)
    lose(page, A)
    closed = end(page, A, Basis.PROVIDER, (10, 20))
    assert (closed.cost_tokens, closed.overrun, page.charges[A].state) == (30, True, "settled")


def test_late_usage_adjusts_money_too() -> None:
    page = page_of({DAY: 1_000, MONEY: 10_000})
    hold(page, A, terms_of(10, 90, price=PRICE))
    lose(page, A)
    assert balances(page) == [(10, 0, 90), (25, 0, 900)]
    end(page, A, Basis.PROVIDER, (10, 40))
    assert balances(page) == [(50, 0, 0), (425, 0, 0)]
    assert page.charges[A].forgiven_micro_usd == 0


def test_late_usage_gives_the_next_unknown_outcome_its_forgiveness_back() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, terms_of(10, 190))
    lose(page, A)
    end(page, A, Basis.PROVIDER, (10, 40))
    hold(page, B, terms_of(50, 150))
    assert end(page, B, Basis.UNKNOWN, (50, 0)).cost_tokens == 50
    assert balances(page) == [(100, 0, 150)]


@settings(deadline=None, derandomize=True, database=None)
@given(
    lost=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    basis=st.sampled_from([Basis.PROVIDER, Basis.COUNTED, Basis.UNKNOWN, Basis.NONE]),
    usage=st.builds(Usage, st.integers(0, 300), st.integers(0, 300), st.integers(0, 50)),
    is_refunded=st.booleans(),
    weight_milli=st.sampled_from([0, 333, 1_000, 2_500]),
)
def test_after_late_usage_of_any_kind_no_balance_is_negative_and_only_the_unknown_is_forgiven(
    lost: tuple[int, int], basis: Basis, usage: Usage, is_refunded: bool, weight_milli: int
) -> None:
    page = page_of({DAY: 10_000, MONEY: 100_000})
    hold(page, A, terms_of(100, 150, weight_milli=weight_milli, price=PRICE))
    renew(page, Renew({A: lost}, {A: TENANT}, LEASE_MS))
    lose(page, A)
    charge = page.charges[A]
    refunded = is_refunded and bool(charge.cost_tokens)
    if refunded:
        refund(page, Refund(A, TENANT, "operator", "goodwill"))
    if basis is Basis.NONE:
        release(page, Release(A, TENANT))
    else:
        settle(page, Settle(A, TENANT, usage, basis))
    assert all(balance >= 0 for each in balances(page) for balance in each)
    assert [one.forgiven for one in page.current_windows.values()] == [
        charge.forgiven_tokens,
        charge.forgiven_micro_usd,
    ]
    if basis is not Basis.UNKNOWN and not refunded:
        assert (charge.forgiven_tokens, charge.forgiven_micro_usd) == (0, 0)
    for unit in Unit:
        above = charge.cost(unit) - charge.held(unit)
        assert above <= 0 or (charge.overrun and not charge.forgiven(unit))


def test_a_charge_ends_once() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A)
    hold(page, B)
    first = end(page, A, Basis.PROVIDER, (7, 30))
    released = release(page, Release(B, TENANT))
    assert end(page, A, Basis.PROVIDER, (9, 90))[:6] == first[:6]
    assert release(page, Release(B, TENANT)) == released
    with pytest.raises(LedgerConflict):
        release(page, Release(A, TENANT))
    with pytest.raises(LedgerConflict):
        end(page, B, Basis.PROVIDER, (7, 30))
    assert balances(page) == [(37, 0, 0)]


def test_a_refunded_charge_stays_refunded_after_late_usage() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A)
    lose(page, A)
    assert refund(page, Refund(A, TENANT, "operator", "goodwill")) == 10
    assert balances(page) == [(0, 0, 90)]
    end(page, A, Basis.PROVIDER, (10, 60))
    assert balances(page) == [(0, 0, 90)]
    charge = page.charges[A]
    assert (charge.adjusted, charge.basis, charge.input_tokens, charge.output_tokens) == (True, "provider", 10, 60)


def test_a_closed_charge_has_the_balances_of_current_windows() -> None:
    page = page_of({MINUTE: 1_000, DAY: 5_000})
    hold(page, A)
    page.now_ms += 60_000
    assert [balance.quota for balance in end(page, A, Basis.PROVIDER, (7, 30)).balances] == ["user-day"]
    page = page_of({MINUTE: 1_000})
    hold(page, A)
    page.now_ms += 60_000
    [balance] = end(page, A, Basis.PROVIDER, (7, 30)).balances
    assert (balance.quota, balance.used) == ("user-minute", 37)
