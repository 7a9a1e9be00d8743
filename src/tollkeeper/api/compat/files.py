"""OpenAI's Files API: /v1/files, for the files of batches. Anthropic's API of this path is not provided."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import StreamingResponse

from tollkeeper.api.compat import batch_schemas
from tollkeeper.api.compat.uploads import receive_file, shown_file
from tollkeeper.api.dependencies import BatchOwner, Services, ServicesDep, SessionDep, count_call
from tollkeeper.errors import NotFound
from tollkeeper.files import repository
from tollkeeper.files.models import Purpose, StoredFile
from tollkeeper.principal import Principal

SHOWN = (Purpose.BATCH.value, Purpose.BATCH_OUTPUT.value)
MAX_PAGE = 1_000
EXAMPLE_ID = batch_schemas.FILE["id"]
FileId = Annotated[str, Path(max_length=50, examples=[EXAMPLE_ID])]


def refuse_anthropic(request: Request) -> None:
    """Raises NotFound for a client of Anthropic's API, whose files are others."""
    if "anthropic-version" in request.headers:
        raise NotFound("This server has no Files API of Anthropic's. Put the contents into the request.")


router = APIRouter(prefix="/v1/files", tags=["ai"], dependencies=[Depends(refuse_anthropic)])


@router.post(
    "", summary="OpenAI: upload a file", openapi_extra=batch_schemas.UPLOAD, responses=batch_schemas.file_created()
)
async def create_file(
    request: Request, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    """The input of a batch. It is stored encrypted while it is received, and counts against the tenant's space."""
    await session.commit()  # no transaction is open while the client sends the file
    await count_call(services, request.scope, caller.principal)
    return shown_file(services, await receive_file(services, caller.principal, request))


@router.get("", summary="OpenAI: list files", responses=batch_schemas.file_list())
async def list_files(
    caller: BatchOwner,
    session: SessionDep,
    services: ServicesDep,
    purpose: Annotated[Literal["batch", "batch_output"] | None, Query(examples=["batch"])] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, examples=[20])] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query(examples=["desc"])] = "desc",
    after: Annotated[str | None, Query(max_length=50, examples=[EXAMPLE_ID])] = None,
) -> dict[str, Any]:
    """The newest first, at most 1,000 on a page."""
    purposes = SHOWN if purpose is None else (purpose,)
    size = min(limit, MAX_PAGE)
    found = await repository.list_page(
        session, caller.principal, purposes, after=after, newest_first=order == "desc", limit=size + 1
    )
    data = [shown_file(services, file) for file in found[:size]]
    return batch_schemas.page(data, has_more=len(found) > size) | {"object": "list"}


@router.get("/{file_id}", summary="OpenAI: one file", responses=batch_schemas.one_file())
async def get_file(file_id: FileId, caller: BatchOwner, session: SessionDep, services: ServicesDep) -> dict[str, Any]:
    await session.commit()
    return shown_file(services, await _require(services, caller.principal, file_id))


@router.get(
    "/{file_id}/content",
    summary="OpenAI: the content of a file",
    response_class=StreamingResponse,
    responses=batch_schemas.FILE_CONTENT,
)
async def get_file_content(
    file_id: FileId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> StreamingResponse:
    """Sent chunk by chunk."""
    await session.commit()
    return send_file(services, await _require(services, caller.principal, file_id), "application/octet-stream")


@router.delete("/{file_id}", summary="OpenAI: delete a file", responses=batch_schemas.file_deleted())
async def delete_file(
    file_id: FileId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    """At once. The input of a batch that has not ended cannot be deleted."""
    await session.commit()
    file = await _require(services, caller.principal, file_id)
    await services.batches.delete_file(file)
    return {"id": file.id, "object": "file", "deleted": True}


def send_file(services: Services, file: StoredFile, media_type: str) -> StreamingResponse:
    """The response with the content of a file. A client that reads slowly keeps no transaction open."""
    headers = {"Content-Length": str(file.bytes)}
    return StreamingResponse(services.batches.files.read(file), media_type=media_type, headers=headers)


async def _require(services: Services, caller: Principal, file_id: str) -> StoredFile:
    file = await services.batches.files.find(caller, file_id, SHOWN)
    if file is None:
        raise NotFound
    return file
