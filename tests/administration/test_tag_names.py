"""How many tags a tenant can have: closed ones count, because their values stay."""

import pytest

from administration.conftest import Acting
from support.factories import make_principal
from tollkeeper.administration.tags import MAX_NAMES_PER_TENANT, TagTerms, declare_tag
from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity.tag_models import TagName
from tollkeeper.principal import Role


@pytest.mark.exhaustive_on_postgres
async def test_closing_tags_makes_room_for_no_more_than_so_many_names(database: Database, acting: Acting) -> None:
    caller = await make_principal(database, role=Role.TENANT_ADMIN)
    async with acting(caller) as admin:
        for number in range(MAX_NAMES_PER_TENANT):
            name = f"closed-{number}"
            tag = TagName(tenant_id=caller.tenant_id, name=name, any_value=True, max_values=9, created_ms=1)
            tag.closed_ms = 2
            admin.session.add(tag)
        await admin.session.flush()
        again = await declare_tag(admin, None, "closed-7", TagTerms())
        assert again.closed_ms is None
        with pytest.raises(InvalidRequest, match="the most"):
            await declare_tag(admin, None, "one-more", TagTerms())
