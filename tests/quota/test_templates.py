"""Templates: a quota for each user, API key, conversation or tag, without a row until its first use."""

from dataclasses import replace
from typing import Any

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.factories import make_principal, make_terms, set_limit
from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest, QuotaExceeded
from tollkeeper.principal import Principal
from tollkeeper.quota import queries
from tollkeeper.quota.rules.limit_changes import Grant, LimitChange, Override, SetLimit, SpentRule
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.rules.windows import Period


@pytest.fixture
async def env(database_url: str) -> Any:
    async with open_ledger_environment(database_url, limit=1_000) as opened:
        yield opened


def template(
    tenant_id: int, kind: SubjectKind, value: str = "", period: Period = Period.DAY, name: str = ""
) -> QuotaKey:
    return QuotaKey(Subject(tenant_id, None, kind, name, value), Unit.TOKENS, period)


async def change(env: LedgerEnvironment, *changes: LimitChange) -> None:
    await env.ledger.administer(changes, actor="admin", reason="test")


async def spend(env: LedgerEnvironment, caller: Principal, tokens: int) -> dict[str, tuple[int, int]]:
    """The limit and the use of each quota of a call, after it."""
    async with env.ledger.reservation(caller, make_terms(tokens, 0)) as call:
        call.set_usage(Usage(tokens, 0))
    return shown(call.closed_charge.balances)


def shown(balances: Any) -> dict[str, tuple[int, int]]:
    return {one.quota: (one.limit, one.used) for one in balances}


async def make_key(env: LedgerEnvironment, number: int) -> str:
    key = f"key_{number:024x}"
    await env.reader.execute(
        "INSERT INTO api_keys (id, tenant_id, user_id, name, prefix, key_hash, scopes, created_ms)"
        f" VALUES ('{key}', {env.caller.tenant_id}, {env.caller.user_id}, 'ci', 'tk_01', '{key}', 'ai', 0)"
    )
    return key


async def balances(env: LedgerEnvironment, subject: Subject) -> list[Balance]:
    async with env.database.session() as session:
        return await queries.balances_of(session, [subject], env.clock.now_ms())


async def test_each_user_has_the_quota_from_the_first_call_on_unless_it_has_one_of_its_own(
    env: LedgerEnvironment,
) -> None:
    """The caller's own quota of a day replaces that of the template, and not that of an hour."""
    colleague = await make_principal(env.database, tenant_id=env.caller.tenant_id)
    each = SubjectKind.EACH_USER
    tenant = env.caller.tenant_id
    with pytest.raises(QuotaExceeded):
        await spend(env, colleague, 1)
    await change(env, SetLimit(template(tenant, each), 100), SetLimit(template(tenant, each, period=Period.HOUR), 60))
    assert [one.limit for one in await balances(env, Subject(tenant, colleague.user_id))] == [60, 100]
    assert {window.value for window in (await env.snapshot()).windows.values()} == {""}
    assert await spend(env, colleague, 40) == {"user-hour": (60, 40), "user-day": (100, 40)}
    assert await spend(env, env.caller, 50) == {"user-hour": (60, 50), "user-day": (1_000, 50)}
    with pytest.raises(QuotaExceeded):
        await spend(env, colleague, 21)
    found = await balances(env, Subject(tenant, colleague.user_id))
    assert shown(found) == {"user-hour": (60, 40), "user-day": (100, 40)}
    await env.snapshot()


async def test_windows_follow_their_template_before_the_next_decision(env: LedgerEnvironment) -> None:
    """Those that exist, those of the same batch, and what is only shown; also when it only reports."""
    tenant, key = env.caller.tenant_id, template(env.caller.tenant_id, SubjectKind.EACH_USER, period=Period.TOTAL)
    value = template(tenant, SubjectKind.EACH_USER, str(env.caller.user_id), Period.TOTAL)
    await change(env, SetLimit(key, 100))
    await spend(env, env.caller, 80)
    await change(env, Grant(value, 5))
    await change(env, SetLimit(key, 200))
    assert shown(await balances(env, Subject(tenant, env.caller.user_id)))["user-total"] == (205, 80)
    assert (await spend(env, env.caller, 20))["user-total"] == (205, 100)
    await change(env, SetLimit(key, 50, when_spent=SpentRule(report_only=True)))
    async with env.ledger.reservation(env.caller, make_terms(10, 0)) as call:
        assert call.hold.would_refuse == (("user-total", "quota_exceeded"),)
        call.set_usage(Usage(10, 0))
    await change(env, SetLimit(key, 50, when_spent=SpentRule()))
    with pytest.raises(QuotaExceeded):
        await spend(env, env.caller, 10)
    snapshot = await env.snapshot()
    [window] = [one for one in snapshot.windows.values() if one.value]
    assert (window.base, window.granted, window.settled) == (50, 55, 110)
    kinds = [entry.kind for entry in snapshot.entries[window.id] if entry.kind not in ("reserve", "settle")]
    assert kinds == ["open", "grant", "limit", "limit", "report", "block"]


