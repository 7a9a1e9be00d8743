"""Who does an administrative act: with which rights, in which transaction, and how the act is noted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.audit_log.log import Act, AuditLog
from tollkeeper.errors import Forbidden, StepUpRequired
from tollkeeper.principal import Role
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope


@dataclass(frozen=True, slots=True)
class Administrator:
    """The administrator of one request or command.

    `name` is how the audit log and the ledger name them: `user:ID`, or the program and the system's user. `scope` are
    the tenants that they may see; `tenant_id` is their own, which a request without a tenant means; `user_id` is who
    they are. A command has neither. `is_fresh`: they have proved who they are a moment ago.
    """

    session: AsyncSession
    audit_log: AuditLog
    name: str
    role: Role
    scope: TenantScope
    now_ms: int
    tenant_id: int | None = None
    user_id: int | None = None
    is_fresh: bool = False
    address: str = ""
    correlation_id: str = ""

    @property
    def is_operator(self) -> bool:
        """Whether they may administer all tenants."""
        return self.role is Role.OPERATOR

    def require_operator(self) -> None:
        """Raises Forbidden for anyone but operators."""
        if not self.is_operator:
            raise Forbidden("Only operators may do this.")

    def require_fresh_login(self) -> None:
        """Raises StepUpRequired unless they have logged in a moment ago: for acts that give access."""
        if not self.is_fresh:
            raise StepUpRequired

    async def note(
        self,
        tenant_id: int,
        action: str,
        target: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """Add an act to the audit log of a tenant (`INSTALLATION`: of none), in the transaction of the act."""
        act = self.act(tenant_id, action, target, before=before, after=after, reason=reason)
        await self.audit_log.add(self.session, act, self.now_ms)

    async def note_all(self, acts: Sequence[Act]) -> None:
        """Add several acts to the audit log, in the transaction of the acts."""
        await self.audit_log.add_all(self.session, acts, self.now_ms)

    def act(
        self,
        tenant_id: int,
        action: str,
        target: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> Act:
        """An act of this administrator, for the audit log."""
        return Act(
            tenant_id,
            self.name,
            action,
            target,
            before=before,
            after=after,
            reason=reason,
            address=self.address,
            correlation_id=self.correlation_id,
        )

    async def commit(self) -> None:
        """Commit what was done and noted so far, before another part acts that commits for itself."""
        await self.session.commit()


def commanding(session: AsyncSession, audit_log: AuditLog, name: str, now_ms: int) -> Administrator:
    """The administrator of a command: it is run with access to the database, and so with every right."""
    return Administrator(session, audit_log, name, Role.OPERATOR, ALL_TENANTS, now_ms, is_fresh=True)
