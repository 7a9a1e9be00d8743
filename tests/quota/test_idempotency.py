"""Idempotency keys (P6): the same key and request are one call, one charge, and the same answer for 24 hours."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from keyed_calls import (
    DAY_S,
    KEYED_REQUEST,
    LEASE_MS,
    RenderResponse,
    key_row,
    keyed_call,
    make_reservation,
    refusal,
    render_cost,
)
from ledger_environment import LEASE_S, LedgerEnvironment, batch, open_ledger_environment

from support.factories import charge_id, make_principal, make_terms, set_limit, user_quota
from tollkeeper.chat import Price, Usage
from tollkeeper.errors import (
    IdempotencyInFlight,
    IdempotencyMismatch,
    LedgerConflict,
    LedgerUnavailable,
    PreviousAttemptInterrupted,
    ProviderUnavailable,
    QuotaExceeded,
    Unauthenticated,
)
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.idempotency_keys import MAX_ENCRYPTION_BYTES, MAX_STORED_BYTES, KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge, Replayed, Reserve, Settle, StoreResponse

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def env(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LedgerEnvironment]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_ledger_environment(database_url) as made:
        yield made


async def test_a_repeated_request_is_one_call_and_receives_the_stored_response(env: LedgerEnvironment) -> None:
    first = await keyed_call(env)
    assert first.replayed is None
    again = await keyed_call(env)
    assert again.replayed is not None
    assert again.replayed.response == StoredResponse(200, "application/json", b'{"cost":37}')
    [balance] = again.replayed.balances
    assert (balance.used, balance.reserved) == (37, 0)
    charges = await env.charges()
    assert len(charges) == 2
    charge = charges[again.charge_id]
    assert (charge.state, charge.basis, charge.cost_tokens, charge.held_tokens) == ("settled", "cache", 0, 0)
    assert (await env.window()).settled == 37
    assert (await key_row(env)).charge_id == first.charge_id


async def test_a_replay_holds_nothing_and_cannot_be_charged_or_extended(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    runs = env.store.runs
    with pytest.raises(ZeroDivisionError):
        await misuse(env)
    assert env.store.runs == runs + 1, "one commit, and none for the exit"
    assert [charge.cost_tokens for charge in (await env.charges()).values()] == [37, 0]
    assert env.ledger.in_flight == 0


async def misuse(env: LedgerEnvironment) -> None:
    async with make_reservation(env) as replay:
        assert replay.granted_output == 0
        assert replay.hold.balances
        assert replay.closed is not None
        assert (replay.closed.basis, replay.closed.cost_tokens) == (Basis.CACHE, 0)
        replay.set_usage(Usage(500, 500))
        with pytest.raises(LedgerConflict):
            await replay.extend(make_terms(), "provider_error")
        raise ZeroDivisionError


async def test_the_verifier_accepts_a_replay_with_prices(env: LedgerEnvironment) -> None:
    terms = make_terms(10, 90, price=Price(1_000_000, 1_000_000, 1_000_000))
    for _ in range(2):
        async with env.ledger.reservation(env.caller, terms, keyed_request=KEYED_REQUEST) as made:
            made.set_usage(Usage(7, 30))
            made.store_response(render_cost)
    assert made.closed is not None
    assert (made.closed.basis, made.closed.cost_micro_usd) == (Basis.CACHE, 0)
    report = await verify(env.database, now_ms=env.clock.ms)
    assert (report.problems, report.charges, report.open_holds) == ([], 2, 0)


async def test_a_replay_cannot_be_refunded(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    replay = await keyed_call(env)
    with pytest.raises(LedgerConflict):
        await env.ledger.refund(replay.charge_id, env.caller.tenant_id, actor="operator", reason="test")


async def test_another_request_with_the_same_key_is_refused(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    assert await refusal(env, KeyedRequest(KEYED_REQUEST.key, "b" * 64)) is IdempotencyMismatch


async def test_while_the_first_is_in_flight_the_second_is_refused(env: LedgerEnvironment) -> None:
    async with make_reservation(env) as first:
        assert await refusal(env) is IdempotencyInFlight
        assert await refusal(env, KeyedRequest(KEYED_REQUEST.key, "b" * 64)) is IdempotencyMismatch
        first.set_usage(Usage(1, 1))


async def test_of_several_reserves_with_one_key_in_a_batch_one_is_admitted(env: LedgerEnvironment) -> None:
    env.store.before_batch.clear()
    entering = [asyncio.create_task(make_reservation(env).__aenter__()) for _ in range(5)]
    await env.store.started.wait()
    env.store.before_batch.set()
    results = await asyncio.gather(*entering, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in results) == ["IdempotencyInFlight"] * 4 + ["Reservation"]
    assert len(await env.charges()) == 1


async def test_a_response_is_replayed_within_the_batch_that_stores_it(env: LedgerEnvironment) -> None:
    await batch(env.store, Reserve(charge_id("a"), env.caller, make_terms(), LEASE_MS, keyed_request=KEYED_REQUEST))
    settle = Settle(
        charge_id("a"),
        env.caller.tenant_id,
        Usage(7, 30),
        Basis.PROVIDER,
        store_response=StoreResponse(KEYED_REQUEST.name(env.caller), render_cost),
    )
    [_, replay] = await batch(
        env.store, settle, Reserve(charge_id("b"), env.caller, make_terms(), LEASE_MS, keyed_request=KEYED_REQUEST)
    )
    assert isinstance(replay, Replayed)
    assert replay.response.body == b'{"cost":37}'


def fail(closed: ClosedCharge) -> StoredResponse:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "answer",
    [
        None,
        lambda closed: None,
        fail,
        lambda closed: StoredResponse(200, "text/plain", b"x" * (MAX_STORED_BYTES + MAX_ENCRYPTION_BYTES + 1)),
        lambda closed: StoredResponse(200, "text/\0plain", b""),
        lambda closed: StoredResponse(200, "x" * 101, b""),
        lambda closed: StoredResponse(10**12, "text/plain", b""),
        lambda closed: "no answer at all",
    ],
    ids=["not set", "none", "fails", "too long", "unprintable", "a long type", "no status", "another type"],
)
async def test_the_next_call_is_refused_if_no_response_could_be_stored(
    env: LedgerEnvironment, answer: RenderResponse | None
) -> None:
    """The settle commits in each case."""
    first = await keyed_call(env, answer)
    assert first.closed is not None
    assert (first.closed.cost_tokens, len(first.closed.balances)) == (37, 1)
    assert await refusal(env) is PreviousAttemptInterrupted


async def test_a_response_of_the_largest_size_is_stored(env: LedgerEnvironment) -> None:
    body = bytes(range(256)) * 1024
    assert len(body) == MAX_STORED_BYTES
    await keyed_call(env, lambda closed: StoredResponse(207, "application/octet-stream", body))
    again = await keyed_call(env)
    assert again.replayed is not None
    assert again.replayed.response == (207, "application/octet-stream", body)


async def test_an_empty_response_is_stored(env: LedgerEnvironment) -> None:
    await keyed_call(env, lambda closed: StoredResponse(200, "", b""))
    again = await keyed_call(env)
    assert again.replayed is not None
    assert again.replayed.response == (200, "", b"")


async def test_after_an_unknown_outcome_the_next_call_is_refused(env: LedgerEnvironment) -> None:
    async with make_reservation(env):
        pass
    assert await refusal(env) is PreviousAttemptInterrupted


async def test_the_next_call_is_refused_after_a_call_was_lost_with_its_process(env: LedgerEnvironment) -> None:
    await lose_a_call(env)
    assert await refusal(env) is PreviousAttemptInterrupted


async def lose_a_call(env: LedgerEnvironment) -> None:
    await batch(env.store, Reserve(charge_id("lost"), env.caller, make_terms(), LEASE_MS, keyed_request=KEYED_REQUEST))
    env.clock.step(LEASE_S + 1)
    assert await env.ledger.sweep() == 1


async def test_a_late_settle_stores_its_response(env: LedgerEnvironment) -> None:
    await lose_a_call(env)
    store_response = StoreResponse(KEYED_REQUEST.name(env.caller), render_cost)
    await batch(
        env.store,
        Settle(charge_id("lost"), env.caller.tenant_id, Usage(7, 30), Basis.PROVIDER, store_response=store_response),
    )
    again = await keyed_call(env)
    assert again.replayed is not None
    assert again.replayed.response.body == b'{"cost":37}'


async def test_a_refused_call_does_not_use_up_its_key(env: LedgerEnvironment) -> None:
    with pytest.raises(QuotaExceeded):
        await env.ledger.reservation(env.caller, make_terms(10, 5_000), keyed_request=KEYED_REQUEST).__aenter__()
    assert (await env.snapshot()).keys == {}
    assert (await keyed_call(env)).replayed is None


async def test_a_released_call_frees_its_key(env: LedgerEnvironment) -> None:
    with pytest.raises(ProviderUnavailable):
        await fail_unbilled(env)
    other = KeyedRequest(KEYED_REQUEST.key, "b" * 64)
    assert (await keyed_call(env, keyed_request=other)).replayed is None
    assert (await key_row(env)).fingerprint == other.fingerprint


async def fail_unbilled(env: LedgerEnvironment) -> None:
    async with make_reservation(env) as made:
        made.store_response(render_cost)
        raise ProviderUnavailable


async def test_an_expired_call_that_is_released_late_frees_its_key(
    env: LedgerEnvironment,
) -> None:
    made = await make_reservation(env).__aenter__()
    env.clock.step(LEASE_S + 1)
    other = Ledger(env.store, lease_seconds=LEASE_S)
    other.start()
    assert await other.sweep() == 1
    await other._journal.stop()
    await made.__aexit__(ProviderUnavailable, ProviderUnavailable(), None)
    assert (await keyed_call(env)).replayed is None


async def test_an_expired_call_that_was_never_dispatched_frees_its_key(env: LedgerEnvironment) -> None:
    await batch(
        env.store,
        Reserve(charge_id("job"), env.caller, make_terms(), LEASE_MS, dispatch=False, keyed_request=KEYED_REQUEST),
    )
    assert await refusal(env) is IdempotencyInFlight
    env.clock.step(LEASE_S + 1)
    assert await env.ledger.sweep() == 1
    assert (await keyed_call(env)).replayed is None


async def test_a_response_is_replayed_for_24_hours(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    env.clock.ms += DAY_S * 1000 - 1
    assert (await keyed_call(env)).replayed is not None
    env.clock.ms += 1
    later = await keyed_call(env)
    assert later.replayed is None
    assert (await key_row(env)).charge_id == later.charge_id
    assert (await keyed_call(env)).replayed is not None


async def test_a_refused_call_does_not_claim_an_expired_key(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    before = await key_row(env)
    env.clock.step(DAY_S)
    with pytest.raises(QuotaExceeded):
        await env.ledger.reservation(env.caller, make_terms(10, 5_000), keyed_request=KEYED_REQUEST).__aenter__()
    assert await key_row(env) == before


async def test_a_call_that_lost_its_key_stores_no_response_under_it(env: LedgerEnvironment) -> None:
    """A call that runs for more than a day, whose key is another's by then."""
    async with make_reservation(env) as old:
        env.clock.step(DAY_S)
        await env.ledger.renew()
        async with make_reservation(env) as new:
            old.set_usage(Usage(1, 1))
            old.store_response(render_cost)
            await old.__aexit__(None, None, None)
            assert (await key_row(env)).status is None
            new.set_usage(Usage(2, 2))
            new.store_response(render_cost)
    row = await key_row(env)
    assert (row.charge_id, row.body) == (new.charge_id, b'{"cost":4}')


