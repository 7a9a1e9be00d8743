"""What each further quota costs a call, by whose it is and what it counts.

The ledger runs in this process, with as many calls at a time as there are connections: so its batches are those of a
server, and nothing else of a call is in the figures. Callers with and without further quotas take turns in each round,
so that other load on the machine affects both alike. All have the two quotas of the other measurements: per user and
day, and per tenant and month. The bare forwarder is measured in the same rounds.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sqlmodel.ext.asyncio.session import AsyncSession

from bench.figures import Figure
from bench.measurement import CallCounts, Round, run_calls, run_round
from bench.population import LIMIT, TENANT_PERIOD, USER_PERIOD
from bench.processes import BenchError
from bench.report import format_table, show_progress
from bench.targets import FORWARDER, Target, Testbed
from bench.upstream import COST_TOKENS
from bench.workload import Workload
from tollkeeper.bootstrap.ledger import make_ledger
from tollkeeper.chat import Usage
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.database.migrations import migrate
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import GroupMember, UserGroup
from tollkeeper.principal import Access, Principal, Role
from tollkeeper.quota import queries
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.calls import Terms
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.rules.windows import Period
from tollkeeper.settings import Settings

USERS = 4
"""The callers of each kind, who are a tenant."""
PERIODS = (Period.HOUR, Period.WEEK, Period.TOTAL)
"""The windows of the further quotas in one unit; those of concurrency have only the last."""


class Kind(NamedTuple):
    """What callers have: quotas of such a subject in such a unit or, without one, what a call needs to be theirs."""

    subject: SubjectKind
    unit: Unit | None = None

    @property
    def name(self) -> str:
        """The name of the tenant."""
        return f"{self.subject.value}-{self.unit.value if self.unit is not None else 'none'}"

    @property
    def periods(self) -> tuple[Period, ...]:
        """One for each further quota."""
        if self.unit is None:
            return ()
        return PERIODS[-1:] if self.unit is Unit.CONCURRENCY else PERIODS

    @property
    def baseline(self) -> "Kind":
        """The callers with the same credential and the same group, and without the further quotas."""
        own = self.subject in (SubjectKind.KEY, SubjectKind.GROUP)
        return Kind(self.subject if own else SubjectKind.USER)


UNITS = (Unit.TOKENS, Unit.REQUESTS, Unit.CONCURRENCY)
SUBJECTS = (SubjectKind.USER, SubjectKind.TENANT, SubjectKind.KEY, SubjectKind.GROUP)
WITH_QUOTAS = tuple(Kind(subject, unit) for subject in SUBJECTS for unit in UNITS)
KINDS = (*dict.fromkeys(kind.baseline for kind in WITH_QUOTAS), *WITH_QUOTAS)
TERMS = Terms("query", "bench", "bench", Meter(1_000, None), COST_TOKENS, COST_TOKENS, COST_TOKENS)
USAGE = Usage(COST_TOKENS, 0)


@dataclass(slots=True)
class _Callers:
    """The callers of one kind. `calls` counts their calls."""

    tenant_id: int
    callers: list[Principal] = field(default_factory=list)
    calls: int = 0


@dataclass(slots=True)
class _Compared:
    """One kind of further quotas: the rounds with them, and those without, which come right before or after."""

    kind: Kind
    with_quotas: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)

    def each_us(self) -> Figure:
        """The CPU time per call of one further quota, round by round."""
        count, pairs = len(self.kind.periods), zip(self.with_quotas, self.without, strict=True)
        return Figure.of((own - other) / count for own, other in pairs)


async def measure_further_quotas(testbed: Testbed, rounds: int, counts: CallCounts) -> tuple[str, list[Target]]:
    """Returns the table, and the forwarder. Raises BenchError if a call fails, or is charged inexactly."""
    show_progress(f"starting {FORWARDER}")
    bare, bare_rounds = await testbed.start_target(FORWARDER), list[Round]()
    settings = Settings(_env_file=None, database_url=f"sqlite:///{testbed.folder / 'further-quotas.db'}")
    await asyncio.to_thread(migrate, settings.database_url)
    ledger = make_ledger(settings)
    ledger.start()
    try:
        callers = await _populate(settings, ledger)
        compared = [_Compared(kind) for kind in WITH_QUOTAS]
        await run_calls(bare, Workload.CALLS, connections=counts.connections, calls=counts.warm_up)
        for one in callers.values():
            await _cpu_us(ledger, one, counts.warm_up // 4, counts.connections)
        for number in range(rounds):
            show_progress(f"round {number + 1} of {rounds}")
            bare_rounds.append(await run_round(bare, Workload.CALLS, counts.loaded, connections=counts.connections))
            for pair in compared:
                order = (pair.kind, pair.kind.baseline) if number % 2 else (pair.kind.baseline, pair.kind)
                for kind in order:
                    cpu_us = await _cpu_us(ledger, callers[kind], counts.loaded, counts.connections)
                    (pair.with_quotas if kind is pair.kind else pair.without).append(cpu_us)
        await _check(settings, callers.values())
    finally:
        await ledger.stop()
    forwarder_us = Figure.of(one.cpu_us() for one in bare_rounds)
    headings = (
        "whose",
        "unit",
        "further quotas",
        "ledger µs",
        "each further quota µs",
        "ms per 1,000 calls",
        "× forwarder",
    )
    return format_table(headings, [_row(pair, forwarder_us) for pair in compared], texts=2), [bare]


def _row(pair: _Compared, forwarder_us: Figure) -> Sequence[str]:
    each = pair.each_us()
    unit = pair.kind.unit
    assert unit is not None
    return (
        pair.kind.subject.value,
        unit.value,
        str(len(pair.kind.periods)),
        Figure.of(pair.with_quotas).format(",.0f"),
        each.format(".1f"),
        f"{each.median:.1f}",
        f"{each.median / forwarder_us.median:.3f}",
    )


async def _cpu_us(ledger: Ledger, callers: _Callers, calls: int, connections: int) -> float:
    """Make calls. Returns the CPU time of each in µs."""
    numbers = iter(range(calls))

    async def work(caller: Principal) -> None:
        for _ in numbers:
            async with ledger.reservation(caller, TERMS) as reservation:
                reservation.set_usage(USAGE)

    before = time.process_time()
    await asyncio.gather(*(work(callers.callers[number % USERS]) for number in range(connections)))
    callers.calls += calls
    return (time.process_time() - before) / calls * 1e6


async def _check(settings: Settings, callers: Iterable[_Callers]) -> None:
    """Compare the usage of each tenant's quota with the cost of the calls."""
    database = Database(settings.database_url)
    async with database.session() as session:
        for one in callers:
            balances = await queries.balances_of(session, [Subject(one.tenant_id)], SystemClock().now_ms())
            used = {(balance.period, balance.unit): balance.used for balance in balances}
            if used[TENANT_PERIOD, Unit.TOKENS] != one.calls * COST_TOKENS:
                raise BenchError(f"{one.calls} calls of {COST_TOKENS} tokens have cost {used}.")
    await database.close()


