"""The documents that the caller may read: upload, list, read and delete them."""

import asyncio
import hashlib
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from tollkeeper.api.admin.pages import Limit, Page
from tollkeeper.api.dependencies import DocumentReader, Services, ServicesDep, SessionDep, count_call
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.keyed_requests import keyed_request_of
from tollkeeper.api.middleware import read_body
from tollkeeper.api.openapi_parts import IDEMPOTENCY_KEY, link
from tollkeeper.documents import repository
from tollkeeper.documents.parsing.formats import DocumentFormat, format_of
from tollkeeper.documents.service import MAX_DOCUMENT_BYTES, Upload
from tollkeeper.errors import InvalidRequest, NotFound, UnsupportedMediaType
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.retrieval.models import SHARED, Document, DocumentStatus

router = APIRouter(prefix="/ai/documents", tags=["ai"])

PATH = "/ai/documents"
ID_PATTERN = r"doc_[0-9a-f]{32}"
_ID = re.compile(ID_PATTERN)
EXAMPLE_ID = "doc_0123456789abcdef0123456789abcdef"
Visibility = Literal["private", "tenant"]
DocumentId = Annotated[str, Path(max_length=40, examples=[EXAMPLE_ID])]
Cursor = Annotated[str | None, Query(max_length=40, pattern=f"^{ID_PATTERN}$", examples=[EXAMPLE_ID])]


class DocumentProblem(BaseModel):
    """Why a document has failed, or waits."""

    code: str
    detail: str


class DocumentResponse(BaseModel):
    """A document. `progress` is 0 to 1: which share of its chunks can be found by their meaning. It can be searched
    from its first chunk on. `is_mine`: the caller has uploaded it. A `pending` document with an `error` waits.
    """

    document_id: str
    name: str
    media_type: str
    bytes: int
    visibility: Visibility
    is_mine: bool
    status: Literal["pending", "processing", "ready", "failed"]
    progress: float
    chunks: int | None
    embedding_model: str | None
    error: DocumentProblem | None
    created_at: Moment
    completed_at: Moment | None


_BODY = {
    "required": True,
    "description": "The document itself, in the format that Content-Type names: at most 20 MiB.",
    "content": {
        kind.value: {"schema": {"type": "string", "format": "binary", "minLength": 1}, "example": example}
        for kind, example in {
            DocumentFormat.TEXT: "The warranty is three years.",
            DocumentFormat.MARKDOWN: "# Warranty\n\nThree years.",
            DocumentFormat.HTML: "<h1>Warranty</h1><p>Three years.</p>",
            DocumentFormat.PDF: "%PDF-1.7 ...",
            DocumentFormat.DOCX: "PK...",
        }.items()
    },
}
_UPLOADED: dict[int | str, dict[str, Any]] = {
    202: {
        "links": {
            "Read": link("get_document", document_id="$response.body#/document_id"),
            "Delete": link("delete_document", document_id="$response.body#/document_id"),
        }
    },
    404: {"description": "Documents are off here"},
    413: {"description": "The document is too large, or the documents of the tenant are"},
    415: {"description": "Documents in this format are not read"},
    422: {"description": "A parameter is not valid, or the Idempotency-Key was used with another document"},
}


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": _BODY, "parameters": [IDEMPOTENCY_KEY]},
    responses=_UPLOADED,
    summary="Upload a document",
)
async def upload_document(
    request: Request,
    response: Response,
    caller: DocumentReader,
    session: SessionDep,
    services: ServicesDep,
    name: Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$", examples=["handbook.md"])],
    visibility: Annotated[Visibility, Query(examples=["tenant"])] = "private",
) -> DocumentResponse:
    """The body is the document. It is split and embedded in the background, which is charged to who uploads it."""
    await session.commit()  # no transaction is open while the client sends the body
    principal, documents = caller.principal, services.documents
    await count_call(services, request.scope, principal)
    documents.require_on(principal)
    kind = _format_of(request, name)
    with services.uploads.count(principal.user_id) as counted:
        content = await read_body(request.scope, request.receive, MAX_DOCUMENT_BYTES, counted.grow)
        if not content:
            raise InvalidRequest("The body is empty. Send the document itself as the body.")
        keyed = await asyncio.to_thread(_keyed, request, name, visibility, content)
        upload = Upload(name, kind, content, is_shared=visibility == "tenant", keyed_request=keyed)
        document, is_repeated = await documents.upload(principal, upload)
    if is_repeated:
        response.headers["Idempotent-Replayed"] = "true"
    return _response(services, document, principal.user_id)


@router.get("", summary="Documents that I may read")
async def list_documents(
    caller: DocumentReader,
    session: SessionDep,
    services: ServicesDep,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[DocumentResponse]:
    """The newest first: the caller's own, and those that others share with the tenant."""
    found = await repository.list_page(session, caller.principal, before=cursor, limit=limit + 1)
    return Page(
        data=[_response(services, document, caller.principal.user_id) for document in found[:limit]],
        next_cursor=found[limit - 1].id if len(found) > limit else None,
    )


@router.get("/{document_id}", summary="One document, and how far it is")
async def get_document(
    document_id: DocumentId, caller: DocumentReader, session: SessionDep, services: ServicesDep
) -> DocumentResponse:
    document = await repository.find(session, caller.principal, _valid_id(document_id))
    if document is None:
        raise NotFound
    return _response(services, document, caller.principal.user_id)


@router.delete("/{document_id}", status_code=204, summary="Delete a document")
async def delete_document(
    document_id: DocumentId, caller: DocumentReader, session: SessionDep, services: ServicesDep
) -> None:
    """Deletes its chunks and vectors, and the kept answers and responses that were made with its text."""
    await session.commit()
    await services.documents.delete(caller.principal, _valid_id(document_id))


def _format_of(request: Request, name: str) -> DocumentFormat:
    kind = format_of(request.headers.get("content-type", ""), name)
    if kind is None:
        known = ", ".join(one.value for one in DocumentFormat)
        raise UnsupportedMediaType(f"Documents in this format are not read. Send one of: {known}.")
    return kind


def _keyed(request: Request, name: str, visibility: str, content: bytes) -> KeyedRequest | None:
    """The Idempotency-Key, with a fingerprint of all that makes the document. Raises InvalidJson."""
    described = hashlib.sha256(repr((name, visibility)).encode()).digest() + hashlib.sha256(content).digest()
    return keyed_request_of(request.scope["headers"], PATH, described)


def _valid_id(document_id: str) -> str:
    """Raises NotFound for an id that no document can have, without a query."""
    if not _ID.fullmatch(document_id):
        raise NotFound
    return document_id


def _response(services: Services, document: Document, reader_id: int) -> DocumentResponse:
    is_ready = document.status == DocumentStatus.READY
    share = document.embedded / document.chunks if document.chunks else 0.0
    error = None
    if document.error is not None and not is_ready:
        error = DocumentProblem(code=document.error, detail=document.reason or "It is tried again later.")
    return DocumentResponse(
        document_id=document.id,
        name=services.documents.name_of(document),
        media_type=document.media_type,
        bytes=document.size,
        visibility="tenant" if document.owner_id == SHARED else "private",
        is_mine=document.user_id == reader_id,
        status=document.status,
        progress=round(share, 3),
        chunks=document.chunks,
        embedding_model=document.model,
        error=error,
        created_at=iso(document.created_ms),
        completed_at=iso(document.completed_ms),
    )
