"""The bank test: many calls in several processes, with faults, while an auditor reads the ledger.

The auditor reads the whole ledger in one transaction, again and again, and asserts P1 to P4 on each snapshot.
"""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from snapshot import Reader, Snapshot, audit, make_reader, read_snapshot

from support.depth import DEPTH
from support.factories import make_principal, make_store, make_tenant, tenant_quota, user_quota
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.limit_changes import Grant, SetLimit, SpentRule
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.rules.windows import Period

pytestmark = pytest.mark.stock_postgres

WORKER = Path(__file__).resolve().parent / "bank_worker.py"
PROCESSES = 4
CALLS_EACH = DEPTH.bank_calls
LEASE_S = 1.5
SWEEP_S = 0.3
VICTIM = "worker-0"
VICTIM_ANSWERS = 25
"""The victim receives so many answers. Its later calls are in flight when it is killed."""
WORKER_DEADLINE_S = 60.0
SEVERAL = 5
OF_TAGS_AND_TEMPLATES = (
    (SubjectKind.TAG, "cost-centre=42", Period.DAY, 2_500),
    (SubjectKind.EACH_USER, "", Period.WEEK, 1_500),
    (SubjectKind.EACH_KEY, "", Period.HOUR, 550),
    (SubjectKind.EACH_CONVERSATION, "", Period.TOTAL, 500),
    (SubjectKind.EACH_TAG, "run", Period.TOTAL, 2_000),
)
"""What each tenant limits, by how many tokens for 250 calls of a process."""
GRANT_S = LEASE_S
"""How long a part of each user's limit lasts: mostly until amid the calls, which begin when the workers are ready."""


async def populate(database: Database, ledger: Ledger, reader: Reader) -> list[Principal]:
    """20 users in 4 tenants, each with quotas in every unit that are too small for everything that is wanted.

    Each has a key with a quota, and is in the tenant's group, which has one, too; so has a tag. Each user, key,
    conversation and value of a tag has a quota of a template. A quota of each only reports, and a grant to each ends
    amid the calls. The callers that are returned name their key and their group.
    """
    users = []
    limits: dict[QuotaKey, int] = {}
    for _ in range(4):
        tenant_id = await make_tenant(database)
        for name in ("run", "cost-centre"):
            await reader.execute(
                "INSERT INTO tag_names (tenant_id, name, any_value, is_required, max_values, known_values, version,"
                f" created_ms) VALUES ({tenant_id}, '{name}', true, false, 9, 0, 0, 0)"
            )
        for kind, name, period, limit in OF_TAGS_AND_TEMPLATES:
            limits[QuotaKey(Subject(tenant_id, None, kind, name), Unit.TOKENS, period)] = limit * CALLS_EACH // 250
        users += [await make_principal(database, tenant_id) for _ in range(5)]
    reporting, subjects = [], []
    for user in users:
        limits[user_quota(user, Period.MINUTE)] = 1_200 * CALLS_EACH // 250
        limits[user_quota(user, Period.TOTAL)] = 1_600 * CALLS_EACH // 250
        limits[tenant_quota(user, Period.DAY)] = 7_500 * CALLS_EACH // 250
        limits[tenant_quota(user, Period.MONTH, Unit.MICRO_USD)] = 65_000 * CALLS_EACH // 250
        limits[tenant_quota(user, Period.MONTH, Unit.REQUESTS)] = 200 * CALLS_EACH // 250
        limits[user_quota(user, Period.TOTAL, Unit.CONCURRENCY)] = 12
        reporting.append(SetLimit(user_quota(user, Period.DAY), 100, when_spent=SpentRule(report_only=True)))
        subjects.append(await name_key_and_group(reader, user))
        of_key, of_group = subjects_of(subjects[-1])
        limits[QuotaKey(of_key, Unit.TOKENS, Period.DAY)] = 600 * CALLS_EACH // 250
        limits[QuotaKey(of_group, Unit.TOKENS, Period.DAY)] = 3_000 * CALLS_EACH // 250
    changes = (*(SetLimit(*each) for each in limits.items()), *reporting)
    await ledger.administer(changes, actor="test", reason="test")
    until_ms = int((time.time() + GRANT_S) * 1000)
    grants = tuple(Grant(user_quota(user, Period.TOTAL), 100, until_ms=until_ms) for user in users)
    await ledger.administer(grants, actor="test", reason="test")
    return subjects


