"""Quotas that only report: what they say, what a verification excuses, and what an archive remembers of the mode."""

from typing import Any

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.factories import make_terms, set_limit, tenant_quota, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaExceeded
from tollkeeper.quota.audit.facts import WindowState
from tollkeeper.quota.audit.problems import Fault
from tollkeeper.quota.audit.replay import EntryKey, Replay
from tollkeeper.quota.rules.carry import Carry, read_carry
from tollkeeper.quota.rules.limit_changes import SetLimit, SpentRule
from tollkeeper.quota.rules.windows import Period

SOURCE = "adm_018df000000000000000000000000000"


def entry(sequence: int, kind: str, granted: int = 0, pending: int = 0) -> tuple[Any, ...]:
    """A row of a window as `windows` reads it."""
    source = "chg_018df00000000000000000000000000" + str(sequence) if kind == "reserve" else SOURCE
    return 1, 1, sequence, 202402, source, kind, granted, 0, pending, 0, None


def window(sequence: int, granted: int, pending: int) -> tuple[Any, ...]:
    return 1, 1, sequence, None, None, None, granted, 0, pending, 0, None


def faults(*rows: tuple[Any, ...]) -> list[Fault]:
    replay = Replay()
    return [problem.fault for problem in (*replay.read(rows), *replay.finish())]


def test_replay_excuses_more_than_the_limit_only_while_the_window_reports() -> None:
    opened, over = entry(1, "open", granted=5), entry(3, "reserve", pending=9)
    assert faults(opened, entry(2, "report"), over, window(3, 5, 9)) == []
    assert faults(opened, entry(2, "block"), over, window(3, 5, 9)) == [Fault.OVER_ADMITTED]
    switched = opened, entry(2, "report"), entry(3, "block"), entry(4, "reserve", pending=9)
    assert faults(*switched, window(4, 5, 9)) == [Fault.OVER_ADMITTED]


def test_a_mode_changes_no_balance() -> None:
    assert faults(entry(1, "open", granted=5), entry(2, "report", granted=1), window(2, 6, 0)) == [Fault.ENTRY]


def test_a_carry_keeps_the_mode_of_the_last_switch_whatever_the_order_of_months() -> None:
    carry = Carry().add(1, "open", (5, 0, 0, 0), "a").add(4, "report", (0, 0, 0, 0), "b")
    carry = carry.add(3, "block", (0, 0, 0, 0), "c")  # of a later month, and earlier in the window
    assert read_carry(carry.sums, carry.reason) == carry
    assert carry.mode == 4
    assert carry.add(9, "block", (0, 0, 0, 0), "d").mode == -9
    assert "mode" not in Carry().add(1, "open", (5, 0, 0, 0), "a").reason


def test_replay_goes_on_with_the_mode_that_is_carried_and_with_that_of_a_mark() -> None:
    carry = Carry().add(1, "open", (5, 0, 0, 0), "a").add(2, "report", (0, 0, 0, 0), "b")
    carried = (1, 1, -202401, 202402, SOURCE, "carry", *carry.sums, carry.reason)
    over, stored = entry(3, "reserve", pending=9), window(3, 5, 9)
    assert faults(carried, over, stored) == []
    marked = Replay(EntryKey(1, 1, 2), WindowState(2, 5, 0, 0, 0, 2))
    assert [*marked.read([over, stored]), *marked.finish()] == []


@pytest.fixture
async def env(database_url: str) -> Any:
    async with open_ledger_environment(database_url, limit=1_000) as opened:
        yield opened


async def test_a_reporting_quota_says_what_it_would_refuse_until_it_blocks_again(env: LedgerEnvironment) -> None:
    budget = tenant_quota(env.caller, Period.MONTH)
    await env.ledger.administer((SetLimit(budget, 50, when_spent=SpentRule(report_only=True)),), actor="a", reason="r")
    async with env.ledger.reservation(env.caller, make_terms(40, 60)) as call:
        assert call.hold.would_refuse == (("tenant-month", "quota_exceeded"),)
        call.set_usage(Usage(10, 10))
    assert call.closed_charge.would_refuse == call.hold.would_refuse
    async with env.ledger.reservation(env.caller, make_terms(10, 20)) as fits:
        assert fits.hold.would_refuse == ()
        async with env.ledger.reservation(env.caller, make_terms(10, 20)) as held:
            assert held.hold.would_refuse == (("tenant-month", "quota_held"),)
    await env.ledger.administer((SetLimit(budget, 50, when_spent=SpentRule()),), actor="a", reason="r")
    with pytest.raises(QuotaExceeded):
        async with env.ledger.reservation(env.caller, make_terms(40, 60)):
            raise AssertionError("it is admitted")


async def test_a_reporting_quota_is_not_the_quota_of_their_own_that_a_user_needs(env: LedgerEnvironment) -> None:
    own = user_quota(env.caller, Period.DAY)
    await set_limit(env.ledger, own, 1_000)
    await env.ledger.administer((SetLimit(own, 1_000, when_spent=SpentRule(report_only=True)),), actor="a", reason="r")
    with pytest.raises(QuotaExceeded, match="no token quota"):
        async with env.ledger.reservation(env.caller, make_terms(1, 1)):
            raise AssertionError("it is admitted")
