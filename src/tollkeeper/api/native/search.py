"""POST /ai/search: the passages of the caller's documents that belong to a question."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.api import strict_json
from tollkeeper.api.attribution import attributed
from tollkeeper.api.dependencies import SearchCaller, ServicesDep, SessionDep, count_call
from tollkeeper.api.formats import charge_headers
from tollkeeper.api.keyed_requests import keyed_request_of
from tollkeeper.api.limit_headers import limits_of, note_limits
from tollkeeper.api.middleware import read_body
from tollkeeper.api.native.exchange import rounded
from tollkeeper.api.native.schemas import RetrievalOptions
from tollkeeper.api.openapi_parts import ATTRIBUTION, IDEMPOTENCY_KEY, json_body
from tollkeeper.documents.retriever import MAX_QUESTION_CHARACTERS, Retrieval
from tollkeeper.telemetry.trace_context import join_trace

router = APIRouter(prefix="/ai/search", tags=["ai"])

PATH, SURFACE = "/ai/search", "search"
MAX_BODY_BYTES = 128 * 1024


class SearchRequest(RetrievalOptions, kw_only=True, forbid_unknown_fields=True):
    """A question. Only `query` is required."""

    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUESTION_CHARACTERS)]


class SearchResult(BaseModel):
    """A passage. `chunk` is its number in the document, from 0. `score` is the cosine of its vector with that of the
    question, -1 to 1; it is null for a passage that its words alone have found.
    """

    document_id: str
    name: str
    chunk: int
    score: float | None
    text: str


class SearchResponse(BaseModel):
    """The relevant passages, the best first; none if nothing is relevant. `query_id` is the charge of the question."""

    query_id: str
    results: list[SearchResult]


_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {"description": "Documents are off here, or there is no such document"},
    409: {"description": "A request with this Idempotency-Key is being handled"},
    422: {"description": "The request does not have the fields or types of this endpoint, or the key had another one"},
    429: {"description": "A quota or a rate limit refuses the question; the body names it"},
    502: {"description": "The provider failed"},
    504: {"description": "The provider did not answer in time"},
}


@router.post(
    "",
    openapi_extra=json_body(SearchRequest, {"query": "How long is the warranty?", "top_k": 3})
    | {"parameters": [IDEMPOTENCY_KEY, *ATTRIBUTION]},
    responses=_RESPONSES,
    summary="Search my documents",
)
async def search_documents(
    request: Request, response: Response, caller: SearchCaller, session: SessionDep, services: ServicesDep
) -> SearchResponse:
    """Searches by meaning and by words. The question's vector is charged as a call to /v1/embeddings is."""
    await session.commit()  # the question is embedded by a provider, and no transaction is open meanwhile
    headers = request.scope["headers"]
    principal = await attributed(services, caller.principal, headers)
    rate = await count_call(services, request.scope, principal)
    with services.call_events.record(principal, SURFACE, join_trace(headers)) as record:
        body = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        sent = strict_json.decode(SearchRequest, body)
        wanted = Retrieval(sent.query, sent.top_k, sent.min_score, tuple(sent.documents))
        found = await services.retriever.retrieve(record, SURFACE, wanted, keyed_request_of(headers, PATH, body))
    response.headers.update(charge_headers(found.charge_id, found.balances))
    note_limits(request.scope, limits_of(found.balances, rate, services.clock.now_ms()))
    results = [
        SearchResult(
            document_id=one.document_id,
            name=one.name,
            chunk=one.number,
            score=rounded(one.score),
            text=one.text,
        )
        for one in found.passages
    ]
    return SearchResponse(query_id=found.charge_id, results=results)
