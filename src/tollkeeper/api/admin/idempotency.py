"""Stored responses of administrative requests, so that a repeated request acts once. They are encrypted: some have keys
and links, which are shown once.
"""

from typing import NamedTuple

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration.models import AdminRequest
from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.errors import IdempotencyInFlight, IdempotencyMismatch
from tollkeeper.principal import Principal

LIFETIME_MS = 86_400_000
PLANNED = 0
"""The status of a request that has no response yet: its body is the plan that it applies."""


class Repeatable(NamedTuple):
    """A request with an idempotency key. The fingerprint is of the caller's role, and of its method, path and body: a
    caller with another role gets nothing of what they did with the one before.
    """

    caller: Principal
    key: str
    fingerprint: str


async def find_response(
    session: AsyncSession, keys: DataKeys, repeatable: Repeatable, now_ms: int
) -> tuple[int, bytes] | None:
    """Status and body of the response to the same request in the last LIFETIME_MS; None if there was none. Raises
    IdempotencyMismatch if the key was used with another request.
    """
    query = select(AdminRequest).where(
        AdminRequest.user_id == repeatable.caller.user_id,
        AdminRequest.key == repeatable.key,
        AdminRequest.created_ms >= now_ms - LIFETIME_MS,
    )
    stored = (await session.exec(query)).first()
    if stored is None:
        return None
    if stored.fingerprint != repeatable.fingerprint:
        raise IdempotencyMismatch
    return stored.status, keys.unseal(Purpose.RESPONSES, stored.sealed_body, _place(repeatable))


async def store_response(
    session: AsyncSession, keys: DataKeys, repeatable: Repeatable, status: int, body: bytes, now_ms: int
) -> None:
    """Store a response in the transaction of the act. Raises IdempotencyInFlight if the same key was used at once."""
    await session.exec(delete(AdminRequest).where(col(AdminRequest.created_ms) < now_ms - LIFETIME_MS))
    sealed = keys.seal(Purpose.RESPONSES, body, _place(repeatable))
    row = AdminRequest(
        user_id=repeatable.caller.user_id,
        key=repeatable.key,
        tenant_id=repeatable.caller.tenant_id,
        fingerprint=repeatable.fingerprint,
        status=status,
        sealed_body=sealed,
        created_ms=now_ms,
    )
    session.add(row)
    try:
        await session.flush()
    except IntegrityError:
        raise IdempotencyInFlight from None


async def replace_plan(session: AsyncSession, keys: DataKeys, repeatable: Repeatable, status: int, body: bytes) -> None:
    """Store the response to a request in place of its plan, once it is applied."""
    sealed = keys.seal(Purpose.RESPONSES, body, _place(repeatable))
    is_same = col(AdminRequest.user_id) == repeatable.caller.user_id, col(AdminRequest.key) == repeatable.key
    await session.exec(update(AdminRequest).where(*is_same).values(status=status, sealed_body=sealed))


def _place(repeatable: Repeatable) -> str:
    return f"admin_requests/{repeatable.caller.user_id}/{repeatable.key}"
