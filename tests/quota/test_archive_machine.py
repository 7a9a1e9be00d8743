"""Whatever happens before, between and after archives, the ledger is clean, and its balances are what they were.

The model knows sums only: what was spent and refunded, and which charges can still be refunded.
"""

import random
from pathlib import Path

import pytest
from archived_ledger import ArchivedLedger, open_archived_ledger
from sqlalchemy import text
from verified_ledger import TERMS

from support.depth import DEPTH
from support.factories import tenant_quota, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import ChargeArchived, LedgerConflict
from tollkeeper.quota.archive import export, removal
from tollkeeper.quota.partition_months import month_at, month_before, parse_month, written
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.time_sorted_ids import month_of

DAY_MS = 86_400_000
STEPS = 30
SEEDS = max(2, DEPTH.machine_examples // 8)


class Walk:
    """Random operations of one caller, over about a year."""

    def __init__(self, archived: ArchivedLedger, seed: int) -> None:
        self.archived = archived
        self.random = random.Random(seed)
        self.open: list[Reservation] = []
        self.charges: list[str] = []
        self.refunded: set[str] = set()
        self.cut = 0

    async def step(self) -> None:
        name = self.random.choices(
            ("spend", "begin", "end", "refund", "limit", "wait", "archive"), (5, 3, 3, 3, 1, 5, 3)
        )[0]
        await getattr(self, name)()

    async def spend(self) -> None:
        self.charges += await self.archived.spend(self.random.randint(1, 3))

    async def begin(self) -> None:
        reservation = self.archived.ledger.ledger.reservation(self.archived.ledger.caller, TERMS)
        await reservation.__aenter__()
        self.open.append(reservation)

    async def end(self) -> None:
        if self.open:
            reservation = self.open.pop(self.random.randrange(len(self.open)))
            reservation.set_usage(Usage(self.random.randint(1, 9), self.random.randint(0, 50)))
            await reservation.__aexit__(None, None, None)
            self.charges.append(reservation.charge_id)

    async def refund(self) -> None:
        """Refused by name exactly if the month is archived."""
        if not self.charges:
            return
        charge_id = self.random.choice(self.charges)
        is_archived = month_of(charge_id) <= self.cut
        try:
            await self.archived.ledger.refund(charge_id)
        except ChargeArchived:
            assert is_archived
        except LedgerConflict:
            assert charge_id in self.refunded
        else:
            assert not is_archived
            self.refunded.add(charge_id)

    async def limit(self) -> None:
        caller = self.archived.ledger.caller
        key = self.random.choice((user_quota(caller), tenant_quota(caller)))
        await self.archived.ledger.set_limit(key, self.random.randint(10**6, 10**7))

    async def wait(self) -> None:
        """Up to the last second of a month, or for some days."""
        clock = self.archived.ledger.clock
        clock.ms += self.random.choice((1_000, DAY_MS, 20 * DAY_MS, 40 * DAY_MS))

    async def archive(self) -> None:
        """All that can be: open calls end first, as their leases do."""
        while self.open:
            await self.end()
        now_ms = self.archived.ledger.clock.ms
        before = month_before(month_at(now_ms - 6 * DAY_MS))
        if before <= parse_month("2023-11"):
            return
        balances = await self.balances()
        for done in await self.archived.archive(before):
            self.cut = max(self.cut, done.months.month)
        assert await self.balances() == balances
        report = await self.archived.ledger.verify(chunk=7)
        assert report.problems == [], f"archived before {written(before)}"
        assert report.archived == self.cut
        assert report.charges == len([one for one in self.charges if month_of(one) > self.cut])

    async def balances(self) -> list[tuple[int, ...]]:
        async with self.archived.ledger.database.session() as session:
            query = text("SELECT id, granted, settled, pending, forgiven, sequence FROM windows ORDER BY id")
            return [tuple(row) for row in await (await session.connection()).execute(query)]


@pytest.mark.proof
@pytest.mark.exhaustive_on_postgres
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_calls_and_archives_in_any_order_leave_a_clean_ledger(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(export, "CHUNK_ROWS", 5)
    monkeypatch.setattr(removal, "BATCH_ROWS", 50)
    mark = tmp_path / "mark"
    async with open_archived_ledger(database_url, tmp_path / "archive", monkeypatch) as archived:
        walk = Walk(archived, seed)
        for number in range(STEPS):
            await walk.step()
            if number % 10 == 9:
                assert (await archived.ledger.verify_since(mark)).problems == []
        archived.ledger.clock.ms += 80 * DAY_MS
        await walk.archive()
        await walk.spend()
        assert walk.cut
        assert (await archived.ledger.verify()).problems == []
        assert (await archived.ledger.verify_since(mark)).problems == []
