"""Budgets from nothing, over the API alone: plans, calendars, groups, a template for each value of a tag, alerts, a
quota that is spent, a fallback, a request that is granted until Friday; and reports, the statement and the entries tell
the same to the token.
"""

import secrets
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import PASSWORD, http_client, login
from journeys.test_admin_verifications import wait_for_result
from journeys.test_people_and_walls import Person
from journeys.test_usage import add_up
from journeys.upstream.handle import scripted
from tollkeeper.alerts.task import QuotaAlerts
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.principal import Role

USAGE = {"prompt_tokens": 300, "completion_tokens": 100}
COST = 400
OF_RUN = {"X-Tollkeeper-Tags": "run=a"}
PLAN: dict[str, Any] = {
    "models": ["gpt-4o", "gpt-4o-mini"],
    "tenant_quotas": [{"window": "month", "limit": 900_000}],
    "user_quotas": [{"window": "month", "limit": 3 * COST + 100}],
}


@dataclass(frozen=True, slots=True)
class House:
    """A tenant, with an administrator, and a member whose default group is `heron`."""

    tenant_id: int
    zone: ZoneInfo
    admin: Person
    member: Person
    member_id: int
    group_id: int


async def new_house(operator: Admin, http: aiohttp.ClientSession, plan_id: int, zone: str, reset_day: int) -> House:
    calendar = {"time_zone": zone, "reset_day": reset_day}
    tenant = await operator.post("/admin/tenants", {"name": f"tenant-{secrets.token_hex(8)}"} | calendar)
    tenant_id = tenant.body["id"]
    on_plan = await operator.post(f"/admin/tenants/{tenant_id}/plan", {"plan_id": plan_id, "reason": "Order 4711"})
    assert (tenant.status, on_plan.status) == (201, 200), on_plan

    async def person(creator: Admin | Person, **fields: Any) -> tuple[Person, int]:
        email = f"{secrets.token_hex(8)}@example.com"
        made = await creator.send("POST", "/admin/users", {"email": email, "password": PASSWORD} | fields)
        assert made.status == 201, made
        logged_in = await login(http, email, PASSWORD)
        return Person(http, logged_in.body["access_token"]), made.body["id"]

    admin, _ = await person(operator, role="tenant_admin", tenant_id=tenant_id)
    member, member_id = await person(admin)
    group = await admin.must(201, "POST", "/admin/groups", {"name": "heron"})
    await admin.must(200, "PUT", f"/admin/groups/{group['id']}/members/{member_id}", {"default": True})
    return House(tenant_id, ZoneInfo(zone), admin, member, member_id, group["id"])


async def call(member: Person, model: str, max_tokens: int = 100) -> dict[str, Any]:
    prompt = scripted(secrets.token_hex(8), usage=USAGE)
    sent = {"prompt": prompt, "model": model, "max_tokens": max_tokens}
    body: dict[str, Any] = await member.must(200, "POST", "/ai/query", sent, **OF_RUN)
    return body


async def spend_and_ask_for_more(house: House) -> None:
    """Two calls, the second by the fallback model; then one that is refused, asked for, granted and made."""
    admin, member = house.admin, house.member
    budget = {"user_id": house.member_id, "unit": "micro_usd", "window": "month", "limit": 3_000, "reason": "trial"}
    rule = {"when_spent": "fallback_model", "fallback_model": "gpt-4o-mini"}
    await admin.must(200, "POST", "/admin/quotas", budget | rule)
    of_group = {"group_id": house.group_id, "unit": "requests", "window": "week", "limit": 50, "reason": "a project"}
    await admin.must(200, "POST", "/admin/quotas", of_group)
    await admin.must(201, "POST", "/admin/tags", {"name": "run"})
    each = {"for_each": "tag:run", "window": "total", "limit": 50_000, "reason": "a cap per run"}
    await admin.must(200, "POST", "/admin/quotas", each)
    await admin.must(201, "POST", "/admin/alerts/rules", {"percents": [50, 100], "kind": "user", "unit": "tokens"})
    answers = [await call(member, "gpt-4o") for _ in range(2)]
    assert [(one["model"], one["fallback_for"]) for one in answers] == [("gpt-4o", None), ("gpt-4o-mini", "gpt-4o")]

    refused = await member.send("POST", "/ai/query", {"prompt": "hi", "model": "gpt-4o-mini", "max_tokens": 600})
    assert (refused.status, refused.code) == (429, "quota_exceeded")
    assert "POST /me/quota/requests" in refused.body["detail"]
    asked = await member.must(201, "POST", "/me/quota/requests", {"tokens": 1_000, "reason": "The report is due"})
    now = datetime.now(house.zone)
    friday = (now + timedelta(days=(4 - now.weekday()) % 7 or 7)).replace(hour=18, minute=0, second=0)
    granted = {"tokens": 800, "reason": "Until Friday", "until": friday.isoformat(timespec="seconds")}
    await admin.must(200, "POST", f"/admin/quota-requests/{asked['id']}/grant", granted)
    assert (await call(member, "gpt-4o-mini", 600))["cost"] == COST
    [decided] = (await member.must(200, "GET", "/me/quota/requests"))["data"]
    assert (decided["status"], decided["granted_tokens"]) == ("granted", 800)


