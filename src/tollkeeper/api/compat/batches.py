"""OpenAI's Batch API: /v1/batches."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from msgspec import Meta

from tollkeeper.api import strict_json
from tollkeeper.api.attribution import attributed
from tollkeeper.api.compat import batch_schemas
from tollkeeper.api.compat.batch_lines import OPENAI_PATHS, OPENAI_PREFIX, kind_of, require_surface
from tollkeeper.api.compat.uploads import require_lifetime
from tollkeeper.api.dependencies import BatchOwner, Services, ServicesDep, SessionDep, count_call
from tollkeeper.api.keyed_requests import keyed_request_of
from tollkeeper.api.middleware import MAX_BODY_BYTES, read_body
from tollkeeper.batches import repository
from tollkeeper.batches.models import Batch, BatchStatus
from tollkeeper.batches.service import BatchRequest, SubmittedBatch
from tollkeeper.errors import NotFound
from tollkeeper.files.models import Purpose
from tollkeeper.principal import Principal
from tollkeeper.telemetry.trace_context import join_trace

router = APIRouter(prefix="/v1/batches", tags=["ai"])

PATH = "/v1/batches"
MAX_METADATA = 16
EXAMPLE_ID = batch_schemas.BATCH["id"]
BatchId = Annotated[str, Path(max_length=50, examples=[EXAMPLE_ID])]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]


class ExpiresAfter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When the files of results are deleted: so many seconds after they are complete."""

    anchor: Literal["created_at"]
    seconds: int


class CreateBatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A batch of the calls that the lines of a file have."""

    input_file_id: str
    endpoint: Literal[OPENAI_PATHS]  # type: ignore[valid-type]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=MAX_METADATA)] | None = None
    output_expires_after: ExpiresAfter | None = None


@router.post(
    "", summary="OpenAI: create a batch", openapi_extra=batch_schemas.CREATE, responses=batch_schemas.batch_created()
)
async def create_batch(
    request: Request, response: Response, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    """Each line of the file becomes a call with its own charge. The same Idempotency-Key and body are one batch."""
    await session.commit()  # no transaction is open while the client sends the body
    await count_call(services, request.scope, caller.principal)
    body = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
    sent = strict_json.decode(CreateBatchRequest, body)
    principal = await attributed(services, caller.principal, request.scope["headers"])
    submitted = await _submit(services, principal, sent, request, body)
    if submitted.is_repeated:
        response.headers["Idempotent-Replayed"] = "true"
    return shown_batch(services, submitted.batch)


async def _submit(
    services: Services, caller: Principal, sent: CreateBatchRequest, request: Request, body: bytes
) -> SubmittedBatch:
    require_surface(caller, sent.endpoint)
    file = await services.batches.files.find(caller, sent.input_file_id, (Purpose.BATCH.value,))
    if file is None:
        raise NotFound("There is no file with this input_file_id and the purpose batch.")
    options: dict[str, Any] = {"metadata": sent.metadata, "output_expires_after_s": None}
    if sent.output_expires_after is not None:
        seconds = require_lifetime(sent.output_expires_after.seconds, "output_expires_after")
        options["output_expires_after_s"] = seconds
    headers = request.scope["headers"]
    keyed = keyed_request_of(headers, PATH, body)
    kind, trace = kind_of(sent.endpoint), join_trace(headers)
    return await services.batches.submit(
        caller, BatchRequest(OPENAI_PREFIX, kind, file, options, trace, keyed_request=keyed)
    )


@router.get("", summary="OpenAI: list batches", responses=batch_schemas.batch_list())
async def list_batches(
    caller: BatchOwner,
    session: SessionDep,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=100, examples=[20])] = 20,
    after: Annotated[str | None, Query(max_length=50, examples=[EXAMPLE_ID])] = None,
) -> dict[str, Any]:
    """The newest first."""
    found = await repository.list_page(
        session, caller.principal, f"{OPENAI_PREFIX}_", after=after, before=None, limit=limit + 1
    )
    data = [shown_batch(services, batch) for batch in found[:limit]]
    return batch_schemas.page(data, has_more=len(found) > limit) | {"object": "list"}


@router.get("/{batch_id}", summary="OpenAI: one batch", responses=batch_schemas.batch())
async def get_batch(
    batch_id: BatchId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    return shown_batch(services, await services.batches.require(session, caller.principal, _own(batch_id)))


@router.post("/{batch_id}/cancel", summary="OpenAI: cancel a batch", responses=batch_schemas.batch())
async def cancel_batch(
    batch_id: BatchId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    """No further call of it begins. Those that run go on, and are charged."""
    await session.commit()
    return shown_batch(services, await services.batches.cancel(caller.principal, _own(batch_id)))


def _own(batch_id: str) -> str:
    """Raises NotFound for the id of a batch of another API."""
    if not batch_id.startswith(f"{OPENAI_PREFIX}_"):
        raise NotFound
    return batch_id


def shown_batch(services: Services, batch: Batch) -> dict[str, Any]:
    """A batch as OpenAI's API shows it. Files of results are complete when it has ended."""
    errors, options = services.batches.contents.read_errors(batch), services.batches.contents.read_options(batch)
    ended_s = _seconds(batch.ended_ms)
    is_over = batch.ended_ms is not None
    ended_at = {
        f"{status.value}_at": ended_s if batch.status == status else None
        for status in (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)
    }
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.kind.removeprefix(PATH),
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id if is_over else None,
        "error_file_id": batch.error_file_id if is_over else None,
        "created_at": batch.created_ms // 1000,
        "in_progress_at": _seconds(batch.started_ms),
        "expires_at": batch.deadline_ms // 1000,
        "finalizing_at": ended_s if batch.status == BatchStatus.COMPLETED else None,
        "cancelling_at": _seconds(batch.cancel_ms),
        **ended_at,
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed + batch.unmade,
        },
        "metadata": options.get("metadata"),
    }


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000
