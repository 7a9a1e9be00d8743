"""What a restored ledger lacks of the calls in events, and how it is booked: once, and at the cost of then."""

import json
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.factories import make_terms
from tollkeeper.chat import Usage
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.recovery import CHUNK, MAX_AGE_MS, MAX_AHEAD_MS, Fate, FoundUser, RecoveryReport, recover
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.time_sorted_ids import new_id, time_of

pytestmark = pytest.mark.exhaustive_on_postgres

USAGE = Usage(10, 20)
AMPLE = 1_000_000


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url, limit=AMPLE) as made:
        yield made


def event(env: LedgerEnvironment, charge_id: str, *, usage: Usage = USAGE, **charge: Any) -> bytes:
    """The line of a call that has ended. `charge` replaces fields of its charge."""
    named = {"id": charge_id, "basis": "provider", "cost_tokens": usage.total_tokens, "cost_micro_usd": None}
    bounds = {"weight_milli": 1_000, "price": None, "input_bound": 50, "granted_output": 100}
    data = {
        "surface": "chat",
        "provider": {"name": "openai"},
        "model": {"id": "gpt-4o-mini"},
        "tenant": {"id": env.caller.tenant_id},
        "user": {"id": env.caller.user_id},
        "usage": {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
        "charge": named | bounds | charge,
        "error": None,
    }
    return json.dumps({"event_type": "ai.response", "data": data}).encode() + b"\n"


async def recovered(
    env: LedgerEnvironment, *lines: bytes, created_ms: int = 0, apply: bool = True, now_ms: int | None = None
) -> RecoveryReport:
    """Recover from these lines. The caller was created at `created_ms`. Afterwards, the ledger is verified."""

    async def find_users(ids: Collection[int]) -> dict[int, FoundUser]:
        return {number: FoundUser(env.caller.tenant_id, created_ms) for number in ids if number == env.caller.user_id}

    now_ms = time_of(new_id("chg")) if now_ms is None else now_ms
    report = await recover(env.database, lines, find_users, now_ms=now_ms, book=env.ledger.book if apply else None)
    found = await verify(env.database, now_ms=env.clock.now_ms())
    assert found.clean, found.problems
    return report


COSTS: dict[str, tuple[dict[str, Any], int]] = {
    "a reported cost above the hold": ({"usage": Usage(10, 500), "overrun": True}, 510),
    "a weight": ({"weight_milli": 2_500, "cost_tokens": 75}, 75),
    "a price": ({"price": {"input": 10**6, "cached_input": 0, "output": 2 * 10**6}, "cost_micro_usd": 50}, 30),
    "a count": ({"basis": "counted"}, 30),
    "an unknown outcome, the rest forgiven": ({"basis": "unknown", "usage": Usage(10, 0)}, 10),
    "an unknown outcome, not forgiven": ({"basis": "unknown", "usage": Usage(10, 0), "cost_tokens": 150}, 150),
}


@pytest.mark.parametrize(("fields", "cost"), COSTS.values(), ids=COSTS.keys())
async def test_a_lost_call_costs_what_it_cost(env: LedgerEnvironment, fields: dict[str, Any], cost: int) -> None:
    report = await recovered(env, event(env, new_id("chg"), **fields))
    assert (report.fates, report.lost_tokens) == ({Fate.LOST: 1}, cost)
    charge = await env.only_charge()
    assert (charge.cost_tokens, charge.cost_micro_usd or 0) == (cost, fields.get("cost_micro_usd", 0))
    window = await env.window()
    assert (window.settled, window.pending) == (cost, 0)


async def test_a_recovery_is_booked_once_and_nothing_without_apply(env: LedgerEnvironment) -> None:
    lines = [event(env, new_id("chg")) for _ in range(CHUNK + 2)]
    planned = await recovered(env, *lines, lines[0], apply=False)
    assert planned.fates == {Fate.LOST: CHUNK + 2, Fate.BOOKED: 1}
    assert planned.lost_tokens == (CHUNK + 2) * USAGE.total_tokens
    assert await env.charges() == {}
    await recovered(env, *lines, lines[0])
    again = await recovered(env, *lines)
    assert again.fates == {Fate.BOOKED: CHUNK + 2}
    assert (await env.window()).settled == (CHUNK + 2) * USAGE.total_tokens


@pytest.mark.parametrize("expired", [False, True])
async def test_a_charge_that_was_open_at_the_backup_ends_as_its_event_says(
    env: LedgerEnvironment, expired: bool
) -> None:
    charge_id = await _open_charge(env)
    if expired:
        env.clock.step(1_000)
        assert await env.ledger.sweep() == 1
    report = await recovered(env, event(env, charge_id))
    assert report.fates == {Fate.OPEN: 1}
    assert report.lost_tokens == 0
    charge = await env.only_charge()
    assert (charge.basis, charge.cost_tokens, charge.adjusted) == ("provider", USAGE.total_tokens, expired)
    assert (await recovered(env, event(env, charge_id))).fates == {Fate.BOOKED: 1}


async def test_an_open_charge_whose_call_cost_nothing_is_released(env: LedgerEnvironment) -> None:
    charge_id = await _open_charge(env)
    await recovered(env, event(env, charge_id, basis="none", usage=Usage(0, 0)))
    assert (await env.only_charge()).state == "released"


async def test_nobody_pays_for_a_user_who_was_lost_or_whose_id_is_another_users_now(env: LedgerEnvironment) -> None:
    charge_id = new_id("chg")
    known = event(env, charge_id)
    other = known.replace(b'"user": {"id": %d}' % env.caller.user_id, b'"user": {"id": 999999}')
    assert (await recovered(env, other)).fates == {Fate.WITHOUT_USER: 1}
    created_later = await recovered(env, known, created_ms=time_of(charge_id) + 1)
    assert created_later.fates == {Fate.WITHOUT_USER: 1}
    assert await env.charges() == {}


async def test_what_may_be_archived_costs_nothing_or_is_unreadable_is_not_booked(env: LedgerEnvironment) -> None:
    charge_id = new_id("chg")
    line = event(env, charge_id)
    old = await recovered(env, line, now_ms=time_of(charge_id) + MAX_AGE_MS + 1)
    assert old.fates == {Fate.TOO_OLD: 1}
    free = [event(env, new_id("chg"), basis=basis, cost_tokens=0) for basis in (Basis.NONE, Basis.CACHE)]
    assert (await recovered(env, *free)).fates == {Fate.BOOKED: 2}
    unreadable = await recovered(env, line[:-20], b"\n", b"\xff\n", b'{"event_type": "ai.request"}\n', apply=False)
    assert (unreadable.fates, unreadable.unreadable) == ({}, 2)
    assert await env.charges() == {}


IMPOSSIBLE: dict[str, tuple[bytes, bytes]] = {
    "a negative usage would be a gift": (b'"input_tokens": 10', b'"input_tokens": -1000000'),
    "a negative price": (b'"price": null', b'"price": {"input": -1, "cached_input": 0, "output": 0}'),
    "a negative weight": (b'"weight_milli": 1000', b'"weight_milli": -1'),
    "a negative bound": (b'"input_bound": 50', b'"input_bound": -1'),
    "a number that the database does not take": (b'"output_tokens": 20', b'"output_tokens": %d' % 2**70),
    "a weight that makes it one": (b'"weight_milli": 1000', b'"weight_milli": %d' % 10**12),
    "a user whose id is none": (b'"user": {"id": ', b'"user": {"id": 99999999999999999999'),
    "a text that is too long": (b'"gpt-4o-mini"', b'"%b"' % (b"m" * 201)),
    "a text that the database does not take": (b'"gpt-4o-mini"', rb'"a\u0000b"'),
    "a surface that is too long": (b'"chat"', b'"%b"' % (b"s" * 21)),
}


async def test_what_no_call_can_have_is_unreadable_and_not_booked(env: LedgerEnvironment) -> None:
    lines = [event(env, new_id("chg")).replace(*change, 1) for change in IMPOSSIBLE.values()]
    lines.append(event(env, f"chg_{'f' * 32}"))
    assert len(set(lines)) == len(IMPOSSIBLE) + 1
    report = await recovered(env, *lines)
    assert (report.fates, report.unreadable) == ({}, len(lines))
    assert await env.charges() == {}


async def test_a_call_of_a_time_to_come_is_not_booked(env: LedgerEnvironment) -> None:
    charge_id = new_id("chg")
    early = await recovered(env, event(env, charge_id), now_ms=time_of(charge_id) - MAX_AHEAD_MS - 1)
    assert early.fates == {Fate.TOO_NEW: 1}
    assert await env.charges() == {}


async def _open_charge(env: LedgerEnvironment) -> str:
    """A charge whose process is gone."""
    reservation = env.ledger.reservation(env.caller, make_terms())
    await reservation.__aenter__()
    charge_id = str(reservation.charge_id)
    env.ledger._calls._calls.clear()
    return charge_id
