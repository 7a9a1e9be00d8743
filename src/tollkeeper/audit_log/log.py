"""Adds lines to the audit log, reads them, and verifies their chain.

Each tenant has a chain of its own: the MAC of a line covers the line and the MAC of the line before. So a line that was
changed, removed or inserted by someone without the key is found. A cut at the end is found with a head that was noted
elsewhere (see `AuditLog.heads`).
"""

import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from sqlalchemy import text
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.audit_log.models import AuditHead, AuditLine
from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.tenant_scope import TenantScope

FIRST_MAC = bytes(32)
"""What the first line of a chain follows."""
LINES_PER_QUERY = 1_000
_START_CHAIN = text(
    "INSERT INTO audit_heads (tenant_id, sequence, mac) VALUES (:tenant_id, 0, :mac) ON CONFLICT (tenant_id) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Act:
    """What a line says. `target` names the object by kind and id, such as `user:17`; `before` and `after` are those of
    its fields that changed. None of it may be a secret, or the name of a person: names are erased elsewhere.
    """

    tenant_id: int
    actor: str
    action: str
    target: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str | None = None
    address: str = ""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """How far a tenant's chain went: the number of lines, and the MAC of the last, in hexadecimal digits."""

    tenant_id: int
    sequence: int
    mac: str

    def __str__(self) -> str:
        return f"{self.tenant_id}:{self.sequence}:{self.mac}"


class AuditLog:
    """The audit log in the database."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    async def add(self, session: AsyncSession, act: Act, now_ms: int) -> None:
        """Add a line in the session's transaction. It waits for other transactions that add one for the same tenant."""
        connection = await session.connection()
        await connection.execute(_START_CHAIN, {"tenant_id": act.tenant_id, "mac": FIRST_MAC})
        advance = (
            update(AuditHead)
            .where(col(AuditHead.tenant_id) == act.tenant_id)
            .values(sequence=col(AuditHead.sequence) + 1)
            .returning(col(AuditHead.sequence), col(AuditHead.mac))
        )
        sequence, previous = (await session.exec(advance)).one()
        line = AuditLine(
            tenant_id=act.tenant_id,
            sequence=sequence,
            at_ms=now_ms,
            actor=act.actor,
            action=act.action,
            target=act.target,
            before=_encode(act.before),
            after=_encode(act.after),
            reason=act.reason,
            address=act.address,
            correlation_id=act.correlation_id,
            mac=b"",
        )
        line.mac = self._mac(line, previous)
        session.add(line)
        await session.exec(update(AuditHead).where(col(AuditHead.tenant_id) == act.tenant_id).values(mac=line.mac))
        await session.flush()

    async def page(
        self, session: AsyncSession, scope: TenantScope, *, before: tuple[int, int, int] | None = None, limit: int
    ) -> list[AuditLine]:
        """At most `limit` lines, the newest first; with `before`, older than this (at_ms, tenant_id, sequence)."""
        order = col(AuditLine.at_ms), col(AuditLine.tenant_id), col(AuditLine.sequence)
        query = select(AuditLine).where(scope.condition(col(AuditLine.tenant_id)))
        if before is not None:
            at_ms, tenant_id, sequence = before
            older_of_same_time = (order[1] < tenant_id) | ((order[1] == tenant_id) & (order[2] < sequence))
            query = query.where((order[0] < at_ms) | ((order[0] == at_ms) & older_of_same_time))
        query = query.order_by(*(column.desc() for column in order)).limit(limit)
        return list((await session.exec(query)).all())

    async def heads(self, session: AsyncSession, scope: TenantScope) -> list[Head]:
        """How far each chain goes, to be noted where nobody who can change the database can change it."""
        query = select(AuditHead).where(scope.condition(col(AuditHead.tenant_id))).order_by(col(AuditHead.tenant_id))
        return [Head(row.tenant_id, row.sequence, row.mac.hex()) for row in (await session.exec(query)).all()]

    async def verify(self, session: AsyncSession, scope: TenantScope, noted: Sequence[Head] = ()) -> "Verification":
        """Check every line of the chains. `noted` are heads from earlier, which the chains must still contain."""
        problems: list[str] = []
        lines = 0
        heads = {head.tenant_id: head for head in await self.heads(session, scope)}
        wanted = {(head.tenant_id, head.sequence): head.mac for head in noted if head.sequence}
        for tenant_id in sorted(heads.keys() | await _tenants_with_lines(session, scope)):
            expected, previous = 1, FIRST_MAC
            async for line in _lines_of(session, tenant_id):
                lines += 1
                place = f"line {line.sequence} of tenant {tenant_id}"
                if line.sequence != expected:
                    problems.append(f"{_missing(expected, line.sequence)} of tenant {tenant_id} missing")
                elif not hmac.compare_digest(line.mac, self._mac(line, previous)):
                    problems.append(f"{place} was changed, or the line before it")
                mac = wanted.pop((tenant_id, line.sequence), None)
                if mac is not None and mac != line.mac.hex():
                    problems.append(f"{place} is not the one whose head was noted")
                expected, previous = line.sequence + 1, line.mac
            head = heads.get(tenant_id)
            if head is None or (head.sequence, head.mac) != (expected - 1, previous.hex()):
                problems.append(f"the end of tenant {tenant_id}'s chain is missing or was changed")
        problems += [
            f"line {sequence} of tenant {tenant_id}, whose head was noted, is missing" for tenant_id, sequence in wanted
        ]
        return Verification(lines, len(heads), problems)

    def _mac(self, line: AuditLine, previous: bytes) -> bytes:
        fields = [getattr(line, name) for name in _COVERED]
        return self._keys.mac(Purpose.AUDIT, previous + msgspec.json.encode(fields))


@dataclass(frozen=True, slots=True)
class Verification:
    """How many lines and chains were checked, and what is wrong with them, one sentence each."""

    lines: int
    chains: int
    problems: list[str]


_COVERED = (
    "tenant_id",
    "sequence",
    "at_ms",
    "actor",
    "action",
    "target",
    "before",
    "after",
    "reason",
    "address",
    "correlation_id",
)
"""The columns that the MAC of a line covers, in this order."""


def _encode(fields: Mapping[str, Any] | None) -> str | None:
    return orjson.dumps(dict(fields), option=orjson.OPT_SORT_KEYS).decode() if fields is not None else None


def _missing(first: int, found: int) -> str:
    return f"line {first} is" if found == first + 1 else f"lines {first} to {found - 1} are"


async def _tenants_with_lines(session: AsyncSession, scope: TenantScope) -> set[int]:
    query = select(AuditLine.tenant_id).where(scope.condition(col(AuditLine.tenant_id))).distinct()
    return set((await session.exec(query)).all())


async def _lines_of(session: AsyncSession, tenant_id: int) -> AsyncIterator[AuditLine]:
    """Yields the lines of a chain in order, a thousand per query."""
    after = 0
    while True:
        query = select(AuditLine).where(AuditLine.tenant_id == tenant_id, AuditLine.sequence > after)
        rows = (await session.exec(query.order_by(col(AuditLine.sequence)).limit(LINES_PER_QUERY))).all()
        for row in rows:
            yield row
        if len(rows) < LINES_PER_QUERY:
            return
        after = rows[-1].sequence
        session.expunge_all()
