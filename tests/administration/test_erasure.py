"""Erasure of a person: who it was goes everywhere; what was spent stays, under the number."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlmodel import SQLModel, col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from administration.conftest import Acting
from support.factories import FakeClock, make_principal, make_store, make_terms, set_limit, user_quota
from tollkeeper.administration import users
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.erasure import erase_user
from tollkeeper.administration.models import AdminRequest
from tollkeeper.audit_log.models import AuditLine
from tollkeeper.batches.models import Batch
from tollkeeper.chat import Usage
from tollkeeper.contents.models import StoredContent
from tollkeeper.conversations.models import StoredConversation, StoredMessage
from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidRequest, LedgerConflict, Unauthenticated
from tollkeeper.files.models import FileChunk, StoredFile
from tollkeeper.identity import accounts, keys, links
from tollkeeper.identity.models import ApiKey, ApiKeyUse, Identity, OneTimeLink, Session, TotpSecret, User
from tollkeeper.jobs.models import Job
from tollkeeper.principal import Access, Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Charge, Entry, IdempotencyKey
from tollkeeper.retrieval.models import Document, DocumentChunk, DocumentUse, DocumentVectors
from tollkeeper.webhooks.models import Webhook, WebhookAttempt, WebhookDelivery

ADDRESS = "ada.lovelace@example.com"
GONE: tuple[type[SQLModel], ...] = (
    ApiKeyUse,
    Session,
    TotpSecret,
    OneTimeLink,
    Identity,
    StoredConversation,
    StoredMessage,
    StoredContent,
    IdempotencyKey,
    AdminRequest,
    Job,
    WebhookDelivery,
    WebhookAttempt,
    Batch,
    StoredFile,
    FileChunk,
    Document,
    DocumentChunk,
    DocumentVectors,
    DocumentUse,
)


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    running = Ledger(make_store(database_url), lease_seconds=60)
    running.start()
    yield running
    await running.stop()


@pytest.fixture
async def operator(database: Database) -> Principal:
    return await make_principal(database, role=Role.OPERATOR)


@pytest.fixture
async def ada(database: Database, ledger: Ledger) -> Principal:
    principal = await make_principal(database, email=ADDRESS)
    await set_limit(ledger, user_quota(principal), 1_000)
    return principal


async def fill(database: Database, ada: Principal, clock: FakeClock) -> None:
    """Give a user a row of each kind, and another user the same."""
    for owner in (ada, await make_principal(database, ada.tenant_id)):
        owned: dict[str, Any] = {"user_id": owner.user_id, "tenant_id": owner.tenant_id}
        now_ms, later_ms = clock.ms, clock.ms + 1_000
        async with database.session() as session:
            user = await session.get(User, owner.user_id)
            assert user is not None
            key = await keys.create(session, user, "Ada's laptop", {Access.AI}, None, now_ms)
            await links.create_reset(session, user, created_by=None, now_ms=now_ms)
            session.add(ApiKeyUse(key_id=key.row.id, tenant_id=owner.tenant_id, used_ms=now_ms))
            session.add(
                Session(
                    id=f"ses_{owner.user_id}",
                    method="password",
                    role="member",
                    token_version=0,
                    generation=0,
                    token_hash="-",
                    created_ms=now_ms,
                    authenticated_ms=now_ms,
                    rotated_ms=now_ms,
                    access_ends_ms=later_ms,
                    expires_ms=later_ms,
                    address="127.0.0.1",
                    user_agent="browser",
                    **owned,
                )
            )
            session.add(TotpSecret(sealed_secret=b"-", recovery_hashes="[]", created_ms=now_ms, **owned))
            session.add(Identity(issuer="https://id.example", subject=str(owner.user_id), created_ms=now_ms, **owned))
            conversation = StoredConversation(name="diary", created_ms=now_ms, updated_ms=now_ms, **owned)
            session.add(conversation)
            await session.flush()
            assert conversation.id is not None
            text: dict[str, Any] = {"role": "user", "content": "I am Ada", "tokens": 3}
            session.add(StoredMessage(conversation_id=conversation.id, sequence=1, **text, **owned))
            content: dict[str, Any] = {"surface": "query", "provider": "p", "model": "m", "sealed_content": b"-"}
            session.add(StoredContent(charge_id=f"chg_{owner.user_id}", created_ms=now_ms, **content, **owned))
            stored: dict[str, Any] = {"fingerprint": "-", "created_ms": now_ms, "key": "k"}
            session.add(IdempotencyKey(charge_id="chg_0", status=200, body=b"Dear Ada", **stored, **owned))
            session.add(AdminRequest(status=200, sealed_body=b"-", **stored, **owned))
            session.add(make_job(owner, status="completed", completed_ms=now_ms))
            await add_delivery(session, owner, now_ms)
            await fill_files(session, owner, now_ms)
            session.add_all(make_document(owner))


async def fill_files(session: AsyncSession, owner: Principal, now_ms: int) -> None:
    owned: dict[str, Any] = {"user_id": owner.user_id, "tenant_id": owner.tenant_id}
    file_id = f"file-{owner.user_id}"
    stored: dict[str, Any] = {"purpose": "batch", "status": "ready", "name": b"-", "bytes": 1, "chunks": 1}
    session.add(StoredFile(id=file_id, created_ms=now_ms, expires_ms=now_ms, **stored, **owned))
    await session.flush()
    chunk: dict[str, Any] = {"number": 0, "starts_at": 0, "ends_at": 1, "content": b"-"}
    session.add(FileChunk(tenant_id=owner.tenant_id, file_id=file_id, **chunk))
    batch: dict[str, Any] = {"kind": "/v1/messages/batches", "status": "in_progress", "token_version": 0}
    batch |= {"correlation_id": "-", "traceparent": "-", "options": b"-", "deadline_ms": 1, "available_ms": 1}
    session.add(Batch(id=f"batch_{owner.user_id}", input_file_id=file_id, created_ms=now_ms, **batch, **owned))


async def add_delivery(session: AsyncSession, owner: Principal, now_ms: int) -> None:
    """The event of a job of the user, and an attempt to deliver it."""
    key: dict[str, Any] = {
        "tenant_id": owner.tenant_id,
        "webhook_id": f"wh_{owner.user_id}",
        "event_id": f"evt_{owner.user_id}",
    }
    sealed: dict[str, Any] = {"sealed_url": b"-", "sealed_secret": b"-"}
    session.add(
        Webhook(id=key["webhook_id"], tenant_id=owner.tenant_id, description="", events="", created_ms=1, **sealed)
    )
    await session.flush()
    times: dict[str, Any] = {"created_ms": now_ms, "since_ms": now_ms, "available_ms": now_ms}
    session.add(WebhookDelivery(event_type="job.completed", user_id=owner.user_id, data="{}", **key, **times))
    await session.flush()
    session.add(WebhookAttempt(number=1, started_ms=now_ms, duration_ms=1, status=500, **key))


def make_job(owner: Principal, **fields: Any) -> Job:
    values: dict[str, Any] = {"kind": "/ai/query", "priority": 0, "token_version": 0, "request": b"-"}
    values |= {"correlation_id": "-", "traceparent": "-", "created_ms": 1, "available_ms": 1, "deadline_ms": 2}
    return Job(id=f"job_{owner.user_id}", tenant_id=owner.tenant_id, user_id=owner.user_id, **(values | fields))


def make_document(owner: Principal) -> list[SQLModel]:
    """A private document, with its parts."""
    tenant: dict[str, Any] = {"tenant_id": owner.tenant_id}
    part: dict[str, Any] = tenant | {"document_id": f"doc_{owner.user_id}"}
    owned: dict[str, Any] = {"owner_id": owner.user_id}
    times: dict[str, Any] = {"created_ms": 1, "queued_ms": 1, "available_ms": 1}
    described: dict[str, Any] = {
        "name": b"-",
        "media_type": "text/plain",
        "size": 1,
        "status": "ready",
        "correlation_id": "-",
    }
    return [
        Document(
            id=f"doc_{owner.user_id}",
            user_id=owner.user_id,
            **described,
            **times,
            **owned,
            **tenant,
        ),
        DocumentChunk(number=0, text=b"-", **owned, **part),
        DocumentVectors(first=0, model="m", dimensions=1, count=1, vectors=b"-", **owned, **part),
        DocumentUse(kind="job", key="-", user_id=owner.user_id, created_ms=1, **part),
    ]


async def erase(acting: Acting, operator: Principal, target: Principal) -> None:
    async with acting(operator) as admin:
        await erase_user(admin, await _user(admin, target), "request of the person")


async def _user(admin: Administrator, principal: Principal) -> User:
    return await users.get_user(admin, principal.user_id, to_change=True)


async def count(database: Database, table: type[Any], user_id: int | None = None) -> int:
    query = select(func.count()).select_from(table)
    if user_id is not None:
        query = query.where(col(table.user_id) == user_id)
    async with database.session() as session:
        return (await session.exec(query)).one()


async def test_nothing_tells_who_it_was_and_what_was_spent_stays(
    database: Database, acting: Acting, clock: FakeClock, ledger: Ledger, operator: Principal, ada: Principal
) -> None:
    async with ledger.reservation(ada, make_terms(10, 90)) as reservation:
        reservation.set_usage(Usage(input_tokens=10, output_tokens=20))
    await fill(database, ada, clock)
    entries = await count(database, Entry)
    assert [await count(database, table) for table in GONE] == [2] * len(GONE)
    await erase(acting, operator, ada)
    assert [await count(database, table) for table in GONE] == [1] * len(GONE)
    assert (await count(database, Charge, ada.user_id), await count(database, Entry)) == (1, entries)
    async with database.session() as session:
        user = await session.get(User, ada.user_id)
        assert user is not None
        (key,) = (await session.exec(select(ApiKey).where(ApiKey.user_id == ada.user_id))).all()
        (line,) = (await session.exec(select(AuditLine).where(AuditLine.tenant_id == ada.tenant_id))).all()
        with pytest.raises(Unauthenticated):
            await accounts.load_account(session, ada, clock.ms)
    assert (user.email, user.password_hash) == (f"erased-{ada.user_id}@erased.invalid", "")
    assert user.disabled_at is not None
    assert (key.name, key.revoked_ms) == ("erased", clock.ms)
    assert (line.action, line.target, line.reason) == ("user.erase", f"user:{ada.user_id}", "request of the person")
    assert ADDRESS not in f"{line}{user}{key}"


async def test_it_is_for_good_and_the_address_can_be_used_again(
    database: Database, acting: Acting, operator: Principal, ada: Principal
) -> None:
    await erase(acting, operator, ada)
    for change in ({"disabled": False}, {"role": "operator"}, {"email": ADDRESS}):
        with pytest.raises(InvalidRequest):
            async with acting(operator) as admin:
                await users.change_user(admin, await _user(admin, ada), change)
    with pytest.raises(InvalidRequest):
        await erase(acting, operator, ada)
    async with database.session() as session:
        user = await session.get(User, ada.user_id)
        assert user is not None
        with pytest.raises(InvalidRequest):
            accounts.enable(user)
    async with acting(operator) as admin:
        again = await users.create_user(admin, users.NewUser(ADDRESS))
    assert again.id != ada.user_id


async def test_while_a_call_is_in_flight_the_user_is_only_disabled_and_jobs_that_wait_are_tried_at_once(
    database: Database, acting: Acting, ledger: Ledger, operator: Principal, ada: Principal
) -> None:
    async with database.session() as session:
        session.add(make_job(ada, status="pending", available_ms=10**15))
    async with ledger.reservation(ada, make_terms(10, 90)):
        with pytest.raises(LedgerConflict):
            await erase(acting, operator, ada)
        with pytest.raises(LedgerConflict):
            await erase(acting, operator, ada)
    async with database.session() as session:
        assert (await session.exec(select(Job.available_ms).where(Job.user_id == ada.user_id))).one() == 0
    with pytest.raises(Unauthenticated):
        async with ledger.reservation(ada, make_terms(10, 90)):
            pass
    async with database.session() as session:
        lines = (await session.exec(select(AuditLine).where(AuditLine.tenant_id == ada.tenant_id))).all()
    assert [(line.action, line.after) for line in lines] == [("user.change", '{"disabled":true}')]
    await erase(acting, operator, ada)
    async with database.session() as session:
        user = await session.get(User, ada.user_id)
    assert user is not None
    assert user.erased_at is not None
