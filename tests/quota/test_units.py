"""Quotas of requests and of concurrency, decided on pages by hand: what each verb moves in them."""

import pytest
from pages import CALLER, LEASE_MS, OWN, SHARED, balances, hold, page_of, quota, terms_of

from support.factories import charge_id
from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest, QuotaExceeded, QuotaHeld
from tollkeeper.quota.rules.administer import administer
from tollkeeper.quota.rules.balances import tightest
from tollkeeper.quota.rules.decide import expire, refund, release, settle
from tollkeeper.quota.rules.dispatch import dispatch
from tollkeeper.quota.rules.limit_changes import Grant, SetLimit
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.operations import Administer, Dispatch, Expire, Hold, Refund, Release, Settle
from tollkeeper.quota.rules.page import Page
from tollkeeper.quota.rules.windows import Period

TOKENS = quota(Period.DAY)
REQUESTS = quota(Period.DAY, SHARED, Unit.REQUESTS)
SLOTS = quota(Period.TOTAL, OWN, Unit.CONCURRENCY)
A, B = charge_id("a"), charge_id("b")


def page_with(requests: int = 10, slots: int = 10) -> Page:
    return page_of({TOKENS: 10_000, REQUESTS: requests, SLOTS: slots})


def in_calls(page: Page) -> list[tuple[int, int, int]]:
    """Settled, pending and forgiven of requests and of concurrency."""
    return balances(page)[1:]


def test_a_call_holds_one_of_each_and_its_end_costs_a_request_and_no_slot() -> None:
    page = page_with()
    hold(page, A)
    assert in_calls(page) == [(0, 1, 0), (0, 1, 0)]
    settle(page, Settle(A, 3, Usage(1, 1), Basis.PROVIDER))
    assert in_calls(page) == [(1, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize("basis", [Basis.COUNTED, Basis.UNKNOWN])
def test_a_call_of_any_outcome_but_none_counts_whole(basis: Basis) -> None:
    page = page_with()
    hold(page, A)
    settle(page, Settle(A, 3, Usage(1, 1), basis))
    assert in_calls(page) == [(1, 0, 0), (0, 0, 0)]


def test_a_release_gives_both_back() -> None:
    page = page_with()
    hold(page, A)
    release(page, Release(A, 3))
    assert in_calls(page) == [(0, 0, 0), (0, 0, 0)]


def test_the_slot_of_a_lost_process_is_free_with_its_lease_and_nothing_of_it_is_forgiven() -> None:
    page = page_with(slots=1)
    hold(page, A)
    with pytest.raises(QuotaHeld):
        hold(page, B)
    page.now_ms += LEASE_MS + 1
    expire(page, Expire(A, 3))
    assert in_calls(page) == [(1, 0, 0), (0, 0, 0)]
    hold(page, B)


def test_the_late_truth_moves_requests_both_ways() -> None:
    page = page_with()
    hold(page, A)
    hold(page, B, dispatch=False)
    page.now_ms += LEASE_MS + 1
    expire(page, Expire(A, 3))
    expire(page, Expire(B, 3))
    assert in_calls(page)[0] == (1, 0, 0)
    release(page, Release(A, 3))
    assert in_calls(page)[0] == (0, 0, 0)
    settle(page, Settle(B, 3, Usage(1, 1), Basis.PROVIDER))
    assert in_calls(page)[0] == (1, 0, 0)
    assert page.charges[B].overrun


def test_a_refund_gives_the_request_back_and_a_later_truth_does_not_take_it_again() -> None:
    page = page_with()
    hold(page, A)
    page.now_ms += LEASE_MS + 1
    expire(page, Expire(A, 3))
    refund(page, Refund(A, 3, "operator", "test"))
    assert in_calls(page) == [(0, 0, 0), (0, 0, 0)]
    release(page, Release(A, 3))
    assert in_calls(page) == [(0, 0, 0), (0, 0, 0)]
    assert page.charges[A].cost(Unit.REQUESTS) == 1


def test_without_a_request_left_a_call_is_refused_until_the_window_ends() -> None:
    page = page_with(requests=1)
    hold(page, A)
    settle(page, Settle(A, 3, Usage(1, 1), Basis.PROVIDER))
    with pytest.raises(QuotaExceeded) as refusal:
        hold(page, B)
    assert (refusal.value.quota, refusal.value.unit, refusal.value.needed) == ("tenant-day-requests", "requests", 1)
    assert refusal.value.retry_after_s is not None
    assert refusal.value.retry_after_s > 1


def test_a_full_concurrency_is_held_and_one_of_zero_is_exceeded() -> None:
    page = page_with(slots=1)
    hold(page, A)
    with pytest.raises(QuotaHeld) as refusal:
        hold(page, B)
    assert (refusal.value.quota, refusal.value.retry_after_s) == ("user-total-concurrency", 1)
    with pytest.raises(QuotaExceeded):
        hold(page_with(slots=0), A)
    with pytest.raises(QuotaExceeded):
        hold(page_with(slots=0), A, dispatch=False)


@pytest.mark.parametrize("period", [Period.DAY, Period.MINUTE])
def test_a_job_has_a_slot_from_its_start_on(period: Period) -> None:
    """Also where it holds on a minute before it starts, because the user has no longer window."""
    page = page_of({quota(period): 10_000, SLOTS: 1})
    hold(page, A)
    hold(page, B, dispatch=False)
    assert balances(page)[1] == (0, 1, 0)
    start = Dispatch(B, 3, LEASE_MS, CALLER, charge_id("c"))
    with pytest.raises(QuotaHeld):
        dispatch(page, start)
    release(page, Release(A, 3))
    assert isinstance(dispatch(page, start), Hold)
    assert balances(page)[1] == (0, 1, 0)


def test_concurrency_is_never_the_tightest_quota() -> None:
    page = page_with(slots=1)
    held = hold(page, A, terms_of(10, 10))
    balance = tightest(held.balances)
    assert balance is not None
    assert balance.unit is not Unit.CONCURRENCY


@pytest.mark.parametrize("change", [SetLimit, Grant])
def test_concurrency_has_no_window_but_total(change: type[SetLimit] | type[Grant]) -> None:
    key = quota(Period.DAY, OWN, Unit.CONCURRENCY)
    page = page_of({key: 0})
    page.quotas[key] = page.accounts[CALLER.user_id].quotas[0]
    with pytest.raises(InvalidRequest, match="total"):
        administer(page, Administer("adm_x", (change(key, 5),), "operator", "test"))
