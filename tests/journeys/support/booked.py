"""Whether all that the upstream has served is booked, after processes have died or lost their database (P5)."""

import asyncio

from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.server import Server
from journeys.upstream.handle import Served, Upstream
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.quota.rules.models import Charge


async def assert_all_is_booked(server: Server, upstream: Upstream) -> None:
    """After lease and sweep no charge is open, the ledger is consistent, and each served answer has its charge."""
    charges = {charge.granted_output: charge for charge in await closed_charges(server)}
    await assert_ledger_is_consistent(server.database_url)
    served = upstream.served()
    assert len({answer.limit for answer in served}) == len(served), "a call was sent twice"
    for answer in served:
        assert answer.limit in charges, f"{answer} has no charge"
        _assert_booked(charges[answer.limit], answer)


async def closed_charges(server: Server) -> list[Charge]:
    """Wait until all charges are closed, and return them."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            found = await charges_in(server.database_url)
            if all(charge.closed_ms is not None for charge in found):
                return found
            await asyncio.sleep(0.1)


def _assert_booked(charge: Charge, served: Served) -> None:
    assert charge.state == "settled", charge
    assert charge.cost_tokens + charge.forgiven_tokens >= served.tokens, charge
    if charge.basis == "provider":
        assert charge.cost_tokens == served.tokens
