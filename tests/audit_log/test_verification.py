"""The chains of the audit log: whatever is changed in them without the key is found."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from support.factories import FakeClock
from tollkeeper.audit_log.log import COVERED, Act, AuditLog, Filter, Head
from tollkeeper.audit_log.verification import LINES_PER_QUERY, MAX_PROBLEMS, Verification, verify
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

ACT = Act(7, "user:1", "quota.set", "user:2", before={"limit": 1}, after={"limit": 2}, reason="more", address="::1")


@dataclass
class Chains:
    database: Database
    audit_log: AuditLog
    clock: FakeClock

    async def add(self, *acts: Act) -> None:
        async with self.database.session() as session:
            await self.audit_log.add_all(session, acts, self.clock.now_ms())

    async def verify(self, *noted: Head, scope: TenantScope = ALL_TENANTS) -> Verification:
        return await verify(self.database, self.audit_log, scope, noted)

    async def heads(self) -> list[Head]:
        async with self.database.session() as session:
            return await self.audit_log.heads(session, ALL_TENANTS)

    async def tamper(self, *statements: str) -> None:
        async with self.database.session() as session:
            for statement in statements:
                await (await session.connection()).execute(text(statement))


async def open_chains(database_url: str, key: str) -> Chains:
    clock, database = FakeClock(), Database(database_url)
    keys = DataKeys(SecretStr(key))
    await keys.load(database, clock)
    return Chains(database, AuditLog(keys), clock)


@pytest.fixture
async def chains(database_url: str) -> AsyncIterator[Chains]:
    """Two chains: five lines of tenant 7, one of tenant 8."""
    made = await open_chains(database_url, "key")
    await made.add(*[replace(ACT, correlation_id=str(number)) for number in range(1, 6)], replace(ACT, tenant_id=8))
    yield made
    await made.database.close()


def changed(column: str) -> str:
    number = column in ("tenant_id", "sequence", "at_ms")
    value = f'"{column}" + 90' if number else "'{}'"
    return f'UPDATE audit_lines SET "{column}" = {value} WHERE tenant_id = 7 AND sequence = 3'


SWAP = [
    f"UPDATE audit_lines SET sequence = {after} WHERE tenant_id = 7 AND sequence = {before}"
    for before, after in ((2, 90), (3, 2), (90, 3))
]
INSERTED = (
    "INSERT INTO audit_lines SELECT tenant_id, {}, at_ms, actor, action, target, before, after, reason, address,"
    " correlation_id, mac FROM audit_lines WHERE tenant_id = 7 AND sequence = 3"
)
COPY_HEAD = (
    "UPDATE audit_heads SET sequence = {0}, mac = (SELECT mac FROM audit_lines WHERE tenant_id = 7 AND sequence = {0})"
    " WHERE tenant_id = 7"
)
TAMPERINGS = {
    **{f"{column} is changed": [changed(column)] for column in COVERED},
    "the mac is changed": [
        "UPDATE audit_lines SET mac = (SELECT mac FROM audit_lines WHERE tenant_id = 8) WHERE"
        " tenant_id = 7 AND sequence = 3"
    ],
    "a value is removed": ["UPDATE audit_lines SET reason = NULL WHERE tenant_id = 7 AND sequence = 3"],
    **{
        f"line {number} is deleted": [f"DELETE FROM audit_lines WHERE tenant_id = 7 AND sequence = {number}"]
        for number in (1, 3, 5)
    },
    "two lines are swapped": SWAP,
    **{f"a line {number} is inserted": [INSERTED.format(number)] for number in (-4, 0, 6)},
    "the first line is deleted and all others move up": [
        "DELETE FROM audit_lines WHERE tenant_id = 7 AND sequence = 1",
        *[f"UPDATE audit_lines SET sequence = {n} WHERE tenant_id = 7 AND sequence = {n + 1}" for n in range(1, 5)],
        "UPDATE audit_heads SET sequence = 4 WHERE tenant_id = 7",
    ],
    "the head is deleted": ["DELETE FROM audit_heads WHERE tenant_id = 7"],
    "the head is changed": ["UPDATE audit_heads SET sequence = 4 WHERE tenant_id = 7"],
    "all lines are deleted": ["DELETE FROM audit_lines WHERE tenant_id = 7"],
}


async def test_chains_that_nobody_has_changed_are_clean(chains: Chains) -> None:
    found = await chains.verify(*await chains.heads())
    assert (found.lines, found.chains, found.problems) == (6, 2, [])
    assert (await chains.verify(scope=TenantScope(7))).lines == 5
    assert (await chains.verify(scope=TenantScope(9))).clean


async def test_each_change_is_found(chains: Chains) -> None:
    """Each is made in a chain of its own."""
    for number, (name, statements) in enumerate(TAMPERINGS.items(), 1):
        tenant_id = 1_000 * number
        await chains.add(*[replace(ACT, tenant_id=tenant_id, correlation_id=str(line)) for line in range(1, 6)])
        await chains.tamper(*[one.replace("tenant_id = 7", f"tenant_id = {tenant_id}") for one in statements])
        assert not (await chains.verify(scope=TenantScope(tenant_id))).clean, name
    assert (await chains.verify(scope=TenantScope(7))).clean


async def test_a_cut_at_the_end_is_found_only_with_a_noted_head(chains: Chains) -> None:
    noted = await chains.heads()
    await chains.tamper("DELETE FROM audit_lines WHERE tenant_id = 7 AND sequence > 3", COPY_HEAD.format(3))
    assert (await chains.verify()).clean
    assert (await chains.verify(*noted)).problems == ["line 5 of tenant 7, whose head was noted, is missing"]
    await chains.add(*[ACT] * 4)
    assert (await chains.verify(*noted)).problems == ["line 5 of tenant 7 is not the one whose head was noted"]
    await chains.tamper("DELETE FROM audit_lines", "DELETE FROM audit_heads")
    assert (await chains.verify()).clean
    assert (await chains.verify(*noted)).problem_count == 2
    assert (await chains.verify(*noted, scope=TenantScope(8))).problem_count == 1


async def test_a_chain_of_another_key_is_not_accepted(chains: Chains, database_url: str) -> None:
    await chains.tamper("DELETE FROM audit_lines", "DELETE FROM audit_heads", "DELETE FROM wrapped_keys")
    forger = await open_chains(database_url, "another key")
    await forger.add(ACT)
    assert (await forger.verify()).clean
    assert not (await chains.verify()).clean
    await forger.database.close()


async def test_more_problems_than_are_listed_are_counted(chains: Chains) -> None:
    await chains.add(*[ACT] * (2 * LINES_PER_QUERY))
    await chains.tamper("UPDATE audit_lines SET target = 'user:3' WHERE tenant_id = 7")
    found = await chains.verify()
    assert (found.problem_count, len(found.problems)) == (2 * LINES_PER_QUERY + 5, MAX_PROBLEMS)


async def test_an_act_that_fails_leaves_no_line_and_no_gap(chains: Chains) -> None:
    async def fail() -> None:
        async with chains.database.session() as session:
            await chains.audit_log.add(session, ACT, 1)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await chains.add(ACT)
    assert [head.sequence for head in await chains.heads()] == [6, 1]
    assert (await chains.verify()).clean


async def test_lines_that_are_added_at_once_have_no_gap_and_do_not_deadlock(chains: Chains, database_url: str) -> None:
    """Through two pools of connections; half of the acts have lines of both tenants, in either order."""
    other = await open_chains(database_url, "key")
    both = [ACT, replace(ACT, tenant_id=8)]

    async def add(number: int) -> None:
        await (chains, other)[number % 2].add(*(both, both[::-1], [ACT])[number % 3])

    verifications = [chains.verify() for _ in range(3)]
    done = await asyncio.gather(*map(add, range(50)), *verifications)
    assert all(found.clean for found in done if found is not None)
    assert [head.sequence for head in await chains.heads()] == [55, 35]
    assert (await chains.verify()).clean
    await other.database.close()


async def test_heads_are_found_in_any_text(chains: Chains) -> None:
    heads = await chains.heads()
    mac = secrets.token_hex(32)
    lines = [f'{{"event": "audit.head", "head": "{head}"}}' for head in heads]
    assert list(Head.find_all("\n".join([*lines, f"7:{mac}", f"1:1:{mac}0"]))) == heads


async def test_a_page_has_the_lines_that_match_and_continues_after_the_last(chains: Chains) -> None:
    chains.clock.step(1)
    await chains.add(replace(ACT, actor="user:9", target="user:4"), replace(ACT, action="quota.grant"))
    async with chains.database.session() as session:

        async def numbers(scope: TenantScope = ALL_TENANTS, **fields: object) -> list[tuple[int, int]]:
            found, before = [], None
            while page := await chains.audit_log.page(
                session,
                scope,
                matching=Filter(**fields),  # type: ignore[arg-type]
                before=before,
                limit=2,
            ):
                found += page
                before = page[-1].at_ms, page[-1].tenant_id, page[-1].sequence
            return [(line.tenant_id, line.sequence) for line in found]

        ours = [(7, number) for number in range(7, 0, -1)]
        assert await numbers() == [*ours[:2], (8, 1), *ours[2:]]
        assert await numbers(TenantScope(7)) == ours
        assert await numbers(actor="user:9") == await numbers(target="user:4") == [(7, 6)]
        assert await numbers(action="quota.grant") == [(7, 7)]
        now = chains.clock.now_ms()
        assert await numbers(from_ms=now) == ours[:2]
        assert await numbers(TenantScope(7), to_ms=now) == ours[2:]
