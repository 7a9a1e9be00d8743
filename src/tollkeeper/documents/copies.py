"""Deletes what is kept elsewhere of a document's text: responses, jobs, contents and answers of calls made with it."""

from collections.abc import Awaitable, Callable, Sequence

from sqlmodel import and_, col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.configuration.models import ConfigurationVersion
from tollkeeper.contents.models import StoredContent
from tollkeeper.database.engine import Database
from tollkeeper.documents import repository
from tollkeeper.errors import NotFound
from tollkeeper.jobs.models import Job
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.models import Charge, ChargeState, IdempotencyKey
from tollkeeper.quota.time_sorted_ids import month_of
from tollkeeper.retrieval.models import Document, DocumentUse, UseKind

IN_FLIGHT = (ChargeState.RESERVED.value, ChargeState.DISPATCHED.value)
CancelJob = Callable[[Principal, str], Awaitable[Job]]


class Copies:
    """Deletes copies. `cancel_job` cancels a job that has not ended, and deletes one that has."""

    def __init__(self, database: Database, cancel_job: CancelJob) -> None:
        self._database = database
        self._cancel_job = cancel_job

    async def delete(self, document: Document) -> bool:
        """Delete the copies of a document's text. Returns whether there are none left: a call in flight may still
        store its response.
        """
        async with self._database.session() as session:
            query = select(DocumentUse).where(repository.is_part(DocumentUse, document))
            uses = (await session.exec(query)).all()
        if not uses:
            return True
        is_done = True
        for use in (one for one in uses if one.kind == UseKind.JOB):
            is_done = await self._delete_job(use) and is_done
        async with self._database.session() as session:
            for use in (one for one in uses if one.kind == UseKind.RESPONSE):
                is_done = await _delete_response(session, use) and is_done
            await _delete_contents(session, document, [one.key for one in uses if one.kind == UseKind.CONTENT])
            if any(one.kind == UseKind.CACHE for one in uses):
                version = col(ConfigurationVersion.version)
                await repository.write(session, update(ConfigurationVersion).values(version=version + 1))
        return is_done

    async def _delete_job(self, use: DocumentUse) -> bool:
        owner = Principal(use.user_id, use.tenant_id, Role.MEMBER, 0)
        try:
            await self._cancel_job(owner, use.key)
            await self._cancel_job(owner, use.key)  # one that has ended is deleted
            async with self._database.session() as session:
                return await session.get(Job, (use.tenant_id, use.key)) is None
        except NotFound:
            return True


async def _delete_response(session: AsyncSession, use: DocumentUse) -> bool:
    """The key stays, so that a repeated request is not charged again. Returns whether no call is in flight with it."""
    key = IdempotencyKey
    is_it = and_(col(key.tenant_id) == use.tenant_id, col(key.user_id) == use.user_id, col(key.key) == use.key)
    charge_id = (await session.exec(select(key.charge_id).where(is_it))).first()
    if charge_id is None:
        return True
    charge = await session.get(Charge, (charge_id, use.tenant_id, month_of(charge_id)))
    await repository.write(session, update(key).where(is_it).values(status=None, content_type=None, body=None))
    return charge is None or charge.state not in IN_FLIGHT


async def _delete_contents(session: AsyncSession, document: Document, charge_ids: Sequence[str]) -> None:
    content = StoredContent
    for start in range(0, len(charge_ids), repository.DELETED_AT_ONCE):
        some = charge_ids[start : start + repository.DELETED_AT_ONCE]
        are_theirs = col(content.tenant_id) == document.tenant_id, col(content.charge_id).in_(some)
        await repository.write(session, delete(content).where(*are_theirs))
