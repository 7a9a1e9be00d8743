"""The index of vectors (TOLLKEEPER_VECTOR_INDEX=pgvector) of a running server: filled, searched, and emptied."""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from journeys.support.documents import delete, search, upload
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from tollkeeper.database.engine import Database
from tollkeeper.retrieval.vector_index import MIN_CHUNKS

SETTINGS = {
    "TOLLKEEPER_EMBEDDING_MODEL": "echo",
    "TOLLKEEPER_VECTOR_INDEX": "pgvector",
    "TOLLKEEPER_RATE_LIMIT_AI": "off",
}
PARAGRAPHS = MIN_CHUNKS + 200
PATIENCE_S = 600.0
"""Thousands of chunks are embedded and indexed on two cores."""
ROWS = "SELECT count(*) FROM document_index"
SCANS = "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname LIKE 'document_index_hnsw_%'"


def paragraph(number: int) -> str:
    """One chunk: two do not fit."""
    return f"Passage{number} {f'topic{number % 97} subject{number} ' * 60}"[:1_000]


async def value_of(server: Server, statement: str) -> int:
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            return int((await (await session.connection()).execute(text(statement))).scalar_one())
    finally:
        await database.close()


async def first_quote(caller: ApiUser, number: int) -> str:
    found = await search(caller, f"subject{number} topic{number % 97}", top_k=3)
    assert found.status == 200, found
    return str(found.body["results"][0]["text"])


@pytest.mark.prove_only
async def test_a_running_server_fills_searches_and_empties_the_index(
    make_server: Callable[..., Server], database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("the index is PostgreSQL's")
    server = make_server(database_url, **SETTINGS)
    if "no effect" in (said := server.command("migrate")):
        pytest.skip(said)
    server.start()
    async with new_user(server, limit=10**9) as caller, new_user(server) as other:
        content = "\n\n".join(map(paragraph, range(PARAGRAPHS)))
        reply = await upload(caller, content)
        assert reply.status == 202, reply

        async def is_indexed() -> bool:
            return await value_of(server, ROWS) >= PARAGRAPHS

        await until(is_indexed, PATIENCE_S)
        before = await value_of(server, SCANS)
        for number in (7, 4_321, PARAGRAPHS - 1):
            assert f"subject{number} " in await first_quote(caller, number)

        async def is_scanned() -> bool:
            return await value_of(server, SCANS) >= before + 3

        await until(is_scanned)
        assert (await search(other, "subject7 topic7")).body["results"] == [], "it is another tenant's"
        assert await delete(caller, reply.body["document_id"]) < 300

        async def is_empty() -> bool:
            return await value_of(server, ROWS) == 0

        await until(is_empty, PATIENCE_S)
        assert (await search(caller, "subject7 topic7")).body["results"] == []
    server.stop()
