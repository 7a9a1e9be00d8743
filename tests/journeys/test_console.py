"""The console in a real browser: each journey does the jobs of one role, on a running server.

Names that users can choose are hostile markup, which must be shown as text: a dialog, a fault or a blocked resource
fails the journey, and so does a violation of WCAG 2.2 AA that axe finds. Axe looks on SQLite only.
"""

import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, update

from journeys.support.admins import new_admin
from journeys.support.hostile_tenant import HOSTILE, HOSTILE_MODEL, PROVIDER_KEY, hostile_tenant
from journeys.support.judges import judged, set_judge
from journeys.support.logins import Person, new_person
from journeys.support.openid import sign_on_tenant
from journeys.support.server import SERVE_WITH_SLOW_COMMANDS, Server
from journeys.support.users import AMPLE_LIMIT, PASSWORD, new_user
from journeys.upstream.handle import Upstream
from support.browsers import run_journey
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import Session
from tollkeeper.principal import Role

pytestmark = pytest.mark.exhaustive

ECHOED = "<b onclick=alert(2)>hello</b>"
ASKED = 5_000
TAG, TAGGED = "cost-centre", {"41": 2, "43": 1}
"""A tag, and how many calls have each of its values."""
VERIFIED_CALLS = 12
Journey = Callable[..., Awaitable[None]]
HOSTILE_NAME = "<img src=x onerror=alert(3)>"
JUDGE = "gpt-4.1-nano"
SCORES = {"gpt-4o-mini": 80, "gpt-4.1-mini": 40}
MEMBER_SHOWS = ("charges", "documents", "keys", "requests", "security")
ADMIN_SHOWS = ("audit", "documents", "moderation", "quota-requests", "statement")
OPERATOR_SHOWS = ("audit", "ledger", "live", "models", "plans", "quota-requests", "tenants")
"""The views of each role on which something has a name that a user chose, among others."""
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture
def journey(server: Server, browser: str, tmp_path: Path) -> Journey:
    """Runs a journey on the server."""
    common: dict[str, Any] = {"url": server.url, "axe": server.is_on_sqlite, "password": PASSWORD, "hostile": HOSTILE}
    return partial(run_journey, browser, folder=tmp_path, **common)


def script(**keys: object) -> str:
    """A prompt that has the fake upstream answer so."""
    return f"{HOSTILE} <<{json.dumps(keys)}>>"


async def test_a_member_asks_sees_the_cost_stops_a_call_makes_a_key_and_asks_for_more(
    server: Server, journey: Journey
) -> None:
    assert f"The console, for a browser: {server.url}/console\n" in server.program.output
    async with new_person(server) as person:
        await journey(
            "member",
            email=person.email,
            prompt=script(answer=ECHOED),
            echoed=ECHOED,
            endless=script(answer="begun " * 1_000, pace=0.05),
            begun="begun",
        )


async def test_a_member_finds_single_sign_on_signs_in_with_a_second_factor_and_ends_sessions(
    server: Server, journey: Journey
) -> None:
    async with sign_on_tenant(server) as tenant, new_person(server) as person:
        reply = await person.send(
            "POST",
            "/auth/login",
            {"username": person.email, "password": PASSWORD},
            headers={"User-Agent": HOSTILE_NAME},
        )
        assert reply.status == 200, reply
        await journey(
            "signin",
            domain=tenant.provider.domain,
            provider=tenant.name,
            email=person.email,
            program=HOSTILE_NAME,
        )


