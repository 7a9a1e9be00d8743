"""Adds lines to the audit log, and reads them.

Each tenant has a chain of its own: the MAC of a line covers the line and the MAC of the line before. So a line that was
changed, removed or inserted by someone without the key is found (see `verification`). A cut at the end is found with a
head that was noted elsewhere (see `AuditLog.heads`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from sqlalchemy import ColumnElement, insert, text, tuple_
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.audit_log.models import AuditHead, AuditLine
from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.tenant_scope import TenantScope

FIRST_MAC = bytes(32)
"""What the first line of a chain follows."""
COVERED = (
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
_HEAD = re.compile(r"(?<![0-9])([0-9]{1,10}):([0-9]{1,15}):([0-9a-f]{64})(?![0-9a-f])")
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

    @classmethod
    def find_all(cls, text: str) -> "Iterator[Head]":
        """The heads in a text: what `str` returns, among anything else."""
        return (cls(int(found[1]), int(found[2]), found[3]) for found in _HEAD.finditer(text))


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines to show: all that have these values, of acts from `from_ms` on and before `to_ms`."""

    action: str | None = None
    actor: str | None = None
    target: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions for a WHERE clause."""
        equal = ((getattr(AuditLine, name), getattr(self, name)) for name in ("action", "actor", "target"))
        found = [column == value for column, value in equal if value is not None]
        if self.from_ms is not None:
            found.append(col(AuditLine.at_ms) >= self.from_ms)
        if self.to_ms is not None:
            found.append(col(AuditLine.at_ms) < self.to_ms)
        return found


ALL_LINES = Filter()


class AuditLog:
    """The audit log in the database."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    async def add(self, session: AsyncSession, act: Act, now_ms: int) -> None:
        """Add a line in the session's transaction. It waits for other transactions that add one for the same tenant."""
        await self.add_all(session, [act], now_ms)

    async def add_all(self, session: AsyncSession, acts: Sequence[Act], now_ms: int) -> None:
        """Add a line for each act. The chains are locked in the order of the tenants' ids, so that transactions never
        wait for each other in a circle: one with lines of several tenants adds them in one call.
        """
        for tenant_id in sorted({act.tenant_id for act in acts}):
            await self._extend(session, tenant_id, [act for act in acts if act.tenant_id == tenant_id], now_ms)

    async def _extend(self, session: AsyncSession, tenant_id: int, acts: Sequence[Act], now_ms: int) -> None:
        """Add lines to one chain. Its head stays locked until the end of the transaction."""
        connection = await session.connection()
        await connection.execute(_START_CHAIN, {"tenant_id": tenant_id, "mac": FIRST_MAC})
        of_tenant = col(AuditHead.tenant_id) == tenant_id
        advance = (
            update(AuditHead)
            .where(of_tenant)
            .values(sequence=col(AuditHead.sequence) + len(acts))
            .returning(col(AuditHead.sequence), col(AuditHead.mac))
        )
        last, mac = (await session.exec(advance)).one()
        lines = []
        for sequence, act in enumerate(acts, last - len(acts) + 1):
            fields = {
                "tenant_id": tenant_id,
                "sequence": sequence,
                "at_ms": now_ms,
                "actor": act.actor,
                "action": act.action,
                "target": act.target,
                "before": _encode(act.before),
                "after": _encode(act.after),
                "reason": act.reason,
                "address": act.address,
                "correlation_id": act.correlation_id,
            }
            mac = self.mac([fields[name] for name in COVERED], mac)
            lines.append(fields | {"mac": mac})
        await connection.execute(insert(AuditLine), lines)
        await connection.execute(update(AuditHead).where(of_tenant).values(mac=mac))

    async def page(
        self,
        session: AsyncSession,
        scope: TenantScope,
        *,
        matching: Filter = ALL_LINES,
        before: tuple[int, int, int] | None = None,
        limit: int,
    ) -> list[AuditLine]:
        """At most `limit` lines, the newest first; with `before`, older than this (at_ms, tenant_id, sequence)."""
        order = col(AuditLine.at_ms), col(AuditLine.tenant_id), col(AuditLine.sequence)
        query = select(AuditLine).where(scope.condition(col(AuditLine.tenant_id)), *matching.conditions())
        if before is not None:
            query = query.where(order[0] <= before[0], tuple_(*order) < before)
        query = query.order_by(*(column.desc() for column in order)).limit(limit)
        return list((await session.exec(query)).all())

    async def heads(self, session: AsyncSession, scope: TenantScope) -> list[Head]:
        """How far each chain goes, to be stored out of reach of those who can change the database."""
        query = select(AuditHead).where(scope.condition(col(AuditHead.tenant_id))).order_by(col(AuditHead.tenant_id))
        return [Head(row.tenant_id, row.sequence, row.mac.hex()) for row in (await session.exec(query)).all()]

    def mac(self, fields: Sequence[Any], previous: bytes) -> bytes:
        """The MAC of a line with these COVERED fields, after a line with the MAC `previous`."""
        return self._keys.mac(Purpose.AUDIT, previous + msgspec.json.encode(fields))


def _encode(fields: Mapping[str, Any] | None) -> str | None:
    return orjson.dumps(dict(fields), option=orjson.OPT_SORT_KEYS).decode() if fields is not None else None
