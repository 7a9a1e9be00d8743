"""Tenants and users, on both databases."""

from collections.abc import AsyncIterator

import pytest

from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidCredentials, InvalidRequest, NotFound, Unauthenticated
from tollkeeper.identity import accounts
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Principal, Role

PASSWORD = "correct horse battery"
NOW_MS = 1_700_000_000_000


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(rounds=4)
    yield made
    made.close()


@pytest.fixture
async def ada(database: Database, passwords: Passwords) -> User:
    stored = await passwords.hash(PASSWORD)
    async with database.session() as session:
        await accounts.create_tenant(session, "acme")
        return await accounts.create_user(session, "acme", "  Ada@Example.COM ", stored, Role.TENANT_ADMIN)


async def test_login_ignores_the_case_of_the_email_address(database: Database, passwords: Passwords, ada: User) -> None:
    caller = await accounts.login(database, passwords, " ADA@example.com", PASSWORD, now_ms=0)
    assert caller == Principal(ada.id or 0, ada.tenant_id, Role.TENANT_ADMIN, 0)


async def test_wrong_password_unknown_user_disabled_user_and_disabled_tenant_look_alike(
    database: Database, passwords: Passwords, ada: User
) -> None:
    async def refusal(email: str, password: str) -> str:
        with pytest.raises(InvalidCredentials) as raised:
            await accounts.login(database, passwords, email, password, now_ms=0)
        return raised.value.detail

    seen = {await refusal(ada.email, "wrong"), await refusal("nobody@example.com", PASSWORD)}
    async with database.session() as session:
        accounts.disable(await accounts.get_user_by_email(session, ada.email), NOW_MS)
    seen.add(await refusal(ada.email, PASSWORD))
    async with database.session() as session:
        accounts.enable(await accounts.get_user_by_email(session, ada.email))
        accounts.disable(await accounts.get_tenant_by_name(session, "acme"), NOW_MS)
    seen.add(await refusal(ada.email, PASSWORD))
    assert len(seen) == 1


async def test_a_principal_is_good_until_something_about_it_changes(
    database: Database, passwords: Passwords, ada: User
) -> None:
    caller = await accounts.login(database, passwords, ada.email, PASSWORD, now_ms=0)

    async def is_good() -> bool:
        async with database.session() as session:
            try:
                user, tenant = await accounts.load_account(session, caller, NOW_MS)
            except Unauthenticated:
                return False
            return (user.email, tenant.name) == (ada.email, "acme")

    async def change(what: str) -> None:
        async with database.session() as session:
            user = await accounts.get_user_by_email(session, ada.email)
            tenant = await accounts.get_tenant_by_name(session, "acme")
            match what:
                case "disable tenant":
                    accounts.disable(tenant, NOW_MS)
                case "enable tenant":
                    accounts.enable(tenant)
                case "new password":
                    accounts.change_password(user, "-")
                case "new role":
                    user.role = Role.MEMBER.value

    assert await is_good()
    await change("disable tenant")
    assert not await is_good()
    await change("enable tenant")
    assert await is_good()
    await change("new role")
    assert not await is_good()
    caller = Principal(caller.user_id, caller.tenant_id, Role.MEMBER, 0)
    assert await is_good()
    await change("new password")
    assert not await is_good()


async def test_disabling_a_user_revokes_its_tokens_permanently(
    database: Database, passwords: Passwords, ada: User
) -> None:
    caller = await accounts.login(database, passwords, ada.email, PASSWORD, now_ms=0)
    async with database.session() as session:
        accounts.disable(await accounts.get_user_by_email(session, ada.email), NOW_MS)
    async with database.session() as session:
        accounts.enable(await accounts.get_user_by_email(session, ada.email))
    async with database.session() as session:
        with pytest.raises(Unauthenticated):
            await accounts.load_account(session, caller, NOW_MS)


async def test_a_principal_of_an_unknown_user_is_refused(database: Database) -> None:
    async with database.session() as session:
        with pytest.raises(Unauthenticated):
            await accounts.load_account(session, Principal(999, 1, Role.MEMBER, 0), NOW_MS)


async def test_names_and_email_addresses_are_unique_and_valid(database: Database, ada: User) -> None:
    async def create(name: str | None, email: str) -> None:
        async with database.session() as session:
            if name is not None:
                await accounts.create_tenant(session, name)
            else:
                await accounts.create_user(session, "acme", email, "-", Role.MEMBER)

    async def refused(name: str | None = None, email: str = "") -> str:
        with pytest.raises(InvalidRequest) as raised:
            await create(name, email)
        return raised.value.detail

    assert "acme" in await refused(name="acme")
    assert "ada@example.com" in await refused(email="ADA@example.com")
    for name in ("", "  ", "x" * 101, "a\nb"):
        assert await refused(name=name)
    for email in ("", "ada", "@", "a@", "@b", "a b@c", "a@b\0", "x" * 251 + "@b.c"):
        assert await refused(email=email)


async def test_an_unknown_tenant_or_user_is_not_found(database: Database) -> None:
    async with database.session() as session:
        with pytest.raises(NotFound):
            await accounts.get_tenant_by_name(session, "nobody")
        with pytest.raises(NotFound):
            await accounts.get_user_by_email(session, "nobody@example.com")
        with pytest.raises(NotFound):
            await accounts.create_user(session, "nobody", "a@b.c", "-", Role.MEMBER)


async def test_lists_are_of_everyone_or_of_one_tenant(database: Database, ada: User) -> None:
    async with database.session() as session:
        other: Tenant = await accounts.create_tenant(session, "beta")
        await accounts.create_user(session, "beta", "bob@example.com", "-", Role.MEMBER)
    async with database.session() as session:
        assert [tenant.name for tenant in await accounts.list_tenants(session)] == ["acme", "beta"]
        assert [user.email for user, _ in await accounts.list_users(session)] == ["ada@example.com", "bob@example.com"]
        assert [(user.email, t.name) for user, t in await accounts.list_users(session, other)] == [
            ("bob@example.com", "beta")
        ]
        assert await accounts.has_users(session)


async def test_a_hash_is_never_shown_in_the_rows_text(ada: User) -> None:
    assert "bcrypt" not in repr(ada)
