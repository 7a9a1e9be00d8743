"""A charge that was reserved early is dispatched once, by the quotas, the account and the credential of that moment."""

from dataclasses import replace

import pytest
from pages import CALLER, LEASE_MS, PRICE, SHARED, balances, hold, page_of, quota, terms_of, window

from support.factories import charge_id
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict, QuotaExceeded, QuotaHeld, Unauthenticated
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.decide import decide, expire, release, settle
from tollkeeper.quota.rules.dispatch import dispatch, withdraw
from tollkeeper.quota.rules.jobs import JobResult
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import (
    ClosedCharge,
    Dispatch,
    Expire,
    Extend,
    Release,
    Reserve,
    Settle,
    StartJob,
    Withdraw,
)
from tollkeeper.quota.rules.page import Page, QuotaKey, WindowRow
from tollkeeper.quota.rules.windows import Period, span

MINUTE, DAY, MONTH = quota(Period.MINUTE), quota(Period.DAY), quota(Period.MONTH, SHARED)
TENANT, DAY_MS = CALLER.tenant_id, 86_400_000
A, B, NEXT, UNKNOWN = map(charge_id, ["a", "b", "next", "unknown"])


def dispatching(charge: str, caller: Principal = CALLER, successor: str = NEXT) -> Dispatch:
    return Dispatch(charge, TENANT, LEASE_MS, caller, successor, "job")


def pass_time(page: Page, ms: int) -> None:
    """Time passes, and windows that begin meanwhile are opened."""
    page.now_ms += ms
    for quota_id, old in [*page.current_windows.items()]:
        start, end = span(old.quota.key.period, page.now_ms)
        if start != old.starts_ms:
            page.current_windows[quota_id] = WindowRow(old.id + 100, old.quota, start, end, old.quota.granted)


def old_window(page: Page, charge: str, key: QuotaKey) -> WindowRow:
    [found] = [one.window for one in page.holds[charge] if one.window.quota.key == key]
    return found


def test_one_operation_dispatches_a_charge_and_it_can_be_repeated() -> None:
    page = page_of({DAY: 1_000})
    held = hold(page, A, dispatch=False)
    page.now_ms += 5
    first = dispatching(A)
    assert dispatch(page, first) == held
    assert (page.charges[A].state, page.charges[A].lease_ms) == ("dispatched", page.now_ms + LEASE_MS)
    assert page.changed_jobs["job"][2:5] == (A, "processing", page.now_ms)
    assert dispatch(page, first) == held
    for other in (dispatching(A), dispatching(UNKNOWN)):
        with pytest.raises(LedgerConflict):
            dispatch(page, other)
    release(page, Release(A, TENANT))
    with pytest.raises(LedgerConflict):
        dispatch(page, first)


def test_a_caller_whose_access_has_ended_loses_the_hold() -> None:
    for ended in (replace(CALLER, token_version=1), replace(CALLER, api_key="revoked")):
        page = page_of({DAY: 1_000})
        hold(page, A, dispatch=False)
        [refusal] = decide(page, [dispatching(A, ended)])
        assert isinstance(refusal, Unauthenticated)
        assert (page.charges[A].state, balances(page)) == ("released", [(0, 0, 0)])


def test_a_charge_whose_windows_have_ended_is_replaced_at_its_own_price() -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    reserved = hold(page, A, terms_of(10, 90, weight_milli=2_000, price=PRICE), dispatch=False)
    pass_time(page, DAY_MS)
    operation = dispatching(A)
    held = dispatch(page, operation)
    assert (held.charge_id, held.granted_output) == (NEXT, reserved.granted_output)
    assert (page.charges[A].state, page.charges[NEXT].state) == ("released", "dispatched")
    assert page.charges[NEXT].meter == page.charges[A].meter
    assert (old_window(page, A, DAY).pending, window(page, DAY).pending, window(page, MONTH).pending) == (0, 200, 200)
    assert page.changed_jobs["job"][2:4] == (NEXT, "processing")
    assert dispatch(page, operation) == held, "an operation that is repeated replaces nothing"