async def name_key_and_group(reader: Reader, user: Principal) -> Principal:
    """Create a key of a user, and the group of the tenant if it is the first member. `group` is its id."""
    tenant_id, user_id = user.tenant_id, user.user_id
    await reader.execute(
        "INSERT INTO api_keys (id, tenant_id, user_id, name, prefix, key_hash, scopes, created_ms)"
        f" VALUES ('key_{user_id}', {tenant_id}, {user_id}, 'key', 'tk-', 'hash of {user_id}', 'ai', 0)"
    )
    [found] = await reader.read(f"SELECT id FROM user_groups WHERE tenant_id = {tenant_id}")
    if not found:
        values = f"{tenant_id}, 'team', 0"
        await reader.execute(f"INSERT INTO user_groups (tenant_id, name, created_ms) VALUES ({values})")
        [found] = await reader.read(f"SELECT id FROM user_groups WHERE tenant_id = {tenant_id}")
    [(group_id,)] = found
    await reader.execute(
        "INSERT INTO group_members (tenant_id, group_id, user_id, is_default)"
        f" VALUES ({tenant_id}, {group_id}, {user_id}, false)"
    )
    return replace(user, api_key=f"key_{user_id}", group=str(group_id))


def subjects_of(user: Principal) -> tuple[Subject, Subject]:
    """The key and the group of a user, as the owners of quotas."""
    assert user.api_key is not None
    assert user.group is not None
    of_key = Subject(user.tenant_id, user.user_id, SubjectKind.KEY, user.api_key)
    return of_key, Subject(user.tenant_id, None, SubjectKind.GROUP, user.group)


class Process:
    """One worker, its log, and whether it is to be killed."""

    def __init__(self, number: int, database_url: str, folder: Path, users: list[Principal]) -> None:
        self.name = f"worker-{number}"
        self.log = folder / f"{self.name}.log"
        self.log.touch()
        self.plan = json.dumps(
            {
                "name": self.name,
                "database_url": database_url,
                "log": str(self.log),
                "calls": CALLS_EACH,
                "answers": VICTIM_ANSWERS if self.name == VICTIM else CALLS_EACH,
                "seed": number,
                "lease_s": LEASE_S,
                "sweep_s": SWEEP_S,
                "users": [[user.user_id, user.tenant_id, user.api_key] for user in users],
            }
        )

    async def run(self, all_are_ready: asyncio.Barrier) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            self.plan,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(WORKER_DEADLINE_S):
                assert process.stdout is not None
                await process.stdout.readline()
                await all_are_ready.wait()
                communicating = asyncio.create_task(process.communicate(b"go\n"))
                if self.name == VICTIM:
                    await self._kill_in_mid_run(process)
                _, output = await communicating
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def _kill_in_mid_run(self, process: asyncio.subprocess.Process) -> None:
        """Kill it while several of its calls are with the provider: it is held still for the look that says so."""
        while process.returncode is None:
            await asyncio.sleep(0.01)
            if len(self.logged("sent")) <= VICTIM_ANSWERS:
                continue
            process.send_signal(signal.SIGSTOP)
            if len(self.logged("sent").keys() - self.logged("ended").keys() - self.logged("gone").keys()) >= SEVERAL:
                process.kill()
                return
            process.send_signal(signal.SIGCONT)

    def logged(self, what: str) -> dict[str, dict[str, object]]:
        """Lines of the log by charge; the last may be torn."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        notes = [json.loads(line) for line in lines if line.endswith("\n")]
        return {note["charge"]: note for note in notes if note["what"] == what}


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[Reader]:
    made = await make_reader(database_url)
    yield made
    await made.close()


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    made = Ledger(make_store(database_url), lease_seconds=LEASE_S)
    made.start()
    yield made
    await made.stop()


class Auditor:
    """Looks again and again, and remembers how often, and the most calls that it saw in flight."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.snapshots = 0
        self.most_in_flight = 0

    async def watch(self) -> None:
        while True:
            snapshot = await read_snapshot(self._reader)
            audit(snapshot)
            in_flight = sum(charge.closed_ms is None for charge in snapshot.charges.values())
            self.snapshots, self.most_in_flight = self.snapshots + 1, max(self.most_in_flight, in_flight)
            await asyncio.sleep(0.05)


