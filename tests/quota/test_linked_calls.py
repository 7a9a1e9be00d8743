"""Two charges of one request: admitted together or not at all, and each closed once."""

from collections.abc import AsyncIterator

import pytest
from pages import CALLER, LEASE_MS, PRICE, SHARED, balances, page_of, quota, terms_of, window
from sqlmodel import col, select
from verified_ledger import TERMS, VerifiedLedger, open_verified

from support.factories import charge_id, make_store, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict, QuotaExceeded, QuotaHeld
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.admission import reserve
from tollkeeper.quota.rules.calls import LinkedCharge, LinkedTerms, Terms
from tollkeeper.quota.rules.decide import decide, expire, release, settle
from tollkeeper.quota.rules.dispatch import dispatch
from tollkeeper.quota.rules.linked import most_output
from tollkeeper.quota.rules.models import EVALUATION, Basis, Charge, Unit
from tollkeeper.quota.rules.operations import (
    Dispatch,
    Expire,
    Hold,
    Release,
    Reserve,
    Settle,
)
from tollkeeper.quota.rules.page import Page, QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period

DAY, MONTH = quota(Period.DAY), quota(Period.MONTH, SHARED)
MONEY, REQUESTS = quota(Period.DAY, unit=Unit.MICRO_USD), quota(Period.DAY, unit=Unit.REQUESTS)
SLOTS = QuotaKey(Subject(CALLER.tenant_id, CALLER.user_id), Unit.CONCURRENCY, Period.TOTAL)
A, B, NEXT = map(charge_id, ["a", "b", "next"])
TENANT = CALLER.tenant_id


def judge(input_bound: int = 20, output: int = 10, per_output: int = 2, **changes: object) -> LinkedTerms:
    return LinkedTerms(terms_of(input_bound, output, **changes)._replace(surface=EVALUATION), per_output)  # type: ignore[arg-type]


def reserving(terms: Terms, linked: LinkedTerms) -> Reserve:
    return Reserve(A, CALLER, terms, LEASE_MS, linked=LinkedCharge(B, linked))


def admitted(page: Page, terms: Terms, linked: LinkedTerms) -> Hold:
    held = reserve(page, reserving(terms, linked))
    assert isinstance(held, Hold)
    assert held.linked is not None
    return held


def test_both_charges_hold_on_every_quota_and_the_first_is_sent() -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000, REQUESTS: 2, SLOTS: 1})
    hold = admitted(page, terms_of(10, 90), judge())
    assert (hold.charge_id, hold.granted_output) == (A, 90)
    assert hold.linked is not None
    assert (hold.linked.charge_id, hold.linked.granted_output) == (B, 10)
    first, second = page.charges[A], page.charges[B]
    assert (first.state, first.held_tokens) == ("dispatched", 100)
    assert (second.state, second.surface, second.input_bound, second.held_tokens) == ("reserved", EVALUATION, 200, 210)
    assert [window(page, key).pending for key in (DAY, MONTH, REQUESTS, SLOTS)] == [310, 310, 2, 1]


