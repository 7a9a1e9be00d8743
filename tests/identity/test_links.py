"""One-time links: used once, in time, and only as long as their maker may give what they give."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import pytest
from sqlmodel import select

from support.factories import make_principal
from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidLink, InvalidRequest, NotFound
from tollkeeper.identity import accounts, links
from tollkeeper.identity.links import INVITATION_LIFETIME_MS, RESET_LIFETIME_MS, LinkKind
from tollkeeper.identity.models import OneTimeLink, Tenant, User, UserKind
from tollkeeper.principal import Principal, Role
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

NOW_MS = 1_700_000_000_000


async def reset_token(database: Database, target: Principal, maker: Principal | None = None) -> str:
    async with database.session() as session:
        user = await session.get(User, target.user_id)
        assert user is not None
        created_by = maker.user_id if maker is not None else None
        return (await links.create_reset(session, user, created_by=created_by, now_ms=NOW_MS)).token


async def invitation(
    database: Database, tenant_id: int, role: Role = Role.MEMBER, maker: Principal | None = None
) -> str:
    async with database.session() as session:
        email, created_by = f"{secrets.token_hex(8)}@example.com", maker.user_id if maker is not None else None
        link = await links.create_invitation(session, tenant_id, email, role, created_by=created_by, now_ms=NOW_MS)
        return link.token


async def is_usable(database: Database, kind: LinkKind, token: str, now_ms: int = NOW_MS) -> bool:
    async with database.session() as session:
        try:
            await links.find(session, kind, token, now_ms)
        except InvalidLink:
            return False
        return True


async def change(database: Database, principal: Principal, how: Callable[[User], object]) -> None:
    async with database.session() as session:
        user = await session.get(User, principal.user_id)
        assert user is not None
        how(user)


async def test_a_token_is_not_stored(database: Database) -> None:
    member = await make_principal(database)
    token = await reset_token(database, member)
    async with database.session() as session:
        (row,) = (await session.exec(select(OneTimeLink))).all()
    assert token not in str(row.model_dump())
    assert len(token) == 43


async def test_a_link_is_valid_until_it_expires(database: Database) -> None:
    member = await make_principal(database)
    for kind, token, lifetime_ms in (
        (LinkKind.RESET, await reset_token(database, member), RESET_LIFETIME_MS),
        (LinkKind.INVITATION, await invitation(database, member.tenant_id), INVITATION_LIFETIME_MS),
    ):
        assert await is_usable(database, kind, token, NOW_MS + lifetime_ms - 1)
        assert not await is_usable(database, kind, token, NOW_MS + lifetime_ms)
        assert not await is_usable(database, kind, token + "x")


async def test_of_requests_at_once_one_consumes_the_link(database: Database) -> None:
    member = await make_principal(database)
    token = await reset_token(database, member)

    async def consume() -> bool:
        try:
            async with database.session() as session:
                await links.consume(session, LinkKind.RESET, token, NOW_MS)
        except InvalidLink:
            return False
        return True

    assert sorted(await asyncio.gather(*(consume() for _ in range(4)))) == [False, False, False, True]
    assert not await is_usable(database, LinkKind.RESET, token)


async def test_a_link_that_is_not_consumed_in_the_end_stays_valid(database: Database) -> None:
    member = await make_principal(database)
    token = await reset_token(database, member)

    async def fail_after_it() -> None:
        async with database.session() as session:
            await links.consume(session, LinkKind.RESET, token, NOW_MS)
            raise ZeroDivisionError

    await refuses(ZeroDivisionError, fail_after_it)
    assert await is_usable(database, LinkKind.RESET, token)


async def test_a_reset_ends_with_a_new_password_or_state_of_the_user(database: Database) -> None:
    endings: list[Callable[[User], object]] = [
        lambda user: accounts.change_password(user, "-"),
        lambda user: accounts.disable(user, NOW_MS),
    ]
    for ending in endings:
        member = await make_principal(database)
        token = await reset_token(database, member)
        assert await is_usable(database, LinkKind.RESET, token)
        await change(database, member, ending)
        assert not await is_usable(database, LinkKind.RESET, token)


def demote(user: User) -> None:
    user.role = Role.MEMBER.value


def disable(user: User) -> None:
    accounts.disable(user, NOW_MS)


@pytest.mark.parametrize("ending", [demote, disable])
@pytest.mark.parametrize("role", [Role.TENANT_ADMIN, Role.OPERATOR])
async def test_a_link_ends_with_the_power_of_its_maker(
    database: Database, role: Role, ending: Callable[[User], object]
) -> None:
    maker = await make_principal(database, role=role)
    member = await make_principal(database, maker.tenant_id)
    reset = await reset_token(database, member, maker)
    invited = await invitation(database, maker.tenant_id, Role.TENANT_ADMIN, maker)
    assert await is_usable(database, LinkKind.RESET, reset)
    assert await is_usable(database, LinkKind.INVITATION, invited)
    await change(database, maker, ending)
    assert not await is_usable(database, LinkKind.RESET, reset)
    assert not await is_usable(database, LinkKind.INVITATION, invited)


async def test_a_tenant_admins_link_gives_nothing_of_another_tenant_nor_an_operators_power(database: Database) -> None:
    maker = await make_principal(database, role=Role.TENANT_ADMIN)
    stranger = await make_principal(database)
    operator = await make_principal(database, maker.tenant_id, role=Role.OPERATOR)
    for target in (stranger, operator):
        assert not await is_usable(database, LinkKind.RESET, await reset_token(database, target, maker))
    for tenant_id, role in ((stranger.tenant_id, Role.MEMBER), (maker.tenant_id, Role.OPERATOR)):
        token = await invitation(database, tenant_id, role, maker)
        assert not await is_usable(database, LinkKind.INVITATION, token)
    by_command = await reset_token(database, operator)
    assert await is_usable(database, LinkKind.RESET, by_command)


async def test_no_link_of_a_disabled_tenant_is_valid(database: Database) -> None:
    member = await make_principal(database)
    reset, invited = await reset_token(database, member), await invitation(database, member.tenant_id)
    async with database.session() as session:
        tenant = await session.get(Tenant, member.tenant_id)
        assert tenant is not None
        accounts.disable(tenant, NOW_MS)
    assert not await is_usable(database, LinkKind.RESET, reset)
    assert not await is_usable(database, LinkKind.INVITATION, invited)


@pytest.mark.prove_only_on_postgres
async def test_open_invitations_are_listed_withdrawn_and_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = await make_principal(database), await make_principal(database)
    for tenant_id in (ours.tenant_id, ours.tenant_id, theirs.tenant_id):
        await invitation(database, tenant_id)

    async def ids(scope: TenantScope, after: str | None = None, now_ms: int = NOW_MS) -> list[str]:
        async with database.session() as session:
            found = await links.list_invitations(session, scope, after=after, limit=10, now_ms=now_ms)
            return [link.id for link in found]

    first, second = await ids(TenantScope(ours.tenant_id))
    assert await ids(TenantScope(ours.tenant_id), after=first) == [second]
    assert len(await ids(ALL_TENANTS)) == 3
    assert await ids(ALL_TENANTS, now_ms=NOW_MS + INVITATION_LIFETIME_MS) == []
    monkeypatch.setattr(links, "MAX_OPEN_INVITATIONS", 2)
    await refuses(InvalidRequest, lambda: invitation(database, ours.tenant_id))
    await invitation(database, theirs.tenant_id)

    async def withdraw(scope: TenantScope) -> None:
        async with database.session() as session:
            await links.withdraw(session, scope, first, NOW_MS)

    await refuses(NotFound, lambda: withdraw(TenantScope(theirs.tenant_id)))
    await withdraw(TenantScope(ours.tenant_id))
    await refuses(NotFound, lambda: withdraw(TenantScope(ours.tenant_id)))
    assert await ids(TenantScope(ours.tenant_id)) == [second]
    await invitation(database, ours.tenant_id)


@pytest.mark.prove_only_on_postgres
async def test_a_service_account_has_neither_reset_nor_password(database: Database) -> None:
    robot = await make_principal(database)

    def become_service(user: User) -> None:
        user.kind = UserKind.SERVICE.value

    await change(database, robot, become_service)
    await refuses(InvalidRequest, lambda: reset_token(database, robot))
    await refuses(InvalidRequest, lambda: change(database, robot, lambda user: accounts.change_password(user, "-")))


async def refuses(error: type[Exception], act: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(error):
        await act()
