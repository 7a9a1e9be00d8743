"""Documents: uploaded, embedded in the background at their uploader's cost, found by who may read them, and deleted."""

import secrets

import pytest
from sqlalchemy import text

from journeys.support.admins import new_admin
from journeys.support.documents import delete, read, search, upload, uploaded, wait_for, wait_for_error
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user, set_limit
from tollkeeper.database.engine import Database
from tollkeeper.principal import Role

pytestmark = pytest.mark.prove_only_on_postgres(
    but=(
        "test_a_document_is_embedded_at_its_uploaders_cost_and_found",
        "test_nothing_of_a_document_is_stored_in_plain_text_and_nothing_is_left_after_its_deletion",
        "test_private_documents_are_their_owners_and_shared_ones_their_tenants",
    )
)


def note(marker: str) -> str:
    return f"The {marker} warranty covers the compressor for seven years.\n\nReturns are accepted within thirty days."


async def test_a_document_is_embedded_at_its_uploaders_cost_and_found(server: Server) -> None:
    async with new_user(server) as caller:
        reply = await upload(caller, note(caller.marker), "warranty.md")
        assert (reply.status, reply.body["status"], reply.body["progress"]) == (202, "pending", 0.0)
        document = await wait_for(caller, reply.body["document_id"], "ready")
        assert (document["name"], document["media_type"], document["chunks"]) == ("warranty.md", "text/markdown", 1)
        assert (document["progress"], document["visibility"], document["is_mine"]) == (1.0, "private", True)
        assert (document["embedding_model"], document["error"]) == ("text-embedding-3-small", None)
        [embedding] = await caller.charges()
        assert (embedding["surface"], embedding["model"]) == ("documents", "text-embedding-3-small")
        assert embedding["input_tokens"] > 0
        found = await search(caller, f"{caller.marker} warranty compressor?")
        assert found.status == 200, found
        [result] = found.body["results"]
        assert (result["document_id"], result["chunk"]) == (document["document_id"], 0)
        assert result["text"] == note(caller.marker)
        question = (await caller.charges())[0]
        assert (question["surface"], question["id"]) == ("search", found.body["query_id"])
        assert found.headers["X-Charge-ID"] == question["id"]
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (embedding["cost"] + question["cost"], 0)
        exact = await search(caller, note(caller.marker), min_score=0.99)
        assert [one["score"] for one in exact.body["results"]] == [1.0]
        assert (await search(caller, "unrelated planets orbit")).body["results"] == []
    await assert_ledger_is_consistent(server.database_url)


async def test_nothing_of_a_document_is_stored_in_plain_text_and_nothing_is_left_after_its_deletion(
    server: Server,
) -> None:
    async with new_user(server) as caller:
        canary = f"canary{secrets.token_hex(8)}"
        content = "".join(f"Paragraph {number} of {canary}. {'Filler. ' * 120}\n\n" for number in range(210))
        document_id = await uploaded(caller, content, f"{canary}.txt")
        document = await read(caller, document_id)
        assert document["chunks"] >= 210
        rows = await all_rows(server)
        assert canary not in rows
        assert document_id in rows
        assert (await search(caller, canary)).body["results"]
        assert await delete(caller, document_id) == 204
        assert (await caller.get(f"/ai/documents/{document_id}")).status == 404
        assert (await search(caller, canary)).body["results"] == []
        rows = await all_rows(server)
        assert document_id not in rows
        assert await delete(caller, document_id) == 404


async def all_rows(server: Server) -> str:
    """All rows of the tables of documents, and of their index, as text."""
    tables = ["documents", "document_chunks", "document_vectors", "document_uses"]
    if server.database_url.startswith("sqlite"):
        tables += ["chunk_words", "chunk_words_data", "chunk_words_content"]
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            connection = await session.connection()
            found = [(await connection.execute(text(f"SELECT * FROM {table}"))).all() for table in tables]
            return str(found)
    finally:
        await database.close()


async def test_private_documents_are_their_owners_and_shared_ones_their_tenants(server: Server) -> None:
    async with (
        new_user(server) as owner,
        new_user(server, tenant_id=owner.principal.tenant_id) as colleague,
        new_user(server) as stranger,
        new_admin(server, Role.TENANT_ADMIN, tenant_id=owner.principal.tenant_id) as admin,
    ):
        private = await uploaded(owner, f"secret {owner.marker} salary")
        shared = await uploaded(owner, f"public {owner.marker} handbook", visibility="tenant")
        for reader, readable in ((owner, {private, shared}), (colleague, {shared}), (stranger, set())):
            listed = (await reader.get("/ai/documents")).body["data"]
            assert {one["document_id"] for one in listed} == readable
            found = (await search(reader, owner.marker)).body["results"]
            assert {one["document_id"] for one in found} == readable
            for document_id in (private, shared):
                status = 200 if document_id in readable else 404
                assert (await reader.get(f"/ai/documents/{document_id}")).status == status
                chosen = await search(reader, owner.marker, documents=[document_id])
                assert chosen.status == status, chosen
        assert await delete(colleague, shared) == 403
        assert await delete(stranger, shared) == await delete(colleague, private) == 404
        async with admin.http.delete(
            f"/ai/documents/{shared}", headers={"Authorization": f"Bearer {admin.token}"}
        ) as response:
            assert response.status == 204
        assert (await search(colleague, owner.marker)).body["results"] == []


