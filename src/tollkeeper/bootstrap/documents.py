"""Makes the parts of documents and retrieval, and processes documents beside a server or in a worker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tollkeeper.bootstrap.metrics import ServerMetrics
from tollkeeper.clock import Clock
from tollkeeper.database.due_work import NOW_MS, OWN_INTERVAL_S, DueWork
from tollkeeper.database.engine import Database
from tollkeeper.documents.copies import Copies
from tollkeeper.documents.embedding import Embedder
from tollkeeper.documents.indexing import Indexing
from tollkeeper.documents.repository import has_due
from tollkeeper.documents.retriever import Retriever
from tollkeeper.documents.runner import DocumentRunner
from tollkeeper.documents.service import DocumentLimits, Documents
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import ConfigurationError, ModelNotFound
from tollkeeper.gateway.allowed_models import require_model
from tollkeeper.gateway.call_record import CallEvents
from tollkeeper.gateway.path import Gateway
from tollkeeper.jobs.service import HOUR_MS, Jobs
from tollkeeper.principal import Principal
from tollkeeper.retrieval.contents import DocumentContents
from tollkeeper.retrieval.search import DocumentSearch
from tollkeeper.retrieval.vector_index import IndexedSearch, IndexFiller
from tollkeeper.retrieval.vectors import ExactSearch, VectorMemory
from tollkeeper.settings import Settings
from tollkeeper.telemetry.task_runs import Task


@dataclass(frozen=True, slots=True)
class DocumentParts:
    """What the endpoints of documents need, and the processing, which is None where documents are off."""

    documents: Documents
    retriever: Retriever
    runner: DocumentRunner | None


def make_documents(
    settings: Settings,
    database: Database,
    gateway: Gateway,
    call_events: CallEvents,
    keys: DataKeys,
    clock: Clock,
    metrics: ServerMetrics,
    jobs: Jobs,
    *,
    is_draining: Callable[[], bool],
) -> DocumentParts:
    """Raises ConfigurationError if the model of the vectors does not exist, or has fallbacks: other models make vectors
    that cannot be compared.
    """
    contents, wake = DocumentContents(keys), asyncio.Event()
    memory = VectorMemory(max_bytes=settings.vector_bytes)
    exact, is_indexed = ExactSearch(contents, memory), settings.vector_index == "pgvector"
    vectors = IndexedSearch(exact, min_chunks=settings.vector_index_chunks) if is_indexed else exact
    search = DocumentSearch(contents, vectors, min_score=settings.retrieval_min_score)
    copies = Copies(database, jobs.cancel)
    name, embedder, runner, check = settings.embedding_model, None, None, None
    if name is not None:
        _require_usable(gateway, name)
        embedder = Embedder(gateway, name)

        def check(caller: Principal) -> None:
            require_model(gateway.catalog, caller, name)

        indexing = Indexing(database, call_events, embedder, contents, copies, clock)
        runner = DocumentRunner(
            database,
            indexing,
            embedder,
            clock,
            wake,
            copies_ms=_copies_ms(settings),
            interval_s=OWN_INTERVAL_S,
            filler=IndexFiller(contents) if is_indexed else None,
            is_draining=is_draining,
            on_run=metrics.task_runs.note,
        )
    retriever = Retriever(database, embedder, search, clock)
    if runner is not None:
        metrics.watch_documents(runner, indexing, retriever, memory)
    limits = DocumentLimits(settings.document_bytes, settings.max_documents)
    documents = Documents(database, contents, memory, clock, wake, limits, copies, require_model=check)
    return DocumentParts(documents, retriever, runner)


def _copies_ms(settings: Settings) -> int:
    """How long a response, a job or a content with text of a document may be kept."""
    jobs_hours = settings.job_hours + settings.job_result_hours
    hours = max(settings.stored_response_hours, jobs_hours, 24 * settings.content_days)
    return int((hours + 24) * HOUR_MS)


def _require_usable(gateway: Gateway, name: str) -> None:
    try:
        model = gateway.catalog.configured_model(name)
    except ModelNotFound:
        raise ConfigurationError(f"TOLLKEEPER_EMBEDDING_MODEL: the catalog has no model {name}.") from None
    if model.fallbacks:
        raise ConfigurationError(
            f"TOLLKEEPER_EMBEDDING_MODEL: {name} has fallbacks, whose vectors cannot be compared with its own."
        )


@asynccontextmanager
async def processing_documents(
    settings: Settings, parts: DocumentParts, metrics: ServerMetrics, due_work: DueWork
) -> AsyncIterator[None]:
    """Process documents for the length of the block, unless they are off, or the settings leave that to workers.
    `due_work` wakes their runner.
    """
    if parts.runner is None or settings.jobs == "off":
        metrics.task_runs.leave_out(Task.DOCUMENTS)
        yield
        return
    due_work.add(has_due(NOW_MS), parts.runner.wake)
    parts.runner.start()
    try:
        yield
    finally:
        await parts.runner.stop()
