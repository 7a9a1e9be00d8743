"""The index of vectors finds what an exact search finds, in what the reader may see, and holds what is stored."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import text
from sqlmodel import col, delete, select

from retrieval.conftest import MODEL, Stored
from support.factories import make_principal
from tollkeeper.database import vector_index_schema
from tollkeeper.database.vector_index_schema import type_of
from tollkeeper.principal import Principal
from tollkeeper.retrieval import vector_index
from tollkeeper.retrieval.models import SHARED, DocumentVectors
from tollkeeper.retrieval.vector_index import IndexedSearch, IndexFiller
from tollkeeper.retrieval.vectors import ExactSearch, ScoredChunk, VectorMemory
from tollkeeper.retrieval.visibility import Visible
from tollkeeper.tenant_scope import TenantScope

if TYPE_CHECKING:
    from tollkeeper.retrieval.vectors import Vectors

MOST = 10


def unit(generator: np.random.Generator, count: int, dimensions: int) -> "Vectors":
    made = generator.normal(size=(count, dimensions)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


async def set_up(stored: Stored) -> None:
    async with stored.database.session() as session:
        problem = await (await session.connection()).run_sync(vector_index_schema.set_up)
    if problem is not None:
        pytest.skip(f"Debian's PostgreSQL: {problem}")


async def fill(stored: Stored) -> None:
    filler = IndexFiller(stored.contents)
    filled = 1
    while filled:
        async with stored.database.session() as session:
            filled = await filler.fill(session)


async def indexed_rows(stored: Stored) -> int:
    async with stored.database.session() as session:
        connection = await session.connection()
        return int((await connection.execute(text("SELECT count(*) FROM document_index"))).scalar_one())


class NoSearch(ExactSearch):
    """Shows that the index was not used."""

    async def search(self, *_: Any) -> list[ScoredChunk]:
        raise AssertionError("exact")


async def search(
    stored: Stored, question: "Vectors", reader: Principal | None = None, *, exact: bool = False, most: int = MOST
) -> list[ScoredChunk]:
    """By the index alone, or exactly."""
    reader = reader or stored.owner
    made = ExactSearch if exact else NoSearch
    plain = made(stored.contents, VectorMemory(max_bytes=0))
    async with stored.database.session(TenantScope(reader.tenant_id)) as session:
        used = plain if exact else IndexedSearch(plain, min_chunks=1)
        return await used.search(session, Visible(reader), MODEL, question, most)


def keys(found: Sequence[ScoredChunk]) -> set[Any]:
    return {one.key for one in found}


def test_dimensions_choose_the_type() -> None:
    assert (type_of(2_000), type_of(2_001)) == ("vector(2000)", "halfvec(2001)")


async def test_without_the_table_or_on_sqlite_the_search_is_exact(stored: Stored) -> None:
    vectors = unit(np.random.default_rng(1), 8, 16)
    await stored.add("doc_a", ["text"] * 8, vectors)
    async with stored.database.session() as session:
        assert await IndexFiller(stored.contents).fill(session) == 0
    with pytest.raises(AssertionError, match="exact"):
        await search(stored, vectors[0])


@pytest.fixture
async def on_postgres(stored: Stored, database_url: str) -> Stored:
    if database_url.startswith("sqlite"):
        pytest.skip("the index is PostgreSQL's")
    await set_up(stored)
    await set_up(stored)  # what is there already stays
    return stored


async def test_the_index_follows_the_documents(on_postgres: Stored) -> None:
    stored, generator = on_postgres, np.random.default_rng(2)
    vectors = unit(generator, 8, 16)
    await stored.add("doc_a", ["text"] * 8, vectors)
    with pytest.raises(AssertionError, match="exact"):  # not all is in the index
        await search(stored, vectors[3])
    await fill(stored)
    assert await indexed_rows(stored) == 8
    first, *_ = found = await search(stored, vectors[3])
    assert (first.key.number, len(found)) == (3, 8)
    assert first.score == pytest.approx(1.0, abs=1e-5)
    assert [one.key for one in found] == [one.key for one in await search(stored, vectors[3], exact=True)]
    async with stored.database.session() as session:
        await session.exec(delete(DocumentVectors).where(col(DocumentVectors.first) == 0))
    assert await indexed_rows(stored) == 4, "what is deleted leaves the index, too"
    assert {one.key.number for one in await search(stored, vectors[3])} == {4, 5, 6, 7}


async def test_vectors_of_many_dimensions_are_halved(on_postgres: Stored) -> None:
    vectors = unit(np.random.default_rng(3), 4, 2_100)
    await on_postgres.add("doc_a", ["text"] * 4, vectors)
    await fill(on_postgres)
    first, *_ = await search(on_postgres, vectors[2])
    assert first.key.number == 2
    assert first.score == pytest.approx(1.0, abs=1e-2)


async def test_the_filters_worst_case_is_found_and_nothing_of_others(on_postgres: Stored) -> None:
    """The reader has few chunks among many of other tenants, all of which are nearer to the question."""
    mine, generator = on_postgres, np.random.default_rng(4)
    other = Stored(mine.database, mine.contents, await make_principal(mine.database))
    question = unit(generator, 1, 32)[0]
    near = question + 0.3 * unit(generator, 1_500, 32)
    await other.add("doc_b", ["text"] * 1_500, near / np.linalg.norm(near, axis=1, keepdims=True), SHARED, segment=64)
    far = unit(generator, 100, 32)
    far -= 1.2 * np.outer(far @ question, question)
    await mine.add("doc_a", ["text"] * 100, far / np.linalg.norm(far, axis=1, keepdims=True), segment=64)
    await fill(mine)
    async with mine.database.session() as session:
        rows = (await session.exec(select(DocumentVectors.document_id).distinct())).all()
    assert len(rows) == 2
    found = await search(mine, question)
    assert len(found) == MOST
    assert {one.key.document_id for one in found} == {"doc_a"}
    exact = await search(mine, question, exact=True)
    assert len(keys(found) & keys(exact)) >= 0.95 * MOST
    assert {one.key.document_id for one in await search(other, question, reader=other.owner)} == {"doc_b"}


EXACT_PLANS = text("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)")
"""What the planner is not to use, so that it takes the order of the index of vectors."""


async def search_by_index(stored: Stored, question: "Vectors", most: int) -> tuple[set[Any], str]:
    """What the scan of the HNSW index finds, and its plan."""
    reader = stored.owner
    plain = NoSearch(stored.contents, VectorMemory(max_bytes=0))
    async with stored.database.session(TenantScope(reader.tenant_id)) as session:
        connection = await session.connection()
        await connection.execute(EXACT_PLANS)
        found = await IndexedSearch(plain, min_chunks=1).search(session, Visible(reader), MODEL, question, most)
        explained = text(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {vector_index.nearest(len(question))}")
        shared, own = Visible(reader).owners
        values = {"tenant_id": reader.tenant_id, "shared": shared, "reader": own, "model": MODEL, "most": most}
        values["vector"] = vector_index.written(question)
        plan = [row[0] for row in await connection.execute(explained, values)]
    return keys(found), "\n".join(plan)


@pytest.mark.prove_only
async def test_the_recall_where_a_tenth_of_the_chunks_are_the_readers_and_all_others_are_nearer(
    on_postgres: Stored,
) -> None:
    """20 questions; 10,000 chunks of 128 dimensions, 1,000 of them the reader's, in clusters as texts have them."""
    mine, generator = on_postgres, np.random.default_rng(5)
    other = Stored(mine.database, mine.contents, await make_principal(mine.database))
    topics = unit(generator, 50, 128)
    for stored, count, spread in ((other, 9_000, 0.6), (mine, 1_000, 1.4)):
        near = topics[generator.integers(0, 50, count)] + spread * unit(generator, count, 128)
        near /= np.linalg.norm(near, axis=1, keepdims=True)
        for number, start in enumerate(range(0, count, 1_000)):
            name = f"doc_{stored.owner.tenant_id}_{number}"
            await stored.add(name, ["text"] * 1_000, near[start : start + 1_000], segment=64)
    await fill(mine)
    took: dict[bool, float] = {}
    recalled = recalled_by_index = 0
    for question in topics[:20] + 0.4 * unit(generator, 20, 128):
        question /= np.linalg.norm(question)
        found: dict[bool, set[Any]] = {}
        for exact in (False, True):
            started = time.perf_counter()
            found[exact] = keys(await search(mine, question, exact=exact, most=50))
            took[exact] = took.get(exact, 0.0) + (time.perf_counter() - started) / 20
        recalled += len(found[False] & found[True])
        by_index, plan = await search_by_index(mine, question, 50)
        assert "Index Scan using document_index_hnsw_128" in plan, plan
        recalled_by_index += len(by_index & found[True])
    print(f"recall {recalled / 1_000}, index {took[False]:.3f} s, exact (cold) {took[True]:.3f} s")
    print(f"recall of the scan of the HNSW index {recalled_by_index / 1_000}\n{plan}")
    assert min(recalled, recalled_by_index) >= 950