@pytest.mark.parametrize("limit", range(50, 330, 7))
def test_the_output_is_what_both_fit_with(limit: int) -> None:
    """10 + output for the first; 20 + 2 per output + 10 for the second."""
    page = page_of({DAY: limit, MONTH: 5_000})
    hold = admitted(page, terms_of(10, 90, least=1), judge())
    assert hold.granted_output == min(90, (limit - 40) // 3)
    assert window(page, DAY).pending <= limit


@pytest.mark.parametrize("room", range(0, 400, 13))
@pytest.mark.parametrize("unit", list(Unit))
def test_one_more_token_would_not_fit(unit: Unit, room: int) -> None:
    terms = terms_of(10, 90, weight_milli=1_333, price=PRICE)
    linked = judge(weight_milli=777, price=PRICE)

    def cost(output: int) -> int:
        second = linked.after(output)
        amounts = [
            terms.meter.hold(unit, terms.meter.most_expensive_usage(10, output)),
            second.meter.hold(unit, second.meter.most_expensive_usage(second.input_bound, 10)),
        ]
        return (amounts[0] or 0) + ((amounts[1] or 0) if unit is not Unit.CONCURRENCY else 0)

    expected = max((output for output in range(91) if cost(output) <= room), default=-1)
    assert most_output(terms, linked, unit, room) == expected


def test_without_room_for_both_nothing_is_opened() -> None:
    for limit, kind in ((309, QuotaExceeded), (1, QuotaExceeded)):
        page = page_of({DAY: limit})
        [refusal] = decide(page, [reserving(terms_of(10, 90), judge())])
        assert isinstance(refusal, kind)
        assert (refusal.needed, page.charges, page.new_entries) == (310, {}, [])
    page = page_of({DAY: 400})
    reserve(page, Reserve(NEXT, CALLER, terms_of(10, 90), LEASE_MS))
    [refusal] = decide(page, [reserving(terms_of(10, 90), judge())])
    assert isinstance(refusal, QuotaHeld)
    assert (refusal.needed, balances(page)) == (310, [(0, 100, 0)])
    page = page_of({DAY: 1_000, REQUESTS: 1})
    [refusal] = decide(page, [reserving(terms_of(10, 90), judge())])
    assert isinstance(refusal, QuotaExceeded)
    page = page_of({DAY: 1_000, MONEY: 1_000_000})
    [refusal] = decide(page, [reserving(terms_of(10, 90, price=PRICE), judge())])
    assert isinstance(refusal, QuotaExceeded), "the judge has no price"
    assert page.charges == {}


def test_the_end_of_the_first_releases_a_second_that_was_not_started() -> None:
    for end in (
        Settle(A, TENANT, Usage(10, 20), Basis.PROVIDER, linked_id=B),
        Settle(A, TENANT, Usage(10, 0), Basis.UNKNOWN, "timeout", linked_id=B),
        Release(A, TENANT, "provider_unavailable", linked_id=B),
    ):
        page = page_of({DAY: 1_000})
        admitted(page, terms_of(10, 90), judge())
        for _ in range(2):
            decide(page, [end])
            assert (page.charges[B].state, page.charges[B].error) == ("released", "not_started")
            assert window(page, DAY).pending == 0
            assert window(page, DAY).settled == page.charges[A].cost_tokens


def test_the_end_of_the_first_leaves_a_started_second_alone() -> None:
    page = page_of({DAY: 1_000})
    admitted(page, terms_of(10, 90), judge())
    started = Dispatch(B, TENANT, LEASE_MS, CALLER, NEXT)
    assert dispatch(page, started).charge_id == B
    with pytest.raises(LedgerConflict):
        dispatch(page, Dispatch(B, TENANT, LEASE_MS, CALLER, NEXT))
    settle(page, Settle(A, TENANT, Usage(10, 20), Basis.PROVIDER, linked_id=B))
    assert (page.charges[B].state, window(page, DAY).pending) == ("dispatched", 210)
    settle(page, Settle(B, TENANT, Usage(60, 5), Basis.PROVIDER))
    assert balances(page) == [(95, 0, 0)]


def test_a_second_call_takes_no_slot_of_concurrency_when_it_starts() -> None:
    page = page_of({DAY: 1_000, SLOTS: 1})
    admitted(page, terms_of(10, 90), judge())
    assert dispatch(page, Dispatch(B, TENANT, LEASE_MS, CALLER, NEXT)).charge_id == B
    assert window(page, SLOTS).pending == 1


def test_what_no_process_renews_is_closed_each_by_its_own_state() -> None:
    page = page_of({DAY: 1_000})
    admitted(page, terms_of(10, 90), judge())
    page.now_ms += LEASE_MS + 1
    for charge in (A, B):
        expire(page, Expire(charge, TENANT))
    assert (page.charges[A].state, page.charges[A].basis, page.charges[A].cost_tokens) == ("settled", "unknown", 10)
    assert (page.charges[B].state, page.charges[B].cost_tokens) == ("released", 0)
    assert window(page, DAY).pending == 0


def test_a_reserve_that_is_repeated_opens_nothing_more_and_its_undo_releases_both() -> None:
    page = page_of({DAY: 1_000})
    operation = reserving(terms_of(10, 90), judge())
    first = reserve(page, operation)
    assert reserve(page, operation) == first
    assert window(page, DAY).pending == 310
    release(page, operation.undo())
    assert (page.charges[A].state, page.charges[B].state, balances(page)) == ("released", "released", [(0, 0, 0)])


SECOND = LinkedTerms(TERMS._replace(surface=EVALUATION, input_bound=30, wanted_output=10, least_output=10), 2)


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(database_url) as made:
        await made.set_limit(user_quota(made.caller, Period.TOTAL, Unit.CONCURRENCY), 1)
        yield made


async def rows(verified: VerifiedLedger) -> list[tuple[str, str, int]]:
    async with verified.database.session() as session:
        charges = (await session.exec(select(Charge).order_by(col(Charge.id)))).all()
    return [(one.surface, one.state, one.cost_tokens) for one in charges]


async def test_both_are_opened_by_one_transaction(verified: VerifiedLedger) -> None:
    batches: list[int] = []
    ledger = Ledger(
        make_store(verified.url, verified.clock), lease_seconds=60, on_batch=lambda count, _: batches.append(count)
    )
    ledger.start()
    reservation = ledger.reservation(verified.caller, TERMS, linked_terms=SECOND)
    await reservation.__aenter__()
    assert batches == [1], "one operation, in one transaction"
    assert ledger.in_flight == 2
    assert await rows(verified) == [("query", "dispatched", 0), (EVALUATION, "reserved", 0)]
    assert (await verified.verify()).problems == []
    reservation.set_usage(Usage(5, 20))
    await reservation.__aexit__(None, None, None)
    assert batches == [1, 1]
    assert ledger.in_flight == 0
    assert await rows(verified) == [("query", "settled", 38), (EVALUATION, "released", 0)]
    await ledger.stop()
    assert (await verified.verify()).problems == []


async def test_the_second_is_started_and_settled_within_the_first(verified: VerifiedLedger) -> None:
    async with verified.ledger.reservation(verified.caller, TERMS, linked_terms=SECOND) as first:
        first.set_usage(Usage(5, 20))
        assert first.linked is not None
        first.complete_checkpoint()
        async with first.linked as second:
            assert second.terms.input_bound == 30 + 2 * 90
            second.set_usage(Usage(100, 2))
    assert verified.ledger.in_flight == 0
    assert await rows(verified) == [("query", "settled", 38), (EVALUATION, "settled", 153)]
    report = await verified.verify()
    assert (report.problems, report.open_holds) == ([], 0)


async def test_a_process_that_dies_while_the_second_runs_loses_nothing_of_the_first(verified: VerifiedLedger) -> None:
    dying = Ledger(make_store(verified.url, verified.clock), lease_seconds=60)
    dying.start()
    first = dying.reservation(verified.caller, TERMS, linked_terms=SECOND)
    await first.__aenter__()
    first.set_usage(Usage(5, 20))
    first.complete_checkpoint()
    assert first.linked is not None
    await first.linked.__aenter__()
    await dying.stop()  # neither call is settled
    verified.clock.step(61)
    assert await verified.ledger.sweep() == 2
    assert await rows(verified) == [("query", "settled", 38), (EVALUATION, "settled", 210 * 3 // 2)]
    report = await verified.verify()
    assert (report.problems, report.open_holds) == ([], 0)


async def test_a_process_that_dies_before_the_second_starts_releases_it(verified: VerifiedLedger) -> None:
    dying = Ledger(make_store(verified.url, verified.clock), lease_seconds=60)
    dying.start()
    await dying.reservation(verified.caller, TERMS, linked_terms=SECOND).__aenter__()
    await dying.stop()
    verified.clock.step(61)
    assert await verified.ledger.sweep() == 2
    assert [state for _, state, _ in await rows(verified)] == ["settled", "released"]
    report = await verified.verify()
    assert (report.problems, report.open_holds) == ([], 0)


async def test_the_second_is_renewed_while_the_first_runs(verified: VerifiedLedger) -> None:
    async with verified.ledger.reservation(verified.caller, TERMS, linked_terms=SECOND) as first:
        for _ in range(3):
            verified.clock.step(40)
            await verified.ledger.renew()
            assert await verified.ledger.sweep() == 0
        first.set_usage(Usage(5, 20))
        assert first.linked is not None
        async with first.linked as second:
            second.set_usage(Usage(100, 2))
    assert await rows(verified) == [("query", "settled", 38), (EVALUATION, "settled", 153)]
    assert (await verified.verify()).problems == []
