"""Credentials: an access token and an API key authenticate the same user, each while it is valid."""

import pytest

from support.factories import FakeClock, make_principal
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.errors import Forbidden, Unauthenticated
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.keys import ApiKeys, NewKey
from tollkeeper.identity.models import User
from tollkeeper.identity.tokens import Tokens
from tollkeeper.principal import Access, Principal

ADDRESS = "192.0.2.1"

SECRET = "a-secret-for-tests-0123456789abcdef"


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET, minutes=15, clock=SystemClock())


@pytest.fixture
def credentials(database: Database, tokens: Tokens) -> Authenticator:
    return Authenticator(tokens, ApiKeys(database, FakeClock()), FakeClock(), step_up_minutes=15)


@pytest.fixture
async def ada(database: Database) -> Principal:
    return await make_principal(database)


async def make(database: Database, owner: Principal) -> NewKey:
    async with database.session() as session:
        user = await session.get_one(User, owner.user_id)
        return await keys.create(session, user, "robot", {Access.AI}, None, FakeClock().now_ms())


async def test_a_token_allows_everything_and_a_key_only_its_scopes(
    database: Database, credentials: Authenticator, tokens: Tokens, ada: Principal
) -> None:
    token, key = tokens.issue(ada), await make(database, ada)
    for access in Access:
        assert await credentials.verify(token, access, ADDRESS) == ada
    assert (await credentials.verify(key.secret, Access.AI, ADDRESS)).user_id == ada.user_id
    with pytest.raises(Forbidden):
        await credentials.verify(key.secret, Access.KEYS, ADDRESS)
    for wrong in ("", "tk-", f"tk-{token}", token[:-1]):
        with pytest.raises(Unauthenticated):
            await credentials.verify(wrong, Access.AI, ADDRESS)


async def test_a_token_and_a_key_load_the_account_until_it_is_disabled(
    database: Database, credentials: Authenticator, tokens: Tokens, ada: Principal
) -> None:
    key = await make(database, ada)
    callers = [
        await credentials.verify(tokens.issue(ada), Access.ME, ADDRESS),
        await credentials.verify(key.secret, Access.AI, ADDRESS),
    ]
    async with database.session() as session:
        for caller in callers:
            user, tenant = await credentials.load_account(session, caller)
            assert (user.id, tenant.id) == (ada.user_id, ada.tenant_id)
    async with database.session() as session:
        accounts.disable(await session.get_one(User, ada.user_id), FakeClock().now_ms())
    async with database.session() as session:
        for caller in callers:
            with pytest.raises(Unauthenticated):
                await credentials.load_account(session, caller)
    with pytest.raises(Unauthenticated):
        await credentials.verify(key.secret, Access.AI, ADDRESS)


async def test_forgetting_a_caller_without_a_key_changes_nothing(
    database: Database, credentials: Authenticator, ada: Principal
) -> None:
    key = await make(database, ada)
    caller = await credentials.verify(key.secret, Access.AI, ADDRESS)
    credentials.forget(None)
    credentials.forget(ada)
    assert await credentials.verify(key.secret, Access.AI, ADDRESS) == caller
