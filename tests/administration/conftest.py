"""Administrators within this process, on each of the two databases."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr

from support.factories import FakeClock
from tollkeeper.administration.administrator import Administrator
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.principal import Principal, Role
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

Acting = Callable[..., AbstractAsyncContextManager[Administrator]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def data_keys(database: Database, clock: FakeClock) -> DataKeys:
    keys = DataKeys(SecretStr("9a8b7c6d5e4f30211203f4e5d6c7b8a9-administration"))
    await keys.load(database, clock)
    return keys


@pytest.fixture
def audit_log(data_keys: DataKeys) -> AuditLog:
    return AuditLog(data_keys)


@pytest.fixture
def acting(database: Database, audit_log: AuditLog, clock: FakeClock) -> Acting:
    """`async with acting(principal) as admin`: one transaction of this user, who has logged in a moment ago."""

    @asynccontextmanager
    async def act(principal: Principal, *, is_fresh: bool = True) -> AsyncIterator[Administrator]:
        scope = ALL_TENANTS if principal.role is Role.OPERATOR else TenantScope(principal.tenant_id)
        async with database.session() as session:
            admin = Administrator(session, audit_log, f"user:{principal.user_id}", principal.role, scope, clock.ms)
            yield replace(admin, tenant_id=principal.tenant_id, user_id=principal.user_id, is_fresh=is_fresh)

    return act
