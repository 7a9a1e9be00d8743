"""What is granted of a request for more quota: as planned, however often it is repeated."""

import pytest

from administration.conftest import Acting
from support.factories import FakeClock, make_principal
from tollkeeper.administration import quota_requests
from tollkeeper.database.engine import Database
from tollkeeper.errors import LedgerConflict
from tollkeeper.principal import Role
from tollkeeper.quota.rules.models import Quota
from tollkeeper.quota.rules.windows import Period


@pytest.mark.exhaustive_on_postgres
async def test_a_repeated_grant_ends_when_the_first_one_does(
    database: Database, acting: Acting, clock: FakeClock
) -> None:
    """The process can end between the commit of the plan and that of the ledger: the repetition applies it."""
    caller = await make_principal(database, role=Role.TENANT_ADMIN)
    member = await make_principal(database, caller.tenant_id)
    async with database.session() as session:
        quota = Quota(tenant_id=member.tenant_id, user_id=member.user_id, kind="user", period="day", granted=1_000)
        session.add(quota)
        await session.flush()
        asked = await quota_requests.ask(session, member, 500, Period.DAY, "the report is due", clock.ms)
        assert asked.id is not None
    until_ms = clock.ms + 60_000
    plans = []
    for _ in range(2):
        async with acting(caller) as admin:
            plans.append(await quota_requests.plan_grant(admin, asked.id, 300, "half of it", until_ms=until_ms))
    assert plans[0] == plans[1]
    assert [change.until_ms for change in plans[1].changes] == [until_ms]
    with pytest.raises(LedgerConflict):
        async with acting(caller) as admin:
            await quota_requests.plan_grant(admin, asked.id, 301, None, until_ms=until_ms)
