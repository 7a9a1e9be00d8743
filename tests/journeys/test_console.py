"""The console in a real browser: each journey does the jobs of one role, on a running server.

Names that users can choose are hostile markup, which must be shown as text: a dialog, a fault or a blocked resource
fails the journey, and so does a violation of WCAG 2.2 AA that axe finds.
"""

import json
import secrets
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from sqlmodel import col, update

from journeys.support.admins import new_admin
from journeys.support.logins import Person, new_person
from journeys.support.openid import sign_on_tenant
from journeys.support.server import Server
from journeys.support.users import AMPLE_LIMIT, PASSWORD
from support.browsers import require_console, run_journey
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import Session
from tollkeeper.principal import Role

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.prove_only_on_postgres(but=("test_an_administrator_makes_a_group_with_a_budget_and_an_alert",)),
]

HOSTILE = "</td><img src=x onerror=alert(1)>\"'&{{7*7}}"
ECHOED = "<b onclick=alert(2)>hello</b>"
ASKED = 5_000
HOSTILE_NAME = "<img src=x onerror=alert(3)>"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def script(**keys: object) -> str:
    """A prompt that has the fake upstream answer so."""
    return f"{HOSTILE} <<{json.dumps(keys)}>>"


async def test_a_member_asks_sees_the_cost_stops_a_call_makes_a_key_and_asks_for_more(
    server: Server, tmp_path: Path
) -> None:
    require_console()
    async with new_person(server) as person:
        await run_journey(
            "member",
            tmp_path,
            url=server.url,
            email=person.email,
            password=PASSWORD,
            hostile=HOSTILE,
            prompt=script(answer=ECHOED),
            echoed=ECHOED,
            endless=script(answer="begun " * 1_000, pace=0.05),
            begun="begun",
        )


async def test_a_member_finds_single_sign_on_signs_in_with_a_second_factor_and_ends_sessions(
    server: Server, tmp_path: Path
) -> None:
    require_console()
    async with sign_on_tenant(server) as tenant, new_person(server) as person:
        reply = await person.send(
            "POST",
            "/auth/login",
            {"username": person.email, "password": PASSWORD},
            headers={"User-Agent": HOSTILE_NAME},
        )
        assert reply.status == 200, reply
        await run_journey(
            "signin",
            tmp_path,
            url=server.url,
            domain=tenant.provider.domain,
            provider=tenant.name,
            email=person.email,
            password=PASSWORD,
            program=HOSTILE_NAME,
        )


async def test_a_member_is_answered_from_documents_with_tools_and_images_and_is_refused_for_a_group(
    server: Server, tmp_path: Path
) -> None:
    require_console()
    async with new_admin(server) as admin, new_person(server, tenant_id=admin.principal.tenant_id) as person:
        group = (await admin.post("/admin/groups", {"name": "research"})).body["id"]
        path = f"/admin/groups/{group}/members/{person.principal.user_id}"
        assert (await admin.send("PUT", path, {"default": False})).status == 200
        limit = {"group_id": group, "unit": "tokens", "window": "day", "limit": 1, "reason": "a test"}
        assert (await admin.post("/admin/quotas", limit)).status == 200
        await run_journey(
            "conversation",
            tmp_path,
            url=server.url,
            email=person.email,
            password=PASSWORD,
            document=f"{HOSTILE_NAME}.md",
            content=f"{HOSTILE_NAME} {HOSTILE} answer {ECHOED}",
            quote=HOSTILE_NAME,
            question=script(answer=ECHOED),
            tools=json.dumps([TOOL]),
            toolQuestion=script(tool_call={"name": HOSTILE_NAME, "arguments": {"city": ECHOED}}),
            argument="city",
            group="research",
            session="physics-1",
            echoed=ECHOED,
        )