async def test_each_key_and_each_conversation_has_windows_of_its_own(env: LedgerEnvironment) -> None:
    tenant = env.caller.tenant_id
    keys = [await make_key(env, number) for number in (1, 2)]
    one, other = (replace(env.caller, api_key=key) for key in keys)
    conversation = template(tenant, SubjectKind.EACH_CONVERSATION, period=Period.TOTAL)
    await change(env, SetLimit(template(tenant, SubjectKind.EACH_KEY), 100), SetLimit(conversation, 60))
    assert (await spend(env, one, 70))["key-day"] == (100, 70)
    assert (await spend(env, other, 90))["key-day"] == (100, 90)
    with pytest.raises(QuotaExceeded):
        await spend(env, one, 31)
    of_key = Subject(tenant, env.caller.user_id, SubjectKind.KEY, keys[0])
    await set_limit(env.ledger, QuotaKey(of_key, Unit.TOKENS, Period.TOTAL), 7)
    assert (await spend(env, one, 5)).keys() == {"user-day", "key-day", "key-total"}
    talk = replace(env.caller, conversation="talk")
    assert (await spend(env, talk, 50))["conversation-total"] == (60, 50)
    assert (await spend(env, replace(talk, conversation="walk"), 60))["conversation-total"] == (60, 60)
    with pytest.raises(QuotaExceeded):
        await spend(env, talk, 11)
    assert len({charge.conversation for charge in (await env.charges()).values()}) == 3


async def test_each_value_of_a_tag_has_windows_of_its_own_unless_a_quota_of_its_own_replaces_it(
    env: LedgerEnvironment,
) -> None:
    """A call has one value of each of several tags, and a call without the tag has none."""
    tenant, each = env.caller.tenant_id, SubjectKind.EACH_TAG
    for name in ("agent", "run"):
        await env.reader.execute(
            "INSERT INTO tag_names (tenant_id, name, any_value, is_required, max_values, known_values, version,"
            f" created_ms) VALUES ({tenant}, '{name}', true, false, 9, 0, 0, 0)"
        )
    run, agent = template(tenant, each, name="run"), template(tenant, each, period=Period.TOTAL, name="agent")
    await change(env, SetLimit(run, 100), SetLimit(agent, 150))
    one, other = (replace(env.caller, tags=("agent=x", f"run={value}")) for value in "ab")
    assert await spend(env, one, 90) == {
        "user-day": (1_000, 90),
        "tag-agent-total": (150, 90),
        "tag-run-day": (100, 90),
    }
    with pytest.raises(QuotaExceeded):
        await spend(env, one, 11)
    assert (await spend(env, other, 20))["tag-run-day"] == (100, 20)
    with pytest.raises(QuotaExceeded):
        await spend(env, other, 41)
    assert (await spend(env, env.caller, 50)).keys() == {"user-day"}
    of_tag = Subject(tenant, None, SubjectKind.TAG, "run=a")
    await change(env, Grant(template(tenant, each, "run=a", name="run"), 5))
    assert shown(await balances(env, of_tag)) == {"tag-run-day": (105, 90)}
    await change(env, SetLimit(QuotaKey(of_tag, Unit.TOKENS, Period.DAY), 30))
    assert (await spend(env, replace(one, tags=("run=a",)), 25))["tag-run-day"] == (30, 25)
    assert shown(await balances(env, of_tag)) == {"tag-run-day": (30, 25)}
    await env.snapshot()


async def test_a_template_has_only_a_limit_and_its_values_only_grants(env: LedgerEnvironment) -> None:
    key, later = template(env.caller.tenant_id, SubjectKind.EACH_USER), 2**50
    value = template(env.caller.tenant_id, SubjectKind.EACH_USER, str(env.caller.user_id))
    await set_limit(env.ledger, key, 10)
    for impossible in (Grant(key, 1), Override(key, 1, later), SetLimit(value, 1), Override(value, 1, later)):
        with pytest.raises(InvalidRequest, match="limit of a template"):
            await change(env, impossible)