def test_a_replacement_may_use_what_the_charge_itself_holds() -> None:
    page = page_of({DAY: 100, MONTH: 100})
    hold(page, A, dispatch=False)
    pass_time(page, DAY_MS)
    assert dispatch(page, dispatching(A)).charge_id == NEXT
    assert balances(page) == [(0, 100, 0), (0, 100, 0)]


@pytest.mark.parametrize(("settled", "kind"), [(0, QuotaHeld), (950, QuotaExceeded)])
def test_without_room_in_a_new_window_the_charge_stays_as_it_is(settled: int, kind: type[Exception]) -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    hold(page, A, dispatch=False)
    pass_time(page, DAY_MS)
    if settled:
        window(page, DAY).settled = settled
    else:
        hold(page, B, terms_of(10, 950))
    before = balances(page)
    with pytest.raises(kind):
        dispatch(page, dispatching(A))
    assert (page.charges[A].state, balances(page), page.changed_jobs) == ("reserved", before, {})


def test_another_model_takes_the_place_of_one_that_has_no_room() -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    window(page, MONTH).quota.fallback_model, window(page, DAY).quota.fallback_model = "never named", "cheaper"
    hold(page, A, terms_of(10, 90, weight_milli=2_000), dispatch=False)
    pass_time(page, DAY_MS)
    window(page, DAY).settled = 850
    with pytest.raises(QuotaExceeded) as refusal:
        dispatch(page, dispatching(A))
    assert refusal.value.fallback_model == "cheaper"

    dear = dispatching(A)
    dear.terms = terms_of(10, 141)
    with pytest.raises(QuotaExceeded):
        dispatch(page, dear)
    assert page.charges[A].state == "reserved"
    cheap = dispatching(A)
    cheap.terms = terms_of(10, 500, least=90)
    held = dispatch(page, cheap)
    assert (held.charge_id, held.granted_output) == (NEXT, 140), "by its own terms, with as much as fits"
    assert dispatch(page, cheap) == held, "an operation that is repeated replaces nothing"
    assert (page.charges[A].state, page.charges[NEXT].meter.weight_milli) == ("released", 1_000)
    assert balances(page) == [(850, 150, 0), (0, 150, 0)]


def test_quotas_per_minute_are_held_at_dispatch() -> None:
    page = page_of({MINUTE: 150, DAY: 1_000})
    hold(page, B)
    hold(page, A, dispatch=False)
    assert (window(page, MINUTE).pending, window(page, DAY).pending) == (100, 200)
    with pytest.raises(QuotaHeld):
        dispatch(page, dispatching(A))
    release(page, Release(B, TENANT))
    assert dispatch(page, dispatching(A)).charge_id == NEXT
    assert (window(page, MINUTE).pending, window(page, DAY).pending) == (100, 100)


def test_a_job_that_never_fits_a_minute_is_refused_at_once() -> None:
    page = page_of({MINUTE: 50, DAY: 1_000})
    with pytest.raises(QuotaExceeded) as refusal:
        hold(page, A, dispatch=False)
    assert (refusal.value.quota, refusal.value.never_fits) == ("user-minute", True)


def test_a_user_with_quotas_per_minute_only_holds_on_them_at_once() -> None:
    page = page_of({MINUTE: 150, MONTH: 1_000})
    hold(page, A, dispatch=False)
    assert balances(page) == [(0, 100, 0), (0, 100, 0)]


def test_a_quota_that_is_newer_than_the_reserve_counts() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, dispatch=False)
    newer = page_of({DAY: 1_000, MONTH: 50})
    page.accounts, page.current_windows[2] = newer.accounts, newer.current_windows[2]
    with pytest.raises(QuotaExceeded):
        dispatch(page, dispatching(A))


