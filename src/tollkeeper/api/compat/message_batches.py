"""Anthropic's Message Batches: /v1/messages/batches."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from tollkeeper.api.attribution import attributed
from tollkeeper.api.compat import batch_schemas
from tollkeeper.api.compat.batch_lines import (
    ANTHROPIC_PREFIX,
    MESSAGE_BATCHES,
    AnthropicLine,
    require_anthropic_id,
    require_surface,
)
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES
from tollkeeper.api.compat.files import send_file
from tollkeeper.api.dependencies import BatchOwner, Services, ServicesDep, SessionDep, count_call
from tollkeeper.api.formats import iso
from tollkeeper.api.keyed_requests import keyed_request_of
from tollkeeper.api.middleware import read_body
from tollkeeper.batches import repository
from tollkeeper.batches.kinds import LineProblem
from tollkeeper.batches.models import Batch, BatchStatus
from tollkeeper.batches.service import BatchRequest, SubmittedBatch
from tollkeeper.batches.validation import MAX_LINES
from tollkeeper.errors import BatchNotEnded, InvalidJson, InvalidRequest, NotFound
from tollkeeper.files.models import Purpose
from tollkeeper.principal import Principal
from tollkeeper.telemetry.trace_context import join_trace
from tollkeeper.worker_thread import pause, run_by_size

router = APIRouter(prefix=MESSAGE_BATCHES, tags=["ai"])

EXAMPLE_ID = batch_schemas.MESSAGE_BATCH["id"]
BatchId = Annotated[str, Path(max_length=50, examples=[EXAMPLE_ID])]
Cursor = Annotated[str | None, Query(max_length=50, examples=[EXAMPLE_ID])]
JOINED_BYTES = 256 * 1024
"""About how many bytes of lines are stored at a time."""


class CreateMessageBatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A batch of messages to be created."""

    requests: list[AnthropicLine]


_decode = msgspec.json.Decoder(CreateMessageBatchRequest).decode


@router.post(
    "",
    summary="Anthropic: create a batch of messages",
    openapi_extra=batch_schemas.CREATE_MESSAGES,
    responses=batch_schemas.message_batch_created(),
)
async def create_message_batch(
    request: Request, response: Response, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    """Each request becomes a call with a charge of its own. The same Idempotency-Key and body are one batch."""
    await session.commit()  # no transaction is open while the client sends the body
    await count_call(services, request.scope, caller.principal)
    with request.app.state.body_budget.count(caller.principal.user_id) as counted:
        body = await read_body(request.scope, request.receive, MAX_BODY_BYTES, counted.grow)
        principal = await attributed(services, caller.principal, request.scope["headers"])
        submitted = await _submit(services, principal, request, body)
    if submitted.is_repeated:
        response.headers["Idempotent-Replayed"] = "true"
    return shown_batch(services, submitted.batch, request)


async def _submit(services: Services, caller: Principal, request: Request, body: bytes) -> SubmittedBatch:
    """Store the requests as the lines of a file, and the batch."""
    require_surface(caller, MESSAGE_BATCHES)
    headers = request.scope["headers"]
    keyed = keyed_request_of(headers, MESSAGE_BATCHES, body)
    if (earlier := await services.batches.find_earlier(caller, keyed)) is not None:
        return SubmittedBatch(earlier, is_repeated=True)
    lines = await run_by_size(len(body), _read_requests, body)
    upload = await services.batches.files.begin(caller, Purpose.MESSAGE_BATCH, len(body) + len(lines))
    try:
        for part in _joined(lines):
            await upload.write(part)
        file = await upload.finish("requests.jsonl", Purpose.MESSAGE_BATCH)
        batch = BatchRequest(
            ANTHROPIC_PREFIX, MESSAGE_BATCHES, file, {}, join_trace(headers), total=len(lines), keyed_request=keyed
        )
        submitted = await services.batches.submit(caller, batch)
    except BaseException:
        await services.batches.files.delete(upload.file)
        raise
    if submitted.is_repeated:
        await services.batches.files.delete(upload.file)
    return submitted


def _read_requests(body: bytes) -> list[bytes]:
    """The requests of a body, each as a line. Raises InvalidJson, InvalidRequest."""
    try:
        requests = _decode(body).requests
    except msgspec.ValidationError:
        raise InvalidRequest("A batch has requests, each with a custom_id and params.", parameter="requests") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidJson from None
    pause()
    if not 1 <= len(requests) <= MAX_LINES:
        raise InvalidRequest(f"A batch has 1 to {MAX_LINES:,} requests.", parameter="requests")
    lines, known = [], set()
    for number, line in enumerate(requests):
        pause()
        try:
            known.add(require_anthropic_id(line))
        except LineProblem as problem:
            raise InvalidRequest(problem.message, parameter=f"requests.{number}.{problem.parameter}") from None
        lines.append(orjson.dumps({"custom_id": line.custom_id, "params": orjson.Fragment(_on_one_line(line))}))
    if len(known) < len(lines):
        raise InvalidRequest("Two requests have the same custom_id.", parameter="requests")
    return lines


def _on_one_line(line: AnthropicLine) -> bytes:
    return bytes(line.params).replace(b"\n", b" ").replace(b"\r", b" ")


def _joined(lines: list[bytes]) -> Iterator[bytes]:
    """The content of the file with these lines, in parts."""
    part = bytearray()
    for line in lines:
        part += line + b"\n"
        if len(part) >= JOINED_BYTES:
            yield bytes(part)
            part.clear()
    yield bytes(part)


@router.get("", summary="Anthropic: list batches of messages", responses=batch_schemas.message_batch_list())
async def list_message_batches(
    request: Request,
    caller: BatchOwner,
    session: SessionDep,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=1_000, examples=[20])] = 20,
    after_id: Cursor = None,
    before_id: Cursor = None,
) -> dict[str, Any]:
    """The newest first."""
    prefix = f"{ANTHROPIC_PREFIX}_"
    found = await repository.list_page(
        session, caller.principal, prefix, after=after_id, before=before_id, limit=limit + 1
    )
    has_more = len(found) > limit
    shown = found[-limit:] if before_id is not None else found[:limit]
    return batch_schemas.page([shown_batch(services, batch, request) for batch in shown], has_more=has_more)


