"""What a reserve grants: all of it, or less where it may be clamped; on every window, or on none."""

from dataclasses import replace

import pytest
from pages import CALLER, LEASE_MS, NOW_MS, OWN, PRICE, SHARED, balances, hold, page_of, quota, terms_of, window

from support.factories import charge_id
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerUnavailable, QuotaExceeded, QuotaHeld, QuotaRefusal, Unauthenticated
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.admission import reserve
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Reserve
from tollkeeper.quota.rules.windows import Period

A, B = charge_id("a"), charge_id("b")
DAY = quota(Period.DAY)
MONTH = quota(Period.MONTH, SHARED)
MONEY = quota(Period.DAY, OWN, Unit.MICRO_USD)


def test_it_holds_input_and_output_on_every_window() -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000, quota(Period.MINUTE): 100})
    assert hold(page, A).granted_output == 90
    assert balances(page) == [(0, 100, 0)] * 3
    assert [entry.pending for entry in page.new_entries] == [100] * 3
    charge = page.charges[A]
    assert (charge.state, charge.held_tokens, charge.checkpoint_input) == ("dispatched", 100, 10)
    assert charge.lease_ms == NOW_MS + LEASE_MS


def test_a_hold_has_the_balances_that_include_it() -> None:
    page = page_of({DAY: 1_000, MONTH: 5_000})
    hold(page, A)
    assert [(one.quota, one.limit, one.used, one.reserved) for one in hold(page, B).balances] == [
        ("user-day", 1_000, 0, 200),
        ("tenant-month", 5_000, 0, 200),
    ]


def test_tokens_and_money_are_held_together() -> None:
    page = page_of({DAY: 1_000, MONEY: 10_000})
    hold(page, A, terms_of(10, 90, weight_milli=1_500, price=PRICE))
    assert balances(page) == [(0, 150, 0), (0, 925, 0)]
    charge = page.charges[A]
    assert (charge.held_tokens, charge.held_micro_usd, charge.weight_milli) == (150, 925, 1_500)
    assert (charge.price_input, charge.price_cached, charge.price_output) == PRICE[:3]


def test_a_hold_in_money_covers_writing_all_of_the_input_to_a_cache() -> None:
    page = page_of({DAY: 1_000, MONEY: 1_100})
    held = hold(page, A, terms_of(100, 500, least=16, price=PRICE._replace(cache_write=5_000_000)))
    assert held.granted_output == 60, "1,100 less 500 for the input, at 10 a token"
    charge = page.charges[A]
    assert (charge.held_micro_usd, charge.price_cache_write) == (1_100, 5_000_000)
    assert charge.meter.micro_usd(Usage(100, 60, 0, 100)) == 1_100


def test_a_call_that_uses_exactly_the_remaining_quota_fits() -> None:
    page = page_of({DAY: 100})
    assert hold(page, A, terms_of(10, 90)).granted_output == 90
    with pytest.raises(QuotaHeld):
        hold(page, B, terms_of(0, 1))


def test_a_reserve_is_not_clamped_below_its_least_output() -> None:
    with pytest.raises(QuotaExceeded):
        hold(page_of({DAY: 99}), A, terms_of(10, 90))


@pytest.mark.parametrize(
    ("limits", "weight", "granted"),
    [
        ({DAY: 1_000}, 1_000, 500),
        ({DAY: 100}, 1_000, 90),
        ({DAY: 1_000, MONTH: 70}, 1_000, 60),
        ({DAY: 100}, 1_500, 56),
        ({DAY: 100, MONEY: 125}, 1_000, 10),
        ({DAY: 26}, 1_000, 16),
    ],
)
def test_it_is_clamped_to_what_the_tightest_window_pays_for(
    limits: dict[object, int], weight: int, granted: int
) -> None:
    page = page_of(limits)  # type: ignore[arg-type]
    assert hold(page, A, terms_of(10, 500, least=10, weight_milli=weight, price=PRICE)).granted_output == granted


def test_it_is_clamped_as_if_nothing_else_were_in_flight() -> None:
    """Clamped to what calls in flight leave, answers would be cut short by chance."""
    page = page_of({DAY: 200})
    hold(page, A, terms_of(10, 90))
    with pytest.raises(QuotaHeld) as held:
        hold(page, B, terms_of(10, 500, least=16))
    assert (held.value.needed, held.value.reserved, held.value.retry_after_s) == (200, 100, 1)


def test_less_than_the_least_output_is_a_refusal() -> None:
    page = page_of({DAY: 25})
    with pytest.raises(QuotaExceeded) as refused:
        hold(page, A, terms_of(10, 500, least=16))
    error = refused.value
    assert (error.quota, error.limit, error.used, error.reserved, error.needed) == ("user-day", 25, 0, 0, 26)