async def _populate(settings: Settings, ledger: Ledger) -> dict[Kind, _Callers]:
    """Fill a migrated database. Returns the callers of each kind."""
    database = Database(settings.database_url)
    found, limits = dict[Kind, _Callers](), list[SetLimit]()
    async with database.session() as session:
        for kind in KINDS:
            found[kind] = await _add_callers(session, kind, limits)
    await database.close()
    await ledger.administer(tuple(limits), actor="bench", reason="benchmark")
    return found


async def _add_callers(session: AsyncSession, kind: Kind, limits: list[SetLimit]) -> _Callers:
    """Add a tenant of callers, and to the limits those of its quotas."""
    tenant = await accounts.create_tenant(session, kind.name)
    assert tenant.id is not None
    limits.append(SetLimit(QuotaKey(Subject(tenant.id), Unit.TOKENS, TENANT_PERIOD), LIMIT))
    group = UserGroup(tenant_id=tenant.id, name=kind.name, created_ms=0)
    session.add(group)
    await session.flush()
    assert group.id is not None
    if kind.subject is SubjectKind.TENANT:
        limits += _limits(kind, Subject(tenant.id))
    if kind.subject is SubjectKind.GROUP:
        limits += _limits(kind, Subject(tenant.id, None, SubjectKind.GROUP, str(group.id)))
    added = _Callers(tenant.id)
    for number in range(USERS):
        user = await accounts.create_user(session, kind.name, f"{number}@{kind.name}.example", "", Role.MEMBER)
        assert user.id is not None
        limits.append(SetLimit(QuotaKey(Subject(tenant.id, user.id), Unit.TOKENS, USER_PERIOD), LIMIT))
        caller = Principal(user.id, tenant.id, Role.MEMBER, user.token_version)
        if kind.subject is SubjectKind.USER:
            limits += _limits(kind, Subject(tenant.id, user.id))
        if kind.subject is SubjectKind.KEY:
            key = (await keys.create(session, user, "bench", (Access.AI,), None, SystemClock().now_ms())).row.id
            caller = replace(caller, api_key=key)
            limits += _limits(kind, Subject(tenant.id, user.id, SubjectKind.KEY, key))
        if kind.subject is SubjectKind.GROUP:
            session.add(GroupMember(tenant_id=tenant.id, group_id=group.id, user_id=user.id, is_default=True))
        added.callers.append(caller)
    return added


def _limits(kind: Kind, subject: Subject) -> list[SetLimit]:
    unit = kind.unit or Unit.TOKENS
    return [SetLimit(QuotaKey(subject, unit, period), LIMIT) for period in kind.periods]
