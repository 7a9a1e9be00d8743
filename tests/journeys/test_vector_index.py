"""The index of vectors (TOLLKEEPER_VECTOR_INDEX=pgvector) of a running server: filled, searched, and emptied."""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from journeys.support.documents import delete, search, upload
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from tollkeeper.database.engine import Database

SETTINGS = {
    "OPENAI_API_KEY": "",  # so that echo is the only provider
    "TOLLKEEPER_EMBEDDING_MODEL": "echo",
    "TOLLKEEPER_VECTOR_INDEX": "pgvector",
    "TOLLKEEPER_VECTOR_INDEX_CHUNKS": "200",
    "TOLLKEEPER_RATE_LIMIT_AI": "off",
}
PARAGRAPHS = 300
ROWS = "SELECT count(*) FROM document_index"
PREFER_THE_INDEX = """
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_sort = off', current_database()); END $$
"""
"""For so few rows, the planner would rather sort them."""
SCANS = "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname LIKE 'document_index_hnsw_%'"


def paragraph(number: int) -> str:
    """One chunk: two do not fit."""
    return f"Passage{number} {f'topic{number % 97} subject{number} ' * 60}"[:1_000]


async def prefer_the_index(server: Server) -> None:
    """Of connections that are opened later."""
    database = Database(server.database_url)
    async with database.session() as session:
        await (await session.connection()).execute(text(PREFER_THE_INDEX))
    await database.close()


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
    make_server: Callable[..., Server], postgres_url: str
) -> None:
    server = make_server(postgres_url, **SETTINGS)
    if "no effect" in (printed := server.command("migrate")):
        pytest.skip(printed)
    await prefer_the_index(server)
    server.start()
    async with new_user(server) as caller, new_user(server) as other:
        content = "\n\n".join(map(paragraph, range(PARAGRAPHS)))
        reply = await upload(caller, content)
        assert reply.status == 202, reply

        async def is_indexed() -> bool:
            return await value_of(server, ROWS) >= PARAGRAPHS

        await until(is_indexed)
        before = await value_of(server, SCANS)
        for number in (7, 123, PARAGRAPHS - 1):
            assert f"subject{number} " in await first_quote(caller, number)

        async def is_scanned() -> bool:
            return await value_of(server, SCANS) >= before + 3

        await until(is_scanned)
        assert (await search(other, "subject7 topic7")).body["results"] == [], "it is another tenant's"
        assert await delete(caller, reply.body["document_id"]) < 300

        async def is_empty() -> bool:
            return await value_of(server, ROWS) == 0

        await until(is_empty)
        assert (await search(caller, "subject7 topic7")).body["results"] == []
    server.stop()
