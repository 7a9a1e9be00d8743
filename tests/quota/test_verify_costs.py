"""The verifier finds charges whose cost does not follow from their usage, price, weight and basis."""

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sqlalchemy import text
from verified_ledger import TERMS, VerifiedLedger, open_verified

from support.factories import user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import ProviderRejected
from tollkeeper.quota.audit.problems import Fault
from tollkeeper.quota.rules.models import Basis

pytestmark = [pytest.mark.stock_postgres, pytest.mark.exhaustive_on_postgres]


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(database_url) as made:
        yield made


@pytest.fixture
async def sqlite_verified(sqlite_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(sqlite_url) as made:
        yield made


async def test_a_charge_that_ended_in_any_way_has_no_problem(verified: VerifiedLedger) -> None:
    for usage in (Usage(5, 20), Usage(5, 20, 2, 1), Usage(10, 2_000)):
        await verified.spend(usage)
        await verified.spend(usage, Basis.COUNTED)
    for _ in range(3):
        await verified.spend(None)
    with pytest.raises(ProviderRejected):
        async with verified.ledger.reservation(verified.caller, TERMS):
            raise ProviderRejected
    await verified.refund(await verified.spend(Usage(7, 30)))
    await verified.expire()
    await verified.settle_late(await verified.expire(), Usage(9, 30))
    refunded_after = await verified.settle_late(await verified.expire(), Usage(9, 30))
    await verified.refund(refunded_after)
    refunded_before = await verified.expire()
    await verified.refund(refunded_before.charge_id)
    await verified.settle_late(refunded_before, Usage(9, 31))
    await verified.replay()
    await verified.ledger.reservation(verified.caller, TERMS).__aenter__()
    for chunk in (5, 10, 5_000):
        report = await verified.verify(chunk)
        assert report.problems == []
        assert (report.charges, report.undecided) == (18, 0)


async def test_an_unknown_outcome_costs_the_checkpoint_or_the_whole_hold(sqlite_verified: VerifiedLedger) -> None:
    """Beyond what may be forgiven, the user pays the hold."""
    verified = sqlite_verified
    await verified.set_limit(user_quota(verified.caller), 1_000)
    first, second = await verified.spend(None), await verified.spend(None)
    async with verified.database.session() as session:
        rows = await (await session.connection()).execute(text("SELECT id, cost_tokens FROM charges"))
        costs = {row.id: row.cost_tokens for row in rows}
    assert (costs[first], costs[second]) == (15, 150)
    assert (await verified.verify()).clean


@pytest.mark.parametrize("basis", [Basis.PROVIDER, Basis.COUNTED])
async def test_a_charge_that_was_recovered_has_no_problem(verified: VerifiedLedger, basis: Basis) -> None:
    await verified.recover(basis)
    report = await verified.verify()
    assert report.problems == []
    assert (report.charges, report.undecided) == (1, 0)


EDITS: dict[str, tuple[str, str]] = {
    "input of reported usage": ("provider", "input_tokens = input_tokens - 4"),
    "output of reported usage": ("provider", "output_tokens = output_tokens + 1"),
    "cached input": ("provider", "cached_input_tokens = 5"),
    "input written to a cache": ("provider", "cache_write_tokens = 5"),
    "weight": ("provider", "weight_milli = 1000"),
    "price of output": ("provider", "price_output = 5000000"),
    "price": ("provider", "price_input = NULL"),
    "basis of a reported usage": ("provider", "basis = 'none'"),
    "basis that there is not": ("provider", "basis = 'gift'"),
    "basis that is missing": ("provider", "basis = NULL"),
    "basis of an overrun": ("overrun", "basis = 'counted'"),
    "usage above the hold that was counted": ("counted", "output_tokens = 20"),
    "usage of an unknown outcome": ("unknown", "input_tokens = 11"),
    "basis of a released charge": ("released", "basis = 'provider', input_tokens = 1"),
    "usage that became known late": ("adjusted", "output_tokens = 29"),
    "usage of a refunded charge": ("refunded", "output_tokens = 29"),
    "checkpoint of a charge that was refunded before its adjustment": ("refunded_before", "checkpoint_input = 9"),
}


@pytest.mark.parametrize("edit", EDITS)
async def test_a_cost_that_does_not_follow_from_the_row_is_found(sqlite_verified: VerifiedLedger, edit: str) -> None:
    verified = sqlite_verified
    name, change = EDITS[edit]
    charges = await make_charges(verified)
    assert (await verified.verify()).clean
    await verified.execute(f"UPDATE charges SET {change} WHERE id = '{charges[name]}'")
    [problem] = (await verified.verify()).problems
    assert (problem.fault, problem.where) == (Fault.COST, f"charge {charges[name]}")


async def make_charges(verified: VerifiedLedger) -> dict[str, str]:
    """One charge for each way in which a cost is decided."""
    charges = {
        "provider": await verified.spend(Usage(5, 20)),
        "overrun": await verified.spend(Usage(10, 200)),
        "counted": await verified.spend(Usage(10, 200), Basis.COUNTED),
        "unknown": await verified.spend(None),
        "refunded": await verified.spend(Usage(7, 30)),
    }
    released = verified.ledger.reservation(verified.caller, TERMS)
    with suppress(ProviderRejected):
        async with released:
            raise ProviderRejected
    charges["released"] = released.charge_id
    await verified.refund(charges["refunded"])
    charges["adjusted"] = await verified.settle_late(await verified.expire(), Usage(9, 30))
    refunded_before = await verified.expire()
    await verified.refund(refunded_before.charge_id)
    charges["refunded_before"] = await verified.settle_late(refunded_before, Usage(9, 31))
    return charges


async def test_a_replay_that_costs_something_is_found(sqlite_verified: VerifiedLedger) -> None:
    await sqlite_verified.replay()
    await sqlite_verified.execute("UPDATE charges SET cost_tokens = 5, overrun = true WHERE basis = 'cache'")
    report = await sqlite_verified.verify()
    assert [problem.fault for problem in report.problems] == [Fault.COST]


async def test_a_recovered_cost_above_its_usage_is_found(sqlite_verified: VerifiedLedger) -> None:
    """The hold that bounded it is lost, so less than the usage is possible."""
    await sqlite_verified.recover(Basis.COUNTED)
    await sqlite_verified.execute("UPDATE charges SET output_tokens = 1, input_tokens = 1")
    assert [problem.fault for problem in (await sqlite_verified.verify()).problems] == [Fault.COST]