def test_a_refusal_says_when_to_retry() -> None:
    page = page_of({DAY: 25})
    ends_ms = window(page, DAY).ends_ms
    assert ends_ms is not None
    with pytest.raises(QuotaExceeded) as refused:
        hold(page, A)
    assert (refused.value.resets_ms, refused.value.retry_after_s) == (ends_ms, (ends_ms - NOW_MS) // 1000)
    with pytest.raises(QuotaExceeded) as refused:
        hold(page_of({quota(Period.TOTAL): 25}), A)
    assert (refused.value.resets_ms, refused.value.retry_after_s) == (None, None)


def test_the_tightest_window_is_named() -> None:
    page = page_of({DAY: 60, MONTH: 50, quota(Period.TOTAL): 70})
    with pytest.raises(QuotaExceeded) as refused:
        hold(page, A)
    assert (refused.value.quota, refused.value.limit) == ("tenant-month", 50)


@pytest.mark.parametrize("full", [DAY, MONTH, MONEY])
def test_one_refusal_leaves_every_window_as_it_was(full: object) -> None:
    page = page_of({key: 0 if key == full else 10_000 for key in (DAY, MONTH, MONEY)})
    with pytest.raises(QuotaRefusal):
        hold(page, A, terms_of(price=PRICE))
    assert balances(page) == [(0, 0, 0)] * 3
    assert not page.has_changes


def test_a_user_without_a_token_quota_has_a_limit_of_zero() -> None:
    for limits in ({}, {MONTH: 10_000}, {MONTH: 10_000, MONEY: 10_000}):
        with pytest.raises(QuotaExceeded) as refused:
            hold(page_of(limits), A, terms_of(price=PRICE))
        assert (refused.value.limit, refused.value.needed) == (0, 100)


def test_a_money_quota_refuses_a_model_without_a_price() -> None:
    with pytest.raises(QuotaExceeded) as refused:
        hold(page_of({DAY: 10_000, MONEY: 10_000}), A)
    assert refused.value.quota == "user-day-usd"


def test_a_window_in_overrun_refuses_even_what_costs_nothing() -> None:
    page = page_of({DAY: 100})
    window(page, DAY).settled = 101
    with pytest.raises(QuotaExceeded):
        hold(page, A, terms_of(0, 0))
    with pytest.raises(QuotaExceeded):
        hold(page, B, terms_of(1, 1, weight_milli=0))


def test_an_embedding_has_no_output_and_fits_exactly() -> None:
    page = page_of({DAY: 100})
    assert hold(page, A, terms_of(100, 0)).granted_output == 0
    with pytest.raises(QuotaHeld):
        hold(page, B, terms_of(1, 0))


@pytest.mark.parametrize(
    "stranger",
    [Principal(8, 3, Role.MEMBER, 0), Principal(7, 4, Role.MEMBER, 0), Principal(7, 3, Role.MEMBER, 1)],
    ids=["unknown user", "another tenant", "another token version"],
)
def test_only_a_valid_principal_can_reserve(stranger: Principal) -> None:
    page = page_of({DAY: 1_000})
    with pytest.raises(Unauthenticated):
        reserve(page, Reserve(A, stranger, terms_of(), LEASE_MS))
    assert not page.has_changes


def test_a_disabled_user_cannot_reserve() -> None:
    with pytest.raises(Unauthenticated):
        hold(page_of({DAY: 1_000}, active=False), A)


@pytest.mark.parametrize(
    ("api_keys", "good"),
    [
        ({"key_1": None}, True),
        ({"key_1": NOW_MS + 1}, True),
        ({"key_1": NOW_MS}, False),
        ({"key_2": None}, False),
        ({}, False),
    ],
    ids=["without expiry", "about to expire", "expired", "another key", "revoked"],
)
def test_an_api_key_must_be_valid_and_the_token_version_is_ignored(api_keys: dict[str, int | None], good: bool) -> None:
    page = page_of({DAY: 1_000}, api_keys=api_keys)
    operation = Reserve(A, replace(CALLER, token_version=9, api_key="key_1"), terms_of(), LEASE_MS)
    if good:
        reserve(page, operation)
        assert page.charges[A].open
        return
    with pytest.raises(Unauthenticated):
        reserve(page, operation)
    assert not page.has_changes


@pytest.mark.parametrize("changed", [replace(CALLER, tenant_id=4), replace(CALLER, user_id=8)])
def test_a_valid_api_key_is_valid_for_its_user_only(changed: Principal) -> None:
    page = page_of({DAY: 1_000}, api_keys={"key_1": None})
    with pytest.raises(Unauthenticated):
        reserve(page, Reserve(A, replace(changed, api_key="key_1"), terms_of(), LEASE_MS))


def test_an_api_key_of_who_is_disabled_does_not_reserve() -> None:
    page = page_of({DAY: 1_000}, active=False, api_keys={"key_1": None})
    with pytest.raises(Unauthenticated):
        reserve(page, Reserve(A, replace(CALLER, api_key="key_1"), terms_of(), LEASE_MS))


def test_a_repeated_reserve_returns_the_same_result() -> None:
    page = page_of({DAY: 1_000})
    first = hold(page, A, terms_of(10, 2_000, least=16))
    assert hold(page, A, terms_of(10, 2_000, least=16)) == first
    assert balances(page) == [(0, 1_000, 0)]


def test_a_repeated_reserve_whose_charge_is_closed_is_refused() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A)
    page.charges[A].closed_ms = NOW_MS
    with pytest.raises(LedgerUnavailable):
        hold(page, A)


def test_the_callers_tenant_is_on_the_charge() -> None:
    page = page_of({DAY: 1_000})
    hold(page, A, dispatch=False)
    charge = page.charges[A]
    assert (charge.tenant_id, charge.user_id, charge.state) == (CALLER.tenant_id, CALLER.user_id, "reserved")