async def assert_all_tell_the_same(house: House) -> datetime:
    """Quotas, entries, reports and the statement. Returns when the statement's month begins."""
    admin, of_member = house.admin, f"user_id={house.member_id}"
    quotas = {one["name"]: one for one in (await house.member.must(200, "GET", "/me/quota", **OF_RUN))["quotas"]}
    assert (quotas["user-month"]["limit"], quotas["user-month"]["used"]) == (3 * COST + 900, 3 * COST)
    charges = (await admin.must(200, "GET", f"/admin/charges?{of_member}"))["data"]
    assert {(one["group_id"], one["cost"]) for one in charges} == {(house.group_id, COST)}
    settled = Counter[str]()
    for charge in charges:
        for entry in (await admin.must(200, "GET", f"/admin/charges/{charge['id']}"))["entries"]:
            settled[entry["quota"]] += entry["settled"]
    assert dict(settled) == {name: quota["used"] for name, quota in quotas.items()}
    assert settled["tag-run-total"] == 3 * COST

    report = await admin.must(200, "GET", "/admin/usage?group_by=group")
    [line] = report["data"]
    assert (line["label"], line["calls"], line["cost"]) == ("heron", 3, settled["tenant-month"])
    mine = await house.member.must(200, "GET", "/me/usage?group_by=model")
    assert {one["value"]: one["calls"] for one in mine["data"]} == {"gpt-4o": 1, "gpt-4o-mini": 2}
    assert mine["total"] == report["total"]
    begins = datetime.fromisoformat(report["from"])
    month = begins.astimezone(house.zone).strftime("%Y-%m")
    statement = await admin.must(200, "GET", f"/admin/statements/{house.tenant_id}/{month}")
    assert (statement["total"], statement["from"]) == (report["total"], report["from"])
    assert {(one["group_name"], one["model"]): one["calls"] for one in statement["spent"]} == {
        ("heron", "gpt-4o"): 1,
        ("heron", "gpt-4o-mini"): 2,
    }
    [balance] = statement["balances"]
    assert (balance["spent"], balance["closing"]) == (settled["tenant-month"], 900_000 - settled["tenant-month"])
    fired = (await admin.must(200, "GET", "/admin/alerts"))["data"]
    assert [(one["percent"], one["user_id"]) for one in fired] == [(50, house.member_id)]
    return begins.astimezone(house.zone)


async def test_two_tenants_with_budgets_of_their_own(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator, http_client(server) as http:
        plan = await operator.post("/admin/plans", PLAN | {"name": f"plan-{secrets.token_hex(4)}"})
        assert plan.status == 201, plan
        houses = [
            await new_house(operator, http, plan.body["id"], "Asia/Kathmandu", 31),
            await new_house(operator, http, plan.body["id"], "Europe/Berlin", 15),
        ]
        for house in houses:
            await spend_and_ask_for_more(house)
        await add_up(server)
        database = Database(server.database_url)
        try:
            await QuotaAlerts(database, SystemClock(), interval_s=15).run_once()
        finally:
            await database.close()
        begun = [await assert_all_tell_the_same(house) for house in houses]
        assert [(one.hour, one.minute) for one in begun] == [(0, 0)] * 2
        assert (begun[0].day in (28, 29, 30, 31), begun[1].day) == (True, 15)

        assert (await operator.post("/admin/ledger/verify", None)).status == 202
        verified = await wait_for_result(operator, "/admin/ledger/verify")
        report = verified["report"]
        assert isinstance(report, dict)
        assert (verified["state"], report["problems"]) == ("finished", [])
