"""Who logs in by a tenant's OpenID provider: an identity that is known, or a new user of one of the tenant's domains.

An identity is the pair of issuer and subject. An e-mail address never leads to a user who exists: the operator of the
provider could otherwise take over any account.
"""

from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration.users import person_email
from tollkeeper.audit_log.log import Act, AuditLog
from tollkeeper.errors import InvalidRequest, SignOnRefused
from tollkeeper.identity import domains, providers
from tollkeeper.identity.models import Identity, IdentityProvider, Tenant, User, UserKind
from tollkeeper.identity.oidc.client import Person
from tollkeeper.identity.sessions import Client
from tollkeeper.principal import Role


@dataclass(frozen=True, slots=True)
class SignOn:
    """A login at a provider: from where, and the transaction that it is part of."""

    session: AsyncSession
    audit_log: AuditLog
    client: Client
    now_ms: int

    async def note(self, user: User, action: str, *, before: Role | None = None, after: Role | None = None) -> None:
        """Add a line to the audit log of the user's tenant. The actor is the user."""
        assert user.id is not None
        act = Act(
            user.tenant_id,
            f"user:{user.id}",
            action,
            f"user:{user.id}",
            before={"role": before} if before is not None else None,
            after={"role": after} if after is not None else None,
            reason="single sign-on",
            address=self.client.address,
            correlation_id=self.client.correlation_id,
        )
        await self.audit_log.add(self.session, act, self.now_ms)


async def admit(sign_on: SignOn, provider: IdentityProvider, person: Person) -> User:
    """The user whom the person is, created if they are new, with the role that the provider's claims give.

    Raises SignOnRefused, whose sentence tells the person what to do; Unauthenticated.
    """
    session = sign_on.session
    tenant = await session.get(Tenant, provider.tenant_id)
    if tenant is None or tenant.disabled_at is not None:
        raise SignOnRefused("Your tenant cannot log in at present.")
    identity = await session.get(Identity, (provider.tenant_id, person.issuer, person.subject))
    if identity is None:
        return await _create_user(sign_on, provider, person)
    user = await session.get(User, identity.user_id)
    if user is None or user.tenant_id != provider.tenant_id:
        raise SignOnRefused("This account belongs to a user of another tenant.")
    if user.disabled_at is not None or user.role == Role.OPERATOR or user.kind != UserKind.PERSON:
        raise SignOnRefused("This user cannot log in by an identity provider.")
    role = _role_of(provider, person)
    if role is not None and user.role != role:
        before = Role(user.role)
        user.role = role.value
        user.token_version += 1
        await session.flush()
        await sign_on.note(user, "user.change", before=before, after=role)
    return user


def _role_of(provider: IdentityProvider, person: Person) -> Role | None:
    """The role that the claims give, which is never operator; None if the provider does not decide about roles."""
    if provider.role_claim is None:
        return None
    is_admin = person.has_value(provider.role_claim, providers.admin_values_of(provider))
    return Role.TENANT_ADMIN if is_admin else Role.MEMBER


async def _create_user(sign_on: SignOn, provider: IdentityProvider, person: Person) -> User:
    """A user with the person's verified e-mail address, whose domain is the tenant's, and without a password."""
    hint = f" Or an administrator links your user to the subject {person.subject}."
    if person.verified_email is None:
        raise SignOnRefused("The identity provider did not send a verified e-mail address." + hint)
    try:
        email = person_email(person.verified_email)
    except InvalidRequest:
        raise SignOnRefused("The identity provider sent no valid e-mail address." + hint) from None
    session = sign_on.session
    if not await domains.owns_domain_of(session, provider.tenant_id, email):
        raise SignOnRefused(
            "The domain of your e-mail address is not one of your tenant's. An operator adds it." + hint
        )
    if (await session.exec(select(User.id).where(User.email == email))).first() is not None:
        raise SignOnRefused(
            "There is a user with your e-mail address already. An administrator links that user to the subject"
            f" {person.subject}."
        )
    role = _role_of(provider, person) or Role.MEMBER
    user = User(tenant_id=provider.tenant_id, email=email, password_hash="", role=role.value)
    session.add(user)
    try:
        await session.flush()
        assert user.id is not None
        session.add(
            Identity(
                issuer=person.issuer,
                subject=person.subject,
                tenant_id=provider.tenant_id,
                user_id=user.id,
                created_ms=sign_on.now_ms,
            )
        )
        await session.flush()
    except IntegrityError:
        raise SignOnRefused("You are logging in from two places for the first time. Start again.") from None
    await sign_on.note(user, "user.create", after=role)
    return user
