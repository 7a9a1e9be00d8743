"""The installation that the pictures show: a tenant with a team, its calls, and what its administrator has set."""

import asyncio
from collections.abc import Mapping
from typing import Any

from journeys.support.logins import Person
from journeys.support.server import Server
from journeys.support.users import add_user, http_client, set_limit
from support.deadlines import TEST_DEADLINE_S
from support.factories import make_tenant
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.windows import Period

MEMBER, COLLEAGUE, ADMIN, OPERATOR = "grace@acme.example", "linus@acme.example", "ada@acme.example", "ops@example.com"
SETTINGS = {"TOLLKEEPER_RATE_LIMIT_AI": "off", "TOLLKEEPER_PRIVATE_NETWORKS": "127.0.0.0/8"}
MODELS = ("gpt-4.1-nano", "gpt-4o-mini", "gpt-4.1-nano", "gpt-4.1-mini")
QUESTIONS = ("Summarize the minutes of the meeting", "Translate the release notes", "Which invoices are due this week?")
CALLS = 14
POLICY = {
    "rules": [
        {"name": "secrets", "action": "block", "pii": ["secret", "card"]},
        {"name": "contacts", "action": "redact", "pii": ["email", "phone"], "stages": ["input"]},
        {"name": "rumours", "action": "flag", "words": ["acquisition", "lay-offs"], "report_only": True},
    ]
}


async def fill(server: Server) -> str:
    """Fill an installation that is new. Returns the id of a charge of the member."""
    database = Database(server.database_url)
    try:
        acme = await make_tenant(database, "Acme Labs")
        own = await make_tenant(database, "Operations")
        people = {
            MEMBER: await add_user(database, acme, email=MEMBER),
            COLLEAGUE: await add_user(database, acme, email=COLLEAGUE),
            ADMIN: await add_user(database, acme, Role.TENANT_ADMIN, email=ADMIN),
            OPERATOR: await add_user(database, own, Role.OPERATOR, email=OPERATOR),
        }
    finally:
        await database.close()
    principals = {email: principal for email, (principal, _) in people.items()}
    await set_limit(server, principals[MEMBER], 25_000, Period.MONTH)
    await set_limit(server, principals[MEMBER], 12_000, Period.DAY)
    await set_limit(server, principals[COLLEAGUE], 8_000, Period.MONTH)
    await set_limit(server, principals[MEMBER], 100_000, Period.MONTH, of_tenant=True)
    async with http_client(server) as http:
        senders = {email: _Sender(Person(principal, email, http)) for email, principal in principals.items()}
        for sender in senders.values():
            await sender.log_in()
        await _administer(senders[ADMIN], principals)
        charge = await _call(senders[MEMBER], senders[COLLEAGUE])
        await _operate(senders[OPERATOR], acme)
    return charge


class _Sender:
    """A person with the token of their login."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._token = ""

    async def log_in(self) -> None:
        self._token = (await self._person.log_in())["access_token"]

    async def send(
        self, method: str, path: str, document: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Any:
        """The body of a response that succeeds."""
        reply = await self._person.send(method, path, document, token=self._token, headers=headers)
        assert reply.status < 300, reply
        return reply.body

    async def fail(self, path: str, document: Any) -> None:
        """Repeat a request until it is refused: moderation applies within about a second."""
        async with asyncio.timeout(TEST_DEADLINE_S):
            while (await self._person.send("POST", path, document, token=self._token)).status < 400:
                await asyncio.sleep(0.2)


async def _administer(admin: _Sender, principals: dict[str, Principal]) -> None:
    for name, emails, limit in (("research", (MEMBER,), 40_000), ("support", (COLLEAGUE,), 15_000)):
        group = await admin.send("POST", "/admin/groups", {"name": name})
        for email in emails:
            path = f"/admin/groups/{group['id']}/members/{principals[email].user_id}"
            await admin.send("PUT", path, {"default": True})
        quota = {"group_id": group["id"], "window": "month", "limit": limit, "reason": "The budget of this year"}
        await admin.send("POST", "/admin/quotas", quota)
    await admin.send("POST", "/admin/tags", {"name": "cost-centre", "values": ["42", "43"]})
    await admin.send("POST", "/admin/tags", {"name": "run"})
    for owner, window, limit in (
        ({"tag": "cost-centre=42"}, "month", 30_000),
        ({"for_each": "user"}, "day", 20_000),
        ({"for_each": "conversation"}, "total", 50_000),
    ):
        await admin.send("POST", "/admin/quotas", owner | {"window": window, "limit": limit, "reason": "Fair use"})
    await admin.send("POST", "/admin/alerts/rules", {"percents": [50, 80, 100], "kind": "user"})
    await admin.send("PUT", "/admin/moderation", POLICY)
    await admin.send("PUT", "/admin/provider-keys/openai", {"key": "sk-of-acme-labs-0123456789"})


async def _call(member: _Sender, colleague: _Sender) -> str:
    charge = ""
    for number in range(CALLS):
        usage = f'<<{{"usage": {{"output": {210 + 331 * number % 700}}}}}>>'  # what the upstream of tests reports
        prompt = f"{QUESTIONS[number % len(QUESTIONS)]} {usage}"
        question = {"prompt": prompt, "model": MODELS[number % len(MODELS)]}
        tags = {"X-Tollkeeper-Tags": f"cost-centre={42 + number % 2}"} if number % 3 else None
        charge = str((await member.send("POST", "/ai/query", question, headers=tags))["query_id"])
        if number % 2:
            await colleague.send("POST", "/ai/query", question)
    await colleague.fail("/ai/query", {"prompt": "Pay with 4111 1111 1111 1111", "model": MODELS[0]})
    await member.send("POST", "/auth/keys", {"name": "nightly report", "scopes": ["ai"]})
    asked = {"tokens": 40_000, "reason": "The evaluation of the new assistant runs this week"}
    await colleague.send("POST", "/me/quota/requests", asked | {"window": "month"})
    await member.send("POST", "/me/quota/requests", asked | {"tokens": 10_000, "window": "day"})
    return charge


async def _operate(operator: _Sender, tenant_id: int) -> None:
    quota = [{"window": "month", "limit": 100_000}]
    for name, rate in (("starter", "60/minute"), ("pro", "600/minute")):
        plan = await operator.send(
            "POST", "/admin/plans", {"name": name, "calls_per_user": rate, "tenant_quotas": quota}
        )
    await operator.send("POST", f"/admin/tenants/{tenant_id}/plan", {"plan_id": plan["id"], "reason": "Order 2044"})
    await operator.send("POST", "/admin/ledger/verify")
    while (await operator.send("GET", "/admin/ledger/verify"))["state"] == "running":
        await asyncio.sleep(0.2)
