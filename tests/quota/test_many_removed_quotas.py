"""A tenant's removed quotas, of which there can be any number, cost its calls and the audit of its charges nothing."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from random import Random

import pytest

from support.factories import make_principal, tenant_quota, user_quota
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal
from tollkeeper.quota.audit.applied_quotas import YOUNG_MS, QuotasByOwner
from tollkeeper.quota.audit.facts import ChargeFacts, QuotaFacts
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, ReadSet, Subject
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.sqlite.quotas import find_quota
from tollkeeper.quota.stores.sqlite.row_cache import RowCache
from tollkeeper.quota.stores.sqlite.tags import read_tags

MANY = 2_000
STRETCH_MS = 10 * YOUNG_MS
ADD = (
    "INSERT INTO quotas (tenant_id, user_id, kind, subject, unit, period, granted, report_only, removed_ms)"
    " VALUES (?, ?, ?, ?, 'tokens', 'day', 1, false, 1)"
)


def steps(connection: sqlite3.Connection, act: Callable[[], object]) -> int:
    """How many times a hundred steps of SQLite's machine an act takes."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection.set_progress_handler(count, 100)
    act()
    connection.set_progress_handler(None, 0)
    return taken


def reads(connection: sqlite3.Connection, caller: Principal) -> dict[str, int]:
    """What each way to read quotas costs."""
    callers = ReadSet()
    callers.add_caller(caller)
    tag = QuotaKey(Subject(caller.tenant_id, None, SubjectKind.TAG, "team=red"), Unit.TOKENS, Period.DAY)
    keys = {"user": user_quota(caller), "tenant": tenant_quota(caller), "tag": tag}
    found = {name: steps(connection, partial(find_quota, connection, key, create=False)) for name, key in keys.items()}
    found["account"] = steps(connection, lambda: RowCache().read(connection, callers, 1_000))
    found["tags"] = steps(connection, lambda: read_tags(connection, caller.tenant_id))
    return found


async def test_calls_read_no_removed_quotas(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    try:
        caller = await make_principal(database)
    finally:
        await database.close()
    owners = (caller.user_id, "user", ""), (None, "tenant", ""), (None, "tag", "team=red"), (None, "each_user", "")
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        reads(connection, caller)  # which reads the schema, too
        before = reads(connection, caller)
        connection.executemany(ADD, [(caller.tenant_id, *owner) for owner in owners for _ in range(MANY)])
        after = reads(connection, caller)
        assert all(after[name] <= taken + 1 for name, taken in before.items()), (before, after)


CHARGE = ChargeFacts._make(None for _ in ChargeFacts._fields)._replace(tenant_id=1, user_id=2)


def removed_quotas(stretches: list[tuple[int, int]]) -> QuotasByOwner:
    """A tenant's quotas of one name, each from a time until another."""
    quotas = QuotasByOwner()
    owner = 1, None, "tenant", "", "tokens", "day"
    quotas.add([2], [1], [QuotaFacts(id_, *owner, *times) for id_, times in enumerate(stretches)])
    return quotas


@pytest.mark.parametrize("seed", range(20))
def test_the_audit_finds_every_removed_quota_of_a_time(seed: int) -> None:
    """Also where their times overlap, which those of a sound ledger do not."""
    random = Random(seed)
    stretches = []
    for _ in range(50):
        since_ms = random.randrange(100 * YOUNG_MS)
        stretches.append((since_ms, since_ms + random.choice((1, YOUNG_MS, 30 * YOUNG_MS))))
    quotas = removed_quotas(stretches)
    for at_ms in range(0, 130 * YOUNG_MS, YOUNG_MS // 2):
        found = {quota.id for quota in quotas.before(CHARGE._replace(created_ms=at_ms))}
        assert found == {id_ for id_, (since_ms, until_ms) in enumerate(stretches) if since_ms < at_ms < until_ms}


def test_the_audit_of_a_charge_looks_at_the_removed_quotas_of_its_time_only() -> None:
    def seconds(count: int) -> float:
        quotas = removed_quotas([(at * STRETCH_MS, at * STRETCH_MS + 1) for at in range(count)])
        charges = [CHARGE._replace(created_ms=at * STRETCH_MS * count // 100) for at in range(100)]
        assert list(quotas.before(charges[0])) == []
        begun = time.thread_time()
        for charge in charges:
            assert list(quotas.before(charge)) == []
        return time.thread_time() - begun

    assert min(seconds(20_000) for _ in range(3)) < 50 * max(seconds(10) for _ in range(3))
