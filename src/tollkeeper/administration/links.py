"""One-time links: administrators create them, and a person who has one uses it without an account.

The audit log never has a token, nor the address that an invitation is for.
"""

from dataclasses import dataclass

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration import users
from tollkeeper.administration.administrator import Administrator
from tollkeeper.audit_log.log import Act, AuditLog
from tollkeeper.errors import InvalidLink, InvalidRequest
from tollkeeper.identity import accounts, links
from tollkeeper.identity.links import LinkKind, NewLink
from tollkeeper.identity.models import OneTimeLink, User
from tollkeeper.principal import Role

PATHS = {LinkKind.RESET: "/auth/reset", LinkKind.INVITATION: "/auth/invitations"}
"""Where links lead."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The use of a link: in which transaction, when and from where."""

    session: AsyncSession
    audit_log: AuditLog
    now_ms: int
    address: str = ""
    correlation_id: str = ""

    async def note(self, user: User, action: str, *, role: str | None = None) -> None:
        """Add the act to the audit log of the user's tenant, in the transaction of the act."""
        target = users.target_of(user)
        act = Act(
            user.tenant_id,
            target,
            action,
            target,
            after={"role": role} if role is not None else None,
            address=self.address,
            correlation_id=self.correlation_id,
        )
        await self.audit_log.add(self.session, act, self.now_ms)


def url_of(link: NewLink, base_url: str) -> str:
    """The URL to send to a person. The token is in the fragment, which browsers do not send."""
    return f"{base_url}{PATHS[LinkKind(link.row.kind)]}#token={link.token}"


async def create_reset(admin: Administrator, user: User) -> NewLink:
    """A link with which a user sets a new password. Earlier ones end. It gives access to the account, so it needs a
    fresh login. Raises Forbidden, StepUpRequired, InvalidRequest.
    """
    users.require_power_over(admin, user)
    admin.require_fresh_login()
    if user.disabled_at is not None:
        raise InvalidRequest("The user is disabled. Enable the user first.")
    link = await links.create_reset(admin.session, user, created_by=admin.user_id, now_ms=admin.now_ms)
    await admin.note(user.tenant_id, "user.reset", users.target_of(user), after={"expires_ms": link.row.expires_ms})
    return link


async def invite(admin: Administrator, email: str, role: Role, tenant_id: int | None = None) -> NewLink:
    """A link with which someone becomes a user. Raises Forbidden, StepUpRequired, NotFound, InvalidRequest."""
    tenant = await users.find_tenant_id(admin, tenant_id)
    users.check_grant(admin, role)
    address = users.person_email(email)
    if await accounts.taken_emails(admin.session, [address]):
        raise InvalidRequest(f"There is a user with the e-mail address {address} already.")
    link = await links.create_invitation(
        admin.session, tenant, address, role, created_by=admin.user_id, now_ms=admin.now_ms
    )
    after = {"role": role.value, "expires_ms": link.row.expires_ms}
    await admin.note(tenant, "invitation.create", _target_of(link.row), after=after)
    return link


async def list_invitations(
    admin: Administrator, tenant_id: int | None, *, after: str | None, limit: int
) -> list[OneTimeLink]:
    """At most `limit` invitations that can be accepted, by id. Raises NotFound for another's tenant."""
    scope = admin.scope.narrow(tenant_id)
    return await links.list_invitations(admin.session, scope, after=after, limit=limit, now_ms=admin.now_ms)


async def withdraw_invitation(admin: Administrator, invitation_id: str) -> None:
    """End an invitation. Raises NotFound."""
    link = await links.withdraw(admin.session, admin.scope, invitation_id, admin.now_ms)
    await admin.note(link.tenant_id, "invitation.withdraw", _target_of(link), before={"role": link.role})


async def reset_password(visitor: Visitor, token: str, password_hash: str) -> User:
    """Set the password of the user whose link this is. It ends their logins. Raises InvalidLink."""
    link = await links.consume(visitor.session, LinkKind.RESET, token, visitor.now_ms)
    user = await visitor.session.get(User, link.user_id)
    if user is None:
        raise InvalidLink
    accounts.change_password(user, password_hash)
    await accounts.revoke_sessions(visitor.session, user, visitor.now_ms)
    await visitor.note(user, "password.reset")
    return user


async def accept_invitation(visitor: Visitor, token: str, password_hash: str) -> User:
    """Create the user who was invited. Raises InvalidLink; InvalidRequest if the address has a user meanwhile."""
    link = await links.consume(visitor.session, LinkKind.INVITATION, token, visitor.now_ms)
    assert link.role is not None
    new = users.NewUser(email=link.email, role=Role(link.role), password_hash=password_hash)
    user = await accounts.add_user(visitor.session, users.make_user(new, link.tenant_id))
    link.email = None  # from here on it is the user's, and erased with the user
    await visitor.note(user, "invitation.accept", role=user.role)
    return user


def _target_of(link: OneTimeLink) -> str:
    return f"invitation:{link.id}"
