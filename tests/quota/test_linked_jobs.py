"""A job and its judge: reserved together, dispatched together, and given back together."""

from dataclasses import replace

import pytest
from pages import CALLER, LEASE_MS, SHARED, balances, page_of, quota, terms_of, window

from support.factories import charge_id
from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaExceeded, QuotaHeld, Unauthenticated
from tollkeeper.quota.rules.admission import reserve
from tollkeeper.quota.rules.calls import LinkedCharge, LinkedTerms
from tollkeeper.quota.rules.decide import decide, expire, release, settle
from tollkeeper.quota.rules.dispatch import dispatch, withdraw
from tollkeeper.quota.rules.models import EVALUATION, Basis, Unit
from tollkeeper.quota.rules.operations import Dispatch, Expire, Hold, Release, Reserve, Settle, Withdraw
from tollkeeper.quota.rules.page import Page, QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.time_sorted_ids import linked_id

MINUTE, DAY, MONTH = quota(Period.MINUTE), quota(Period.DAY), quota(Period.MONTH, SHARED)
SLOTS = QuotaKey(Subject(CALLER.tenant_id, CALLER.user_id), Unit.CONCURRENCY, Period.TOTAL)
JOB_LEASE_MS = 86_400_000
A, OTHER, NEXT = map(charge_id, ["a", "other", "next"])
B, B_NEXT = linked_id(A), linked_id(NEXT)
TENANT = CALLER.tenant_id
LINKED = LinkedTerms(terms_of(20, 10)._replace(surface=EVALUATION), 2)
"""With the 90 tokens of the job's output, it holds 210; both hold 310."""


def submitting() -> Reserve:
    return Reserve(
        A, CALLER, terms_of(10, 90), JOB_LEASE_MS, dispatch=False, job_id="job", linked=LinkedCharge(B, LINKED)
    )


def submitted(page: Page) -> Hold:
    held = reserve(page, submitting())
    assert isinstance(held, Hold)
    return held


def starting() -> Dispatch:
    return Dispatch(A, TENANT, LEASE_MS, CALLER, NEXT, "job", is_pair=True)


def states(page: Page) -> dict[str, str]:
    return {charge: row.state for charge, row in page.charges.items()}


def test_both_wait_and_the_start_leaves_the_second_reserved_for_as_long_as_a_call() -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    submitted(page)
    assert (states(page), balances(page)) == ({A: "reserved", B: "reserved"}, [(0, 310, 0)] * 2)
    operation = starting()
    hold = dispatch(page, operation)
    assert (hold.charge_id, hold.linked and hold.linked.charge_id) == (A, B)
    assert (states(page), page.charges[B].lease_ms) == ({A: "dispatched", B: "reserved"}, page.now_ms + LEASE_MS)
    assert dispatch(page, operation) == hold, "it can be repeated"
    settle(page, Settle(A, TENANT, Usage(10, 20), Basis.PROVIDER, linked_id=B))
    assert (states(page)[B], balances(page)) == ("released", [(30, 0, 0)] * 2)


def test_what_is_held_at_dispatch_is_held_for_both_or_the_job_waits() -> None:
    page = page_of({MINUTE: 400, DAY: 1_000, SLOTS: 1})
    submitted(page)
    assert [window(page, key).pending for key in (MINUTE, DAY, SLOTS)] == [0, 310, 0]
    reserve(page, Reserve(OTHER, CALLER, terms_of(10, 90), LEASE_MS))
    with pytest.raises(QuotaHeld) as held:
        dispatch(page, starting())
    assert (held.value.needed, states(page)[A], states(page)[B]) == (310, "reserved", "reserved")
    release(page, Release(OTHER, TENANT))
    operation = starting()
    hold = dispatch(page, operation)
    assert (hold.charge_id, hold.granted_output, hold.linked and hold.linked.charge_id) == (NEXT, 90, B_NEXT)
    assert (page.charges[A].error, page.charges[B].error) == ("replaced", "replaced")
    assert [window(page, key).pending for key in (MINUTE, DAY, SLOTS)] == [310, 310, 1]
    assert (page.charges[B_NEXT].input_bound, page.charges[B_NEXT].surface) == (200, EVALUATION)
    assert dispatch(page, operation) == hold, "an operation that is repeated replaces nothing"
    release(page, Release(NEXT, TENANT, linked_id=B_NEXT))
    assert balances(page) == [(0, 0, 0)] * 3


def test_a_pair_that_never_fits_a_minute_is_refused_when_it_is_submitted() -> None:
    page = page_of({MINUTE: 300, DAY: 1_000})
    [refusal] = decide(page, [submitting()])
    assert isinstance(refusal, QuotaExceeded)
    assert (refusal.quota, refusal.needed, refusal.never_fits, page.charges) == ("user-minute", 310, True, {})


def test_every_end_before_the_start_gives_both_back() -> None:
    page = page_of({DAY: 1_000})
    submitted(page)
    assert withdraw(page, Withdraw(A, TENANT, "cancelled"))
    assert (states(page), balances(page)) == ({A: "released", B: "released"}, [(0, 0, 0)])
    page = page_of({DAY: 1_000})
    submitted(page)
    [refusal] = decide(page, [replace(starting(), caller=replace(CALLER, token_version=1))])
    assert isinstance(refusal, Unauthenticated)
    assert (states(page), balances(page)) == ({A: "released", B: "released"}, [(0, 0, 0)])
    page = page_of({DAY: 1_000})
    submitted(page)
    page.now_ms += JOB_LEASE_MS + 1
    for charge in (B, A):
        expire(page, Expire(charge, TENANT))
    assert (states(page), balances(page)) == ({A: "released", B: "released"}, [(0, 0, 0)])


def test_a_start_whose_caller_is_gone_gives_both_back() -> None:
    for limits in ({DAY: 1_000}, {MINUTE: 400, DAY: 1_000}):
        page = page_of(limits)
        submitted(page)
        operation = starting()
        hold = dispatch(page, operation)
        assert withdraw(page, operation.undo())
        assert page.charges[linked_id(hold.charge_id)].state == "released"
        assert balances(page) == [(0, 0, 0)] * len(limits)