async def test_the_same_key_and_document_are_one_document(server: Server) -> None:
    async with new_user(server) as caller:
        first = await upload(caller, "one", key="key")
        again = await upload(caller, "one", key="key")
        assert (again.status, again.body["document_id"]) == (202, first.body["document_id"])
        assert again.headers["Idempotent-Replayed"] == "true"
        for other in (await upload(caller, "two", key="key"), await upload(caller, "one", "x.txt", key="key")):
            assert (other.status, other.code) == (422, "idempotency_key_reused")
        assert len((await caller.get("/ai/documents")).body["data"]) == 1


async def test_lists_have_pages(server: Server) -> None:
    async with new_user(server) as caller:
        ids = [(await upload(caller, f"text {number}")).body["document_id"] for number in range(3)]
        first = (await caller.get("/ai/documents?limit=2")).body
        assert [one["document_id"] for one in first["data"]] == ids[:0:-1]
        second = (await caller.get(f"/ai/documents?limit=2&cursor={first['next_cursor']}")).body
        assert ([one["document_id"] for one in second["data"]], second["next_cursor"]) == (ids[:1], None)


async def test_what_is_not_accepted_is_no_document(server: Server) -> None:
    async with new_user(server) as caller:
        for content, name, media_type, status, code in (
            ("", "a.txt", "", 422, "invalid_request"),
            ("x", "a.xyz", "", 415, "unsupported_media_type"),
            ("x", "a.txt", "image/png", 415, "unsupported_media_type"),
            ("x", "", "text/plain", 422, "invalid_request"),
            ("x", "a\n.txt", "text/plain", 422, "invalid_request"),
            (b"x" * (20 * 1024 * 1024 + 1), "a.txt", "", 413, "body_too_large"),
        ):
            reply = await upload(caller, content, name, media_type=media_type)
            assert (reply.status, reply.code) == (status, code), (name, reply)
        for limits in ({"surfaces": ["query"]}, {"models": ["another"]}):
            limited = await caller.with_api_key(**limits)
            assert (await upload(limited, "x")).code == "forbidden"
            assert (await search(limited, "x")).code == "forbidden"
        for fields in ({"top_k": 0}, {"top_k": 21}, {"min_score": 2}, {"documents": ["x"]}, {"unknown": 1}):
            assert (await search(caller, "x", **fields)).status == 422, fields
        assert (await search(caller, "")).status == 422
        assert (await caller.get("/ai/documents")).body["data"] == []
        assert await caller.charges() == []


@pytest.mark.prove_only_on_postgres
async def test_a_document_that_cannot_be_parsed_fails_with_a_reason(server: Server) -> None:
    async with new_user(server) as caller:
        for content, name, reason in (
            (b"\xff\xfe\xfa", "a.txt", "The document is not UTF-8 text."),
            (b"no pdf", "a.pdf", "The document is not a PDF that can be read."),
            (b"   ", "a.md", "The document has no text."),
        ):
            reply = await upload(caller, content, name)
            document = await wait_for(caller, reply.body["document_id"], "failed")
            assert document["error"] == {"code": "document_unreadable", "detail": reason}
        assert await caller.charges() == []


async def test_a_document_waits_for_room_in_the_quota_and_goes_on(server: Server) -> None:
    async with new_user(server, limit=1) as caller:
        reply = await upload(caller, "a short text of some words " * 5)
        document = await wait_for(caller, reply.body["document_id"], "failed")
        assert document["error"]["code"] == "quota_exceeded"
    async with new_user(server, limit=600) as caller:
        first = await upload(caller, "word " * 100)
        await wait_for(caller, first.body["document_id"], "ready")
        await _use_up(caller)
        second = await upload(caller, "word " * 100)
        document_id = second.body["document_id"]
        await wait_for_error(caller, document_id, "quota_exceeded")
        await set_limit(server, caller.principal, 100_000)
        await wait_for(caller, document_id, "ready")


async def _use_up(caller: ApiUser) -> None:
    quota = await caller.quota()
    assert quota["remaining"] > 0
    while (await search(caller, "word " * 20)).status == 200:
        pass
