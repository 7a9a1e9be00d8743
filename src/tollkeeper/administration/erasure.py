"""Erasure of a person: what tells who they are goes; what they have spent stays, under their number."""

from datetime import UTC, datetime

from sqlmodel import col, delete, or_, select, update

from tollkeeper.administration import users
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.models import AdminRequest, QuotaRequest
from tollkeeper.alerts.models import AlertRule, QuotaAlert
from tollkeeper.batches.models import Batch
from tollkeeper.contents.models import StoredContent
from tollkeeper.conversations.models import StoredConversation
from tollkeeper.errors import LedgerConflict
from tollkeeper.files.models import StoredFile
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import ApiKey, ApiKeyUse, GroupMember, Identity, OneTimeLink, Session, TotpSecret, User
from tollkeeper.jobs.models import Job
from tollkeeper.quota.rules.jobs import JobStatus
from tollkeeper.quota.rules.models import Charge, ChargeState, IdempotencyKey
from tollkeeper.retrieval.models import Document, DocumentChunk, DocumentUse, DocumentVectors
from tollkeeper.webhooks.models import WebhookDelivery

ERASED = "erased"
OPEN_STATES = (ChargeState.RESERVED.value, ChargeState.DISPATCHED.value)


async def erase_user(admin: Administrator, user: User, reason: str) -> User:
    """Disable a user for good, and erase what tells who it was.

    The e-mail address becomes a placeholder. Password, second factor, logins, links, identities at OpenID providers,
    conversations, private documents, contents of calls, jobs, deliveries of their events, batches, files, requests for
    quota and stored responses are deleted, keys revoked. Documents that they share stay the tenant's. Charges, entries
    and the audit log stay: they name the user by number.

    Raises Forbidden, StepUpRequired, InvalidRequest; LedgerConflict while calls are in flight, which would store their
    answers after this: the user is then disabled, so that none can follow.
    """
    users.require_power_over(admin, user)
    users.require_another(admin, user)
    admin.require_fresh_login()
    was_disabled = user.disabled_at is not None
    accounts.disable(user, admin.now_ms)
    await admin.session.flush()
    if await _has_calls_in_flight(admin, user):
        await _hurry_jobs(admin, user)
        if not was_disabled:
            await admin.note(user.tenant_id, "user.change", users.target_of(user), after={"disabled": True})
        await admin.session.commit()
        raise LedgerConflict("The user is disabled, but calls are in flight. Erase again when they have ended.")
    await _delete_rows(admin, user)
    await keys.revoke_all(admin.session, user, admin.now_ms)
    await admin.session.exec(update(ApiKey).where(col(ApiKey.user_id) == user.id).values(name=ERASED, networks=None))
    user.email = f"{ERASED}-{user.id}@{ERASED}.{users.RESERVED_DOMAIN}"
    user.password_hash = ""
    user.erased_at = datetime.fromtimestamp(admin.now_ms / 1000, UTC)
    await admin.session.flush()
    await admin.note(user.tenant_id, "user.erase", users.target_of(user), reason=reason)
    return user


async def _has_calls_in_flight(admin: Administrator, user: User) -> bool:
    """The user is locked and disabled before this, so that no call can begin after it."""
    are_theirs = Charge.tenant_id == user.tenant_id, Charge.user_id == user.id
    query = select(Charge.id).where(*are_theirs, col(Charge.state).in_(OPEN_STATES)).limit(1)
    return (await admin.session.exec(query)).first() is not None


async def _hurry_jobs(admin: Administrator, user: User) -> None:
    """Have the user's pending jobs tried at once: each ends then, because the user is disabled."""
    are_theirs = col(Job.tenant_id) == user.tenant_id, col(Job.user_id) == user.id
    await admin.session.exec(
        update(Job).where(*are_theirs, col(Job.status) == JobStatus.PENDING.value).values(available_ms=0)
    )


async def _delete_rows(admin: Administrator, user: User) -> None:
    """Delete what a user has: the messages of a conversation and the chunks of a file go with it."""
    session = admin.session
    their_keys = select(ApiKey.id).where(ApiKey.user_id == user.id)
    await session.exec(delete(ApiKeyUse).where(col(ApiKeyUse.key_id).in_(their_keys)))
    await session.exec(
        delete(OneTimeLink).where(or_(col(OneTimeLink.user_id) == user.id, col(OneTimeLink.email) == user.email))
    )
    await session.exec(delete(Session).where(col(Session.user_id) == user.id))
    await session.exec(delete(TotpSecret).where(col(TotpSecret.user_id) == user.id))
    await session.exec(delete(GroupMember).where(col(GroupMember.user_id) == user.id))
    await session.exec(delete(Identity).where(col(Identity.user_id) == user.id))
    await session.exec(delete(AdminRequest).where(col(AdminRequest.user_id) == user.id))
    for part in (DocumentChunk, DocumentVectors, Document):
        await session.exec(delete(part).where(col(part.tenant_id) == user.tenant_id, col(part.owner_id) == user.id))
    requested = (
        StoredConversation,
        StoredContent,
        IdempotencyKey,
        Job,
        WebhookDelivery,
        QuotaRequest,
        AlertRule,
        QuotaAlert,
    )
    for table in (*requested, Batch, StoredFile, DocumentUse):
        are_theirs = col(table.tenant_id) == user.tenant_id, col(table.user_id) == user.id
        await session.exec(delete(table).where(*are_theirs))