def test_only_what_was_not_sent_is_withdrawn() -> None:
    page = page_of({DAY: 1_000})
    for charge in (A, B):
        hold(page, charge, dispatch=False)
    assert withdraw(page, Withdraw(A, TENANT, "cancelled"))
    assert withdraw(page, Withdraw(A, TENANT, "cancelled")), "repeated"
    assert not withdraw(page, Withdraw(A, TENANT, "other"))
    operation = dispatching(B)
    dispatch(page, operation)
    assert not withdraw(page, Withdraw(B, TENANT, "cancelled"))
    assert not withdraw(page, Withdraw(UNKNOWN, TENANT, "cancelled"))
    assert withdraw(page, operation.undo()), "a dispatch whose caller is gone"
    assert (balances(page), page.charges[B].error) == ([(0, 0, 0)], "caller_gone")


def test_the_undo_of_a_dispatch_that_has_replaced_the_charge_releases_the_new_one() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, dispatch=False)
    pass_time(page, DAY_MS)
    operation = dispatching(A)
    dispatch(page, operation)
    assert withdraw(page, operation.undo())
    assert (page.charges[NEXT].state, balances(page)) == ("released", [(0, 0, 0)])


def test_a_job_that_was_not_started_in_time_costs_nothing() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, dispatch=False)
    page.now_ms += LEASE_MS + 1
    assert expire(page, Expire(A, TENANT))
    assert (page.charges[A].state, page.charges[A].basis) == ("released", "none")


def test_the_state_of_a_job_changes_with_its_charge() -> None:
    page = page_of({DAY: 1_000})
    decide(page, [Reserve(A, CALLER, terms_of(), LEASE_MS, dispatch=False, job_id="job")])
    assert page.changed_jobs["job"][2:] == (A, "pending", None, None, None)
    dispatch(page, dispatching(A))

    def render(closed: ClosedCharge) -> bytes:
        return f"cost {closed.cost_tokens}".encode()

    settle(page, Settle(A, TENANT, Usage(10, 20), Basis.PROVIDER, job_result=JobResult("job", render)))
    assert page.changed_jobs["job"][2:] == (A, "completed", None, page.now_ms, b"cost 30")


def test_the_next_attempt_of_a_job_is_its_charge_from_then_on() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, dispatch=False)
    dispatch(page, dispatching(A))
    decide(page, [Extend(B, CALLER, terms_of(), LEASE_MS, job_id="job", previous=A, error="provider_error")])
    assert page.changed_jobs["job"][2:4] == (B, "processing")
    assert (page.charges[A].state, page.charges[B].state) == ("released", "dispatched")


def test_a_result_that_cannot_be_rendered_does_not_keep_a_charge_from_being_settled() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A)

    def render(_: ClosedCharge) -> bytes:
        raise ValueError

    settle(page, Settle(A, TENANT, Usage(10, 20), Basis.PROVIDER, job_result=JobResult("job", render)))
    assert (page.charges[A].cost_tokens, page.changed_jobs["job"].status) == (30, "failed")


def starting(charge: str, job_id: str = "line") -> StartJob:
    return StartJob(charge, CALLER, terms_of(10, 90), LEASE_MS, job_id=job_id)


def test_a_job_without_a_charge_is_started_by_one_operation_which_can_be_repeated() -> None:
    page = page_of({MINUTE: 150, DAY: 1_000})
    page.waiting_jobs = {"line"}
    first = starting(A)
    held, refusal = decide(page, [first, starting(B)])
    assert (page.charges[A].state, page.changed_jobs["line"][2:4]) == ("dispatched", (A, "processing"))
    assert isinstance(refusal, LedgerConflict)
    assert decide(page, [first]) == [held]
    assert (window(page, MINUTE).pending, window(page, DAY).pending) == (100, 100)


def test_a_job_that_does_not_wait_is_not_started_and_one_without_room_waits_on() -> None:
    page = page_of({DAY: 150})
    page.waiting_jobs = {"first", "second"}
    results = decide(page, [starting(UNKNOWN, "ended"), starting(A, "first"), starting(B, "second")])
    assert isinstance(results[0], LedgerConflict)
    assert isinstance(results[2], QuotaHeld)
    assert (page.waiting_jobs, balances(page), [*page.changed_jobs]) == ({"second"}, [(0, 100, 0)], ["first"])
