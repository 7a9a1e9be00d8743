"""A ledger whose charges are verified: with prices, a weight, and quotas that are older than every charge."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger_environment import batch
from sqlalchemy import text

from support.factories import FakeClock, make_principal, make_store, make_terms, set_limit, tenant_quota, user_quota
from tollkeeper.chat import Price, Usage
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.operations import Recover
from tollkeeper.quota.rules.page import QuotaKey
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.time_sorted_ids import new_id

PRICE = Price(2_000_000, 1_000_000, 4_000_000, 3_000_000)
TERMS = make_terms(10, 90, weight_milli=1_500, price=PRICE)
"""A call holds 150 tokens and 390 micro-USD."""
KEYED_REQUEST = KeyedRequest("order 66", "a" * 64)


@dataclass
class VerifiedLedger:
    """A ledger on a clock that stands still, and a caller with three quotas."""

    database: Database
    clock: FakeClock
    ledger: Ledger
    caller: Principal
    url: str

    async def spend(self, usage: Usage | None, basis: Basis = Basis.PROVIDER) -> str:
        """One call; without a usage, its outcome stays unknown. Returns the charge's id."""
        async with self.ledger.reservation(self.caller, TERMS) as reservation:
            if usage is not None:
                reservation.set_usage(usage, basis)
        return reservation.charge_id

    async def expire(self) -> Reservation:
        """A call whose lease ends before its usage is known."""
        lost = self.ledger.reservation(self.caller, TERMS)
        await lost.__aenter__()
        self.clock.step(61)
        other = Ledger(make_store(self.url, self.clock), lease_seconds=60)
        other.start()
        assert await other.sweep() == 1
        await other.stop()
        return lost

    async def settle_late(self, lost: Reservation, usage: Usage) -> str:
        lost.set_usage(usage)
        await lost.__aexit__(None, None, None)
        return lost.charge_id

    async def refund(self, charge_id: str) -> None:
        await self.ledger.refund(charge_id, self.caller.tenant_id, actor="test", reason="it was nonsense")

    async def set_limit(self, key: QuotaKey, limit: int = 1_000_000) -> None:
        await set_limit(self.ledger, key, limit)

    async def execute(self, *statements: str) -> None:
        async with self.database.session() as session:
            connection = await session.connection()
            for statement in statements:
                await connection.execute(text(statement))

    async def verify(self, chunk: int = 10) -> AuditReport:
        return await verify(self.database, now_ms=self.clock.ms, chunk=chunk)

    async def verify_since(self, mark: Path) -> AuditReport:
        return await verify(self.database, now_ms=self.clock.ms, chunk=3, mark_file=mark)

    async def replay(self) -> None:
        """A call whose response is stored, and its replay, which holds nothing."""
        for _ in range(2):
            async with self.ledger.reservation(self.caller, TERMS, keyed_request=KEYED_REQUEST) as reservation:
                reservation.set_usage(Usage(1, 1))
                reservation.store_response(lambda _: StoredResponse(200, "application/json", b"{}"))

    async def recover(self, basis: Basis) -> None:
        """Book a call anew whose charge was lost. Its usage is above what it held."""
        store = make_store(self.url, self.clock)
        await batch(store, Recover(new_id("chg"), self.caller, TERMS, 90, Usage(50, 200), basis))
        await store.close()


@asynccontextmanager
async def open_verified(url: str, clock: FakeClock | None = None) -> AsyncIterator[VerifiedLedger]:
    """The quotas are so old that every later charge must hold on them."""
    clock, database = clock or FakeClock(), Database(url)
    ledger = Ledger(make_store(url, clock), lease_seconds=60)
    ledger.start()
    made = VerifiedLedger(database, clock, ledger, await make_principal(database), url)
    quotas = (
        user_quota(made.caller),
        tenant_quota(made.caller),
        user_quota(made.caller, Period.TOTAL, Unit.MICRO_USD),
    )
    for key in quotas:
        await made.set_limit(key)
    clock.step(120)
    try:
        yield made
    finally:
        await ledger.stop()
        await database.close()