@pytest.mark.proof
async def test_many_calls_from_several_processes_leave_a_consistent_ledger(
    database: Database, database_url: str, ledger: Ledger, reader: Reader, tmp_path: Path
) -> None:
    users = await populate(database, ledger, reader)
    workers = [Process(number, database_url, tmp_path, users) for number in range(PROCESSES)]
    auditor = Auditor(reader)
    watching = asyncio.create_task(auditor.watch())
    all_are_ready = asyncio.Barrier(PROCESSES)
    working = asyncio.gather(*(worker.run(all_are_ready) for worker in workers))
    await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    ends = dict(zip((worker.name for worker in workers), await working, strict=True))
    assert not watching.done(), watching.exception()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    for name, (code, output) in ends.items():
        assert (code == 0) == (name != VICTIM), output

    await asyncio.sleep(LEASE_S + 0.1)
    await ledger.sweep()
    await ledger.administer(tuple(Grant(user_quota(user, Period.TOTAL), 0) for user in users), actor="t", reason="t")
    final = await read_snapshot(reader)
    audit(final)
    assert all(charge.closed_ms is not None for charge in final.charges.values())
    assert all(window.pending == 0 for window in final.windows.values())
    check_against_worker_logs(final, workers)
    assert_that_faults_and_refusals_occurred(auditor, final, workers)


def check_against_worker_logs(final: Snapshot, workers: list[Process]) -> None:
    """Each logged cost was charged exactly. Calls that were sent and not logged belong to cancelled callers."""
    charged = logged_cost = 0
    for worker in workers:
        ended, gone, served = worker.logged("ended"), worker.logged("gone"), worker.logged("served")
        for charge_id, note in ended.items():
            charge = final.charges[charge_id]
            assert (charge.cost_tokens, charge.cost_micro_usd) == (note["cost"], note["money"]), charge
            assert charge.basis == note["basis"]
            if charge.basis == "provider":
                assert charge.cost_tokens == ceil(Fraction(int(str(served[charge_id]["tokens"])) * 3, 2))
        if worker.name == VICTIM:
            continue
        unlogged = worker.logged("sent").keys() - ended.keys()
        assert unlogged <= gone.keys()
        logged_cost += sum(int(str(note["cost"])) for note in ended.values())
        charged += sum(final.charges[charge_id].cost_tokens for charge_id in ended)
        for charge_id in (gone.keys() & final.charges.keys()) - worker.logged("sent").keys():
            charge = final.charges[charge_id]
            assert charge.state == "released", f"a caller cancelled before the call was sent pays nothing: {charge}"
    assert charged == logged_cost > 0


def assert_that_faults_and_refusals_occurred(auditor: Auditor, final: Snapshot, workers: list[Process]) -> None:
    """The faults did happen, and the quotas were in the way: otherwise this proves little."""
    sent = {worker.name: worker.logged("sent").keys() for worker in workers}
    lost = [final.charges[charge_id] for charge_id in sent[VICTIM] - workers[0].logged("ended").keys()]
    assert any(charge.closed_by == "expire" for charge in lost), "the process that was killed held nothing"
    assert auditor.snapshots >= 10
    assert auditor.most_in_flight >= SEVERAL
    bases = {(charge.closed_by, charge.basis) for charge in final.charges.values()}
    assert bases >= {("settle", "provider"), ("settle", "counted"), ("settle", "unknown"), ("release", "none")}
    full = [window for window in final.windows.values() if window.settled > 0.9 * window.granted]
    assert full, "no quota was ever in the way"
    assert len(final.charges) >= PROCESSES * CALLS_EACH // 2
    kinds = {entry.kind for entries in final.entries.values() for entry in entries}
    assert kinds >= {"lapse", "report"}
    assert any(window.report_only and window.settled > window.granted for window in final.windows.values())
    used = {final.quota_of(window.id).kind for window in final.windows.values() if window.settled}
    templates = {"each_user", "each_key", "each_conversation", "each_tag"}
    assert used == {"user", "tenant", "key", "group", "tag", *templates}
    values = {(final.quota_of(one.id).kind, one.value) for one in final.windows.values() if one.settled and one.value}
    counted = Counter(kind for kind, _ in values)
    assert {kind for kind, number in counted.items() if number > 1} == templates
    spent = {final.quota_of(window.id).kind for window in full}
    assert spent & {"tag", *templates}, "none of a tag or a template was ever in the way"