@router.get("/{batch_id}", summary="Anthropic: one batch of messages", responses=batch_schemas.message_batch())
async def get_message_batch(
    request: Request, batch_id: BatchId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    batch = await services.batches.require(session, caller.principal, _own(batch_id))
    return shown_batch(services, batch, request)


@router.post(
    "/{batch_id}/cancel", summary="Anthropic: cancel a batch of messages", responses=batch_schemas.message_batch()
)
async def cancel_message_batch(
    request: Request, batch_id: BatchId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    """No further call of it begins. Those that run go on, and are charged."""
    await session.commit()
    return shown_batch(services, await services.batches.cancel(caller.principal, _own(batch_id)), request)


@router.delete(
    "/{batch_id}", summary="Anthropic: delete a batch of messages", responses=batch_schemas.message_batch_deleted()
)
async def delete_message_batch(
    batch_id: BatchId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> dict[str, Any]:
    """With its results. One that has not ended cannot be deleted: cancel it first."""
    await session.commit()
    await services.batches.delete(caller.principal, _own(batch_id))
    return {"id": batch_id, "type": "message_batch_deleted"}


@router.get(
    "/{batch_id}/results",
    summary="Anthropic: the results of a batch of messages",
    response_class=StreamingResponse,
    responses=batch_schemas.RESULTS,
)
async def get_message_batch_results(
    batch_id: BatchId, caller: BatchOwner, session: SessionDep, services: ServicesDep
) -> StreamingResponse:
    """One line of JSON per request, in the order in which they have ended."""
    batch = await services.batches.require(session, caller.principal, _own(batch_id))
    await session.commit()
    if batch.ended_ms is None:
        raise BatchNotEnded
    purposes = (Purpose.MESSAGE_BATCH_OUTPUT.value,)
    file = await services.batches.files.find(caller.principal, batch.output_file_id or "", purposes)
    if file is None:
        raise NotFound
    return send_file(services, file, "application/x-jsonl")


def _own(batch_id: str) -> str:
    """Raises NotFound for the id of a batch of another API."""
    if not batch_id.startswith(f"{ANTHROPIC_PREFIX}_"):
        raise NotFound
    return batch_id


def shown_batch(services: Services, batch: Batch, request: Request) -> dict[str, Any]:
    """A batch as Anthropic's API shows it: what became of its requests is counted when all have ended."""
    is_over = batch.ended_ms is not None
    states = {BatchStatus.CANCELLING.value: "canceling"}
    base_url = (services.settings.public_url or str(request.base_url)).rstrip("/")
    canceled = batch.unmade if batch.status == BatchStatus.CANCELLED else 0
    counts = {
        "succeeded": batch.completed,
        "errored": batch.failed,
        "canceled": canceled,
        "expired": batch.unmade - canceled,
    }
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if is_over else states.get(batch.status, "in_progress"),
        "request_counts": {
            "processing": 0 if is_over else batch.total,
            **{name: count if is_over else 0 for name, count in counts.items()},
        },
        "created_at": iso(batch.created_ms),
        "expires_at": iso(batch.deadline_ms),
        "ended_at": iso(batch.ended_ms),
        "cancel_initiated_at": iso(batch.cancel_ms),
        "archived_at": None,
        "results_url": f"{base_url}{MESSAGE_BATCHES}/{batch.id}/results" if is_over else None,
    }
