"""One user cannot take all the values that a tag may have."""

import asyncio
from dataclasses import replace

from support.factories import FakeClock, make_principal
from tollkeeper.database.engine import Database
from tollkeeper.errors import TagRefused
from tollkeeper.identity.tag_models import TagName
from tollkeeper.identity.tag_values import TagValues, note_value
from tollkeeper.principal import Principal


async def bring(database: Database, caller: Principal, *values: str) -> int:
    """Bring values of the tag `run`, all at the same time, and return how many of them are refused for the share."""

    async def one(value: str) -> bool:
        try:
            await TagValues(database, FakeClock()).admit(replace(caller, tags=(f"run={value}",)))
        except TagRefused as refusal:
            return "places left" in str(refusal.detail)
        return False

    return sum(await asyncio.gather(*map(one, values)))


async def test_each_user_leaves_as_many_places_as_they_take(database: Database) -> None:
    """Also with calls at the same time, and by several users after one another."""
    ada = await make_principal(database)
    others = [await make_principal(database, tenant_id=ada.tenant_id) for _ in range(3)]
    async with database.session() as session:
        session.add(TagName(tenant_id=ada.tenant_id, name="run", any_value=True, max_values=20, created_ms=1))
    assert await bring(database, ada, *(f"a{number}" for number in range(15))) == 15 - 11
    mine = await known(database, ada)
    assert (len(mine), await bring(database, ada, *mine, "more")) == (11, 1)
    assert await bring(database, others[0], *(f"b{number}" for number in range(9))) == 9 - 5
    assert await bring(database, others[1], *(f"c{number}" for number in range(9))) == 9 - 3
    async with database.session() as session:
        await note_value(session, ada.tenant_id, "run=by-an-administrator", 1)
    assert len(await known(database, ada)) == 20


async def known(database: Database, caller: Principal) -> set[str]:
    async with database.session() as session:
        connection = await session.connection()
        rows = await connection.exec_driver_sql(f"SELECT value FROM tag_values WHERE tenant_id = {caller.tenant_id}")
        return {value for (value,) in rows}
