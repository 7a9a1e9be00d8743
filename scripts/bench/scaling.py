"""What a call costs with several workers, when each caller has a tenant of its own and when all share one: the hot
tenant, whose row every call changes.

Both kinds of callers call the same server in turns, over so many connections for each of its workers. The servers are
not bound to a core: with workers, all cores are theirs, and the load's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bench.figures import Figure
from bench.load import CheckedRequest, LoadDriver, http_request
from bench.measurement import CallCounts, Round, run_calls, run_round
from bench.population import LIMIT, PASSWORD, TENANT_PERIOD, USER_PERIOD
from bench.report import format_table, show_progress
from bench.targets import Target, Testbed
from bench.workload import Workload
from tollkeeper.bootstrap.ledger import make_ledger
from tollkeeper.database.engine import Database
from tollkeeper.identity import accounts
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Role
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.settings import Settings

WORKERS = (1, 2, 4)
HOT, OWN = "hot", "own"
"""The prefixes of the names of the tenants: one for all callers, or one for each."""
UNLIMITED = {f"TOLLKEEPER_RATE_LIMIT_{kind}": "off" for kind in ("LOGIN", "AI", "READS", "HANDSHAKES")}
_COMMITS = re.compile(rb"^tollkeeper_ledger_batch_operations_(sum|count) (\S+)$", re.MULTILINE)


class _Commits(NamedTuple):
    """How many operations the ledger has committed so far, and in how many transactions."""

    operations: float
    commits: float


@dataclass(slots=True)
class _Callers:
    """The callers of one kind on one server, with their rounds, and the operations of a commit in each."""

    target: Target
    workers: int
    counts: CallCounts
    rounds: list[Round] = field(default_factory=list)
    operations: list[float] = field(default_factory=list)

    def cost_relative_to(self, other: "_Callers") -> Figure:
        """The CPU time of a call relative to that of the others on the same server, round by round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Figure.of(one.cpu_us() / two.cpu_us() for one, two in pairs)


async def measure_scaling(
    testbed: Testbed, kinds: Sequence[str], workers: Sequence[int], rounds: int, counts: CallCounts
) -> tuple[str, list[Target]]:
    """Returns the table, and the targets: two for each server. Raises BenchError if a call fails."""
    pairs = []
    for kind in kinds:
        for count in workers:
            show_progress(f"starting {kind} with {count} workers")
            pairs.append(await _start(testbed, kind, count, replace(counts, connections=counts.connections * count)))
    for callers in (callers for pair in pairs for callers in pair):
        connections, calls = callers.counts.connections, callers.counts.warm_up
        await run_calls(callers.target, Workload.CALLS, connections=connections, calls=calls)
    for number in range(rounds):
        show_progress(f"round {number + 1} of {rounds}")
        for own, hot in pairs:
            for callers in (own, hot) if number % 2 else (hot, own):
                await _measure(callers)
    rows = [_row(callers, pair[0]) for pair in pairs for callers in pair]
    headings = ("server", "workers", "tenants", "CPU µs", "× own tenants", "of it database", "operations a commit")
    table = format_table((*headings, "per second", "p50 ms"), rows, texts=3)
    return table, [callers.target for pair in pairs for callers in pair]


async def _start(testbed: Testbed, kind: str, workers: int, counts: CallCounts) -> tuple[_Callers, _Callers]:
    """Start a server. Returns its callers with tenants of their own, and those with one for all."""

    async def fill(settings: Settings) -> list[tuple[str, str]]:
        return await _populate(settings, counts.connections)

    environment = UNLIMITED | {"TOLLKEEPER_WORKERS": str(workers)}
    target = await testbed.start_target(kind, fill=fill, name=f"{kind}-{workers}", environment=environment)
    own, hot = ([user for user in target.users if user.tenant.startswith(prefix)] for prefix in (OWN, HOT))
    one, all_together = (replace(target, users=users, completed=target.completed.copy()) for users in (own, hot))
    return _Callers(one, workers, counts), _Callers(all_together, workers, counts)


async def _populate(settings: Settings, callers: int) -> list[tuple[str, str]]:
    """Fill an empty, migrated database. Returns the tenant name and e-mail address of every user."""
    passwords = Passwords(settings.bcrypt_rounds)
    password_hash = await passwords.hash(PASSWORD)
    passwords.close()
    database = Database(settings.database_url)
    emails: list[tuple[str, str]] = []
    limits: list[SetLimit] = []
    async with database.session() as session:
        for name, users in [(HOT, callers), *((f"{OWN}-{number}", 1) for number in range(callers))]:
            tenant = await accounts.create_tenant(session, name)
            assert tenant.id is not None
            limits.append(SetLimit(QuotaKey(Subject(tenant.id), Unit.TOKENS, TENANT_PERIOD), LIMIT))
            for number in range(users):
                email = f"user-{number}@{name}.example"
                user = await accounts.create_user(session, name, email, password_hash, Role.MEMBER)
                limits.append(SetLimit(QuotaKey(Subject(tenant.id, user.id), Unit.TOKENS, USER_PERIOD), LIMIT))
                emails.append((name, email))
    await database.close()
    ledger = make_ledger(settings)
    ledger.start()
    await ledger.administer(tuple(limits), actor="bench", reason="benchmark")
    await ledger.stop()
    return emails


async def _measure(callers: _Callers) -> None:
    loaded, connections = callers.counts.loaded, callers.counts.connections
    before = await _read_commits(callers.target.port)
    callers.rounds.append(await run_round(callers.target, Workload.CALLS, loaded, connections=connections))
    after = await _read_commits(callers.target.port)
    callers.operations.append((after.operations - before.operations) / (after.commits - before.commits))


async def _read_commits(port: int) -> _Commits:
    """Those of all workers together."""
    async with LoadDriver(port, [CheckedRequest(http_request("GET", "/metrics"))], connections=1, calls=1) as driver:
        await driver.run()
        found = {name: float(value) for name, value in _COMMITS.findall(driver.last_body)}
    return _Commits(found[b"sum"], found[b"count"])


def _row(callers: _Callers, own: _Callers) -> Sequence[str]:
    rounds = callers.rounds
    is_hot = callers.target.users[0].tenant == HOT
    shares = Figure.of(one.cpu_us("database") / one.cpu_us() * 100 if "database" in one.cpu_s else 0 for one in rounds)
    return (
        callers.target.kind,
        str(callers.workers),
        "one for all" if is_hot else "one each",
        Figure.of(one.cpu_us() for one in rounds).format(",.0f"),
        callers.cost_relative_to(own).format(".2f"),
        f"{shares.median:.0f} %",
        Figure.of(callers.operations).format(".1f"),
        Figure.of(one.calls_per_second for one in rounds).format(",.0f"),
        Figure.of(one.p50_ms(first_byte=False) for one in rounds).format(".1f"),
    )