async def test_an_administrator_of_a_tenant_grants_sets_a_limit_and_invites(server: Server, tmp_path: Path) -> None:
    require_console()
    async with (
        new_person(server, Role.TENANT_ADMIN) as admin,
        new_person(server, tenant_id=admin.principal.tenant_id) as member,
        new_person(server) as stranger,
    ):
        token = (await member.log_in())["access_token"]
        document = {"tokens": ASKED, "reason": HOSTILE}
        asked = await member.send("POST", "/me/quota/requests", document, token=token)
        assert asked.status == 201, asked
        called = await member.send("POST", "/ai/query", {"prompt": HOSTILE}, token=token)
        assert called.status == 200, called
        await run_journey(
            "admin",
            tmp_path,
            url=server.url,
            cookie=await old_login(server, admin),
            password=PASSWORD,
            hostile=HOSTILE,
            member=member.email,
            granted=f"{AMPLE_LIMIT + ASKED:,}",
            stranger=stranger.email,
            invited=f"{secrets.token_hex(8)}@example.com",
        )


async def test_an_administrator_makes_a_group_with_a_budget_and_an_alert(server: Server, tmp_path: Path) -> None:
    require_console()
    async with (
        new_person(server, Role.TENANT_ADMIN) as admin,
        new_person(server, tenant_id=admin.principal.tenant_id) as member,
        new_person(server) as stranger,
    ):
        token = (await member.log_in())["access_token"]
        made = await member.send("POST", "/auth/keys", {"name": HOSTILE}, token=token)
        assert made.status == 201, made
        await run_journey(
            "admin-groups",
            tmp_path,
            url=server.url,
            email=admin.email,
            password=PASSWORD,
            hostile=HOSTILE,
            group=f"group-{secrets.token_hex(4)}",
            member=member.email,
            unseen=[stranger.email, made.body["key"]],
        )


async def test_an_administrator_sees_who_spends_what_and_sets_rules_and_keys(server: Server, tmp_path: Path) -> None:
    require_console()
    async with (
        new_person(server, Role.TENANT_ADMIN) as admin,
        new_person(server, tenant_id=admin.principal.tenant_id) as member,
        new_person(server) as stranger,
    ):
        for person in (member, stranger):
            token = (await person.log_in())["access_token"]
            called = await person.send("POST", "/ai/query", {"prompt": HOSTILE}, token=token)
            assert called.status == 200, called
        await run_journey(
            "admin-spend",
            tmp_path,
            url=server.url,
            email=admin.email,
            password=PASSWORD,
            hostile=HOSTILE,
            member=member.email,
            model=called.body["model"],
            unseen=[stranger.email],
        )


async def test_an_operator_sees_the_server_verifies_the_ledger_and_refunds(server: Server, tmp_path: Path) -> None:
    require_console()
    async with new_person(server, Role.OPERATOR) as operator, new_person(server) as member:
        token = (await member.log_in())["access_token"]
        reply = await member.send("POST", "/ai/query", {"prompt": HOSTILE}, token=token)
        refused = await member.send("POST", "/ai/query", {"prompt": HOSTILE, "model": HOSTILE}, token=token)
        await run_journey(
            "operator",
            tmp_path,
            url=server.url,
            email=operator.email,
            password=PASSWORD,
            hostile=HOSTILE,
            tenant=f"tenant-{secrets.token_hex(8)}",
            plan=f"{HOSTILE} {secrets.token_hex(4)}",
            token=token,
            refusal=refused.code,
            charge=reply.body["query_id"],
            model="gpt-4.1-nano",
        )


async def old_login(server: Server, person: Person) -> str:
    """The refresh cookie of a login that is too old for acts that need a fresh one."""
    reply = await person.try_login(cookie=True)
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            own = col(Session.user_id) == person.principal.user_id
            await session.exec(update(Session).where(own).values(authenticated_ms=0))
    finally:
        await database.close()
    return SimpleCookie(reply.headers["Set-Cookie"])["tollkeeper_refresh"].value