async def test_a_key_belongs_to_its_user(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    other = await make_principal(env.database, env.caller.tenant_id)
    await set_limit(env.ledger, user_quota(other), 1_000)
    async with env.ledger.reservation(other, make_terms(), keyed_request=KEYED_REQUEST) as made:
        assert made.replayed is None
        made.set_usage(Usage(1, 1))


async def test_a_replay_is_authorized_as_a_call_is(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    await env.reader.execute("UPDATE users SET token_version = 1")
    with pytest.raises(Unauthenticated):
        await make_reservation(env).__aenter__()
    assert len(await env.charges()) == 1


async def test_a_replay_needs_no_quota(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    await set_limit(env.ledger, user_quota(env.caller), 0)
    assert (await keyed_call(env)).replayed is not None


async def test_a_response_without_a_key_is_not_stored(env: LedgerEnvironment) -> None:
    async with make_reservation(env, keyed_request=None) as made:
        made.set_usage(Usage(1, 1))
        made.store_response(render_cost)
    assert (await env.snapshot()).keys == {}


async def test_a_call_without_a_key_reads_and_writes_no_keys(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError

    for name in (
        "sqlite.row_cache.read_keys",
        "sqlite.writes.write_keys",
        "postgres.page_reader.lock_keys",
        "postgres.writes.key_values",
    ):
        monkeypatch.setattr(f"tollkeeper.quota.stores.{name}", unexpected)
    async with make_reservation(env, keyed_request=None) as made:
        await made.extend(make_terms(), "provider_error")
        made.set_usage(Usage(1, 1))
    assert (await env.window()).settled == 2
    with pytest.raises(LedgerUnavailable):
        await make_reservation(env).__aenter__()
