"""Verifies the chains of the audit log. It reads in chunks, and is safe while servers write."""

import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Row, text
from sqlmodel import col, select

from tollkeeper.audit_log.log import COVERED, FIRST_MAC, AuditLog, Head
from tollkeeper.audit_log.models import AuditLine
from tollkeeper.database.engine import Database
from tollkeeper.tenant_scope import TenantScope

LINES_PER_QUERY = 1_000
MAX_PROBLEMS = 100
"""Problems that are listed. More are counted."""
_BEFORE_ALL_LINES = -(2**63)
_NEXT_CHAIN = text(
    "SELECT min(tenant_id) FROM (SELECT min(tenant_id) AS tenant_id FROM audit_heads WHERE tenant_id > :after"
    " UNION ALL SELECT min(tenant_id) FROM audit_lines WHERE tenant_id > :after) AS chains"
)
_END = text(
    "SELECT (SELECT sequence FROM audit_heads WHERE tenant_id = :tenant_id) AS sequence,"
    " (SELECT mac FROM audit_heads WHERE tenant_id = :tenant_id) AS mac,"
    " (SELECT max(sequence) FROM audit_lines WHERE tenant_id = :tenant_id) AS last"
)
"""One statement, so that head and last line are those of one moment."""


@dataclass(slots=True)
class Verification:
    """How many lines and chains were checked, and what is wrong with them, one sentence each."""

    lines: int = 0
    chains: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def add(self, problem: str) -> None:
        """Count a problem, and list it if it is one of the first MAX_PROBLEMS."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


async def verify(
    database: Database,
    audit_log: AuditLog,
    scope: TenantScope,
    noted: Sequence[Head] = (),
    progress: Callable[[Verification], None] = lambda _: None,
) -> Verification:
    """Check every line of the chains. `noted` are heads from earlier, which the chains must still contain.

    No transaction lasts longer than the reading of a chunk, after each of which `progress` is called. Raises
    DatabaseUnavailable.
    """
    found = Verification()
    wanted: dict[int, dict[int, set[str]]] = {}
    for head in noted:
        if head.sequence and scope.tenant_id in (None, head.tenant_id):
            wanted.setdefault(head.tenant_id, {}).setdefault(head.sequence, set()).add(head.mac)
    async for tenant_id in _chains(database, scope):
        found.chains += 1
        check = _ChainCheck(audit_log, found, tenant_id, wanted.pop(tenant_id, {}))
        await check.run(database, progress)
    for tenant_id, heads in sorted(wanted.items()):
        for sequence in sorted(heads):
            found.add(f"line {sequence} of tenant {tenant_id}, whose head was noted, is missing")
    return found


class _ChainCheck:
    """The check of one chain. `noted`: the MACs that were noted for a line, by its sequence number."""

    def __init__(self, audit_log: AuditLog, found: Verification, tenant_id: int, noted: dict[int, set[str]]) -> None:
        self._audit_log = audit_log
        self._found = found
        self._tenant_id = tenant_id
        self._noted = noted
        self._expected = 1
        self._previous = FIRST_MAC

    async def run(self, database: Database, progress: Callable[[Verification], None]) -> None:
        async with database.session() as session:
            head = (await (await session.connection()).execute(_END, {"tenant_id": self._tenant_id})).one()
        async for rows in _read_lines(database, self._tenant_id, head.last):
            for row in rows:
                self._check(row)
            progress(self._found)
        is_empty = head.sequence is None and head.last is None
        if not is_empty and (head.sequence, head.mac) != (self._expected - 1, self._previous):
            self._found.add(f"the end of tenant {self._tenant_id}'s chain is missing or was changed")
        for sequence in sorted(self._noted):
            self._found.add(f"line {sequence} of tenant {self._tenant_id}, whose head was noted, is missing")

    def _check(self, row: Row[tuple[object, ...]]) -> None:
        self._found.lines += 1
        place = f"line {row.sequence} of tenant {self._tenant_id}"
        if row.sequence < self._expected:
            self._found.add(f"{place} is not part of the chain")
            return
        if row.sequence > self._expected:
            self._found.add(f"{_missing(self._expected, row.sequence)} of tenant {self._tenant_id} missing")
        elif not hmac.compare_digest(row.mac, self._audit_log.mac(row[: len(COVERED)], self._previous)):
            self._found.add(f"{place} was changed, or the line before it")
        noted = self._noted.pop(row.sequence, None)
        if noted is not None and noted != {row.mac.hex()}:
            self._found.add(f"{place} is not the one whose head was noted")
        self._expected, self._previous = row.sequence + 1, row.mac


def _missing(first: int, found: int) -> str:
    return f"line {first} is" if found == first + 1 else f"lines {first} to {found - 1} are"


async def _chains(database: Database, scope: TenantScope) -> AsyncIterator[int]:
    """The tenants with a head or lines, by id."""
    if scope.tenant_id is not None:
        yield scope.tenant_id
        return
    after: int | None = -1
    while after is not None:
        async with database.session() as session:
            after = (await (await session.connection()).execute(_NEXT_CHAIN, {"after": after})).scalar_one()
        if after is not None:
            yield after


async def _read_lines(
    database: Database, tenant_id: int, last: int | None
) -> AsyncIterator[Sequence[Row[tuple[object, ...]]]]:
    """The lines of a chain up to the `last`, in order, in chunks: the COVERED columns and the MAC."""
    columns = [getattr(AuditLine, name) for name in (*COVERED, "mac")]
    sequence = col(AuditLine.sequence)
    after = _BEFORE_ALL_LINES
    while last is not None and after < last:
        query = select(*columns).where(AuditLine.tenant_id == tenant_id, sequence > after, sequence <= last)
        async with database.session() as session:
            rows = (await session.exec(query.order_by(sequence).limit(LINES_PER_QUERY))).all()
        if not rows:
            return
        yield rows
        after = rows[-1].sequence