async def test_a_member_is_answered_from_documents_with_tools_and_images_and_is_refused_for_a_group(
    server: Server, journey: Journey
) -> None:
    async with new_admin(server) as admin, new_person(server, tenant_id=admin.principal.tenant_id) as person:
        group = (await admin.post("/admin/groups", {"name": "research"})).body["id"]
        path = f"/admin/groups/{group}/members/{person.principal.user_id}"
        assert (await admin.send("PUT", path, {"default": False})).status == 200
        limit = {"group_id": group, "unit": "tokens", "window": "day", "limit": 1, "reason": "a test"}
        assert (await admin.post("/admin/quotas", limit)).status == 200
        await journey(
            "conversation",
            email=person.email,
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


async def test_an_administrator_of_a_tenant_grants_sets_a_limit_and_invites(server: Server, journey: Journey) -> None:
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
        await journey(
            "admin",
            cookie=await old_login(server, admin),
            member=member.email,
            granted=f"{AMPLE_LIMIT + ASKED:,}",
            stranger=stranger.email,
            invited=f"{secrets.token_hex(8)}@example.com",
        )


async def test_an_administrator_makes_a_group_with_a_budget_and_an_alert(server: Server, journey: Journey) -> None:
    async with (
        new_person(server, Role.TENANT_ADMIN) as admin,
        new_person(server, tenant_id=admin.principal.tenant_id) as member,
        new_person(server) as stranger,
    ):
        token = (await member.log_in())["access_token"]
        made = await member.send("POST", "/auth/keys", {"name": HOSTILE}, token=token)
        assert made.status == 201, made
        await journey(
            "admin-groups",
            email=admin.email,
            group=f"group-{secrets.token_hex(4)}",
            member=member.email,
            unseen=[stranger.email, made.body["key"]],
        )


async def test_an_administrator_sees_who_spends_what_and_sets_rules_and_keys(server: Server, journey: Journey) -> None:
    async with (
        new_person(server, Role.TENANT_ADMIN) as admin,
        new_person(server, tenant_id=admin.principal.tenant_id) as member,
        new_person(server) as stranger,
    ):
        for person in (member, stranger):
            token = (await person.log_in())["access_token"]
            called = await person.send("POST", "/ai/query", {"prompt": HOSTILE}, token=token)
            assert called.status == 200, called
        await declare_tag(admin)
        token = (await member.log_in())["access_token"]
        for value, calls in TAGGED.items():
            for _ in range(calls):
                tags = {"X-Tollkeeper-Tags": f"{TAG}={value}"}
                reply = await member.send("POST", "/ai/query", {"prompt": "Hello"}, token=token, headers=tags)
                assert reply.status == 200, reply
        await journey(
            "admin-spend",
            email=admin.email,
            tagged=TAGGED,
            member=member.email,
            model=called.body["model"],
            unseen=[stranger.email],
        )


async def test_an_operator_sees_the_server_verifies_the_ledger_and_refunds(server: Server, journey: Journey) -> None:
    async with new_person(server, Role.OPERATOR) as operator, new_person(server) as member:
        token = (await member.log_in())["access_token"]
        reply = await member.send("POST", "/ai/query", {"prompt": HOSTILE}, token=token)
        refused = await member.send("POST", "/ai/query", {"prompt": HOSTILE, "model": HOSTILE}, token=token)
        await journey(
            "operator",
            email=operator.email,
            tenant=f"tenant-{secrets.token_hex(8)}",
            plan=f"{HOSTILE} {secrets.token_hex(4)}",
            token=token,
            refusal=refused.code,
            charge=reply.body["query_id"],
            model="gpt-4.1-nano",
        )


async def test_an_operator_sees_how_far_a_verification_is(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, browser: str, tmp_path: Path
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start(SERVE_WITH_SLOW_COMMANDS)
    async with new_person(server, Role.OPERATOR) as operator, new_user(server) as member:
        for _ in range(VERIFIED_CALLS):
            assert (await member.query("Good morning")).status == 200
        await run_journey(
            browser,
            "verification",
            tmp_path,
            url=server.url,
            axe=server.is_on_sqlite,
            email=operator.email,
            password=PASSWORD,
            server=str(server.folder),
        )
    server.stop()


async def test_an_administrator_sees_what_moderation_found_and_which_model_answers_well(
    server: Server, journey: Journey
) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id) as member,
        new_user(server) as stranger,
    ):
        await set_judge(server, member, JUDGE)
        for model, score in SCORES.items():
            reply = await member.query(judged(HOSTILE, {"score": score}, JUDGE), model=model, evaluate=True)
            assert (reply.status, reply.body["quality_score"]) == (200, score), reply
        await journey(
            "admin-quality",
            email=admin.email,
            token=member.token,
            forbidden=f"Heron-{secrets.token_hex(4)}",
            judge=JUDGE,
            scores={model: f"{score:.1f}" for model, score in SCORES.items()},
            unseen=[stranger.email],
        )


async def test_a_member_does_without_a_mouse(server: Server, journey: Journey) -> None:
    async with new_person(server) as person:
        await journey(
            "keyboard",
            email=person.email,
            prompt="Good morning",
        )


async def test_each_role_looks_at_every_view_of_a_tenant_with_hostile_names(server: Server, journey: Journey) -> None:
    async with hostile_tenant(server) as tenant:
        of_tenant = f"tenant={tenant.admin.principal.tenant_id}"
        viewers: tuple[tuple[str, tuple[str, ...], tuple[str, ...], list[str]], ...] = (
            (tenant.member.email, (f"charges/{tenant.charge}",), MEMBER_SHOWS, []),
            (
                tenant.admin.email,
                (f"groups?group={tenant.group}", f"tags?tag={tenant.tag}"),
                ADMIN_SHOWS,
                [tenant.prompt],
            ),
            (
                tenant.operator.email,
                (f"ledger/{tenant.charge}", f"audit?{of_tenant}", f"tenant-usage?{of_tenant}"),
                OPERATOR_SHOWS,
                [tenant.prompt],
            ),
        )
        for email, more, shows, unseen in viewers:
            is_operator = email == tenant.operator.email
            foreign = [] if is_operator else [tenant.stranger.email]
            await journey(
                "views",
                hostileModel=HOSTILE_MODEL,
                email=email,
                more=more,
                least=len(more) + 8,
                hostileOn=shows,
                unseen=[tenant.api_key, PROVIDER_KEY, *foreign, *unseen],
            )


async def declare_tag(admin: Person) -> None:
    token = (await admin.log_in())["access_token"]
    reply = await admin.send("POST", "/admin/tags", {"name": TAG}, token=token)
    assert reply.status == 201, reply


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
