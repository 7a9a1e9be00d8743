"""Which acts on users need a fresh login, and who may do what to whom."""

import secrets
from collections.abc import Awaitable, Callable

import pytest

from administration.conftest import Acting
from support.factories import make_principal
from tollkeeper.administration import erasure, links, users
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.users import NewUser
from tollkeeper.database.engine import Database
from tollkeeper.errors import Forbidden, InvalidRequest, NotFound, StepUpRequired
from tollkeeper.identity.models import User
from tollkeeper.principal import Role
from tollkeeper.tenant_scope import TenantScope


def _email() -> str:
    return f"{secrets.token_hex(8)}@example.com"


Act = Callable[[Administrator, User], Awaitable[object]]

GIVE_ACCESS: dict[str, Act] = {
    "create a tenant admin": lambda admin, _: users.create_user(admin, NewUser(_email(), role=Role.TENANT_ADMIN)),
    "promote to tenant admin": lambda admin, user: users.change_user(admin, user, {"role": "tenant_admin"}),
    "invite a tenant admin": lambda admin, _: links.invite(admin, _email(), Role.TENANT_ADMIN),
    "reset a password": links.create_reset,
    "set a password": lambda admin, user: users.change_password(admin, user, "-"),
    "erase": lambda admin, user: erasure.erase_user(admin, user, "request"),
}
GIVE_POWER: dict[str, Act] = {
    "create an operator": lambda admin, _: users.create_user(admin, NewUser(_email(), role=Role.OPERATOR)),
    "promote to operator": lambda admin, user: users.change_user(admin, user, {"role": "operator"}),
    "invite an operator": lambda admin, _: links.invite(admin, _email(), Role.OPERATOR),
}


@pytest.mark.exhaustive_on_postgres
@pytest.mark.parametrize("role", [Role.TENANT_ADMIN, Role.OPERATOR])
async def test_what_gives_access_needs_a_fresh_login(database: Database, acting: Acting, role: Role) -> None:
    for name, act in (GIVE_ACCESS | (GIVE_POWER if role is Role.OPERATOR else {})).items():
        caller = await make_principal(database, role=role)
        member = await make_principal(database, caller.tenant_id)
        with pytest.raises(StepUpRequired):
            async with acting(caller, is_fresh=False) as admin:
                await act(admin, await users.get_user(admin, member.user_id, to_change=True))
        async with acting(caller) as admin:
            await act(admin, await users.get_user(admin, member.user_id, to_change=True))
            lines = await admin.audit_log.page(admin.session, TenantScope(caller.tenant_id), limit=10)
            assert [line.actor for line in lines] == [admin.name], name


@pytest.mark.exhaustive_on_postgres
async def test_what_gives_no_power_needs_none(database: Database, acting: Acting) -> None:
    caller = await make_principal(database, role=Role.TENANT_ADMIN)
    async with acting(caller, is_fresh=False) as admin:
        user = await users.create_user(admin, NewUser("ada@example.com"))
        await links.invite(admin, "bob@example.com", Role.MEMBER)
        await users.change_user(admin, user, {"disabled": True, "email": "ada@example.org"})
        assert (user.disabled_at is not None, user.email) == (True, "ada@example.org")


@pytest.mark.exhaustive_on_postgres
async def test_only_operators_give_the_power_of_operators_and_take_it(database: Database, acting: Acting) -> None:
    caller = await make_principal(database, role=Role.TENANT_ADMIN)
    member = await make_principal(database, caller.tenant_id)
    operator = await make_principal(database, caller.tenant_id, role=Role.OPERATOR)
    on_operators = {name: act for name, act in GIVE_ACCESS.items() if name in ("reset a password", "erase")}
    on_operators |= {
        "demote": lambda admin, user: users.change_user(admin, user, {"role": "member"}),
        "disable": lambda admin, user: users.change_user(admin, user, {"disabled": True}),
        "change the address": lambda admin, user: users.change_user(admin, user, {"email": _email()}),
    }
    for acts, target in ((GIVE_POWER, member), (on_operators, operator)):
        for act in acts.values():
            with pytest.raises(Forbidden):
                async with acting(caller) as admin:
                    await act(admin, await users.get_user(admin, target.user_id, to_change=True))


@pytest.mark.exhaustive_on_postgres
async def test_a_command_can_lift_an_operator_and_needs_to_name_the_tenant(database: Database, acting: Acting) -> None:
    operator = await make_principal(database, role=Role.OPERATOR)
    async with acting(operator) as admin:
        for absent in (None, 2_000_000_000):
            with pytest.raises(InvalidRequest if absent is None else NotFound):
                await users.find_tenant_id(_as_command(admin), absent)
        assert await users.find_tenant_id(_as_command(admin), operator.tenant_id) == operator.tenant_id
        user = await users.get_user(admin, operator.user_id)
        users.require_another(_as_command(admin), user)


def _as_command(admin: Administrator) -> Administrator:
    return Administrator(admin.session, admin.audit_log, "cli:root", admin.role, admin.scope, admin.now_ms)
