"""The caller's background jobs: submit, list, read and cancel them."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.api import strict_json
from tollkeeper.api.admin.pages import Limit, Page
from tollkeeper.api.attribution import attributed, name_group
from tollkeeper.api.dependencies import JobOwner, Services, ServicesDep, SessionDep, count_call
from tollkeeper.api.formats import Moment, fallback_header, iso, would_refuse_header
from tollkeeper.api.keyed_requests import keyed_request_of
from tollkeeper.api.middleware import MAX_BODY_BYTES, read_body
from tollkeeper.api.native.chat import CHAT
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.job_kinds import NOT_IN_JOBS, body_to_store, open_request, read_request
from tollkeeper.api.native.schemas import NativeChatRequest, QueryRequest
from tollkeeper.api.openapi_parts import ATTRIBUTION, IDEMPOTENCY_KEY, link
from tollkeeper.errors import NotFound
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.jobs import repository
from tollkeeper.jobs.models import Job
from tollkeeper.jobs.service import JobRequest
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.jobs import JobStatus
from tollkeeper.retrieval.search import Passage
from tollkeeper.telemetry.trace_context import join_trace
from tollkeeper.worker_thread import run_by_size

router = APIRouter(prefix="/ai/jobs", tags=["ai"])

PATH = "/ai/jobs"
SURFACE = "jobs"
_ID = re.compile(r"job_[0-9a-f]{32}")
Status = Literal["pending", "processing", "completed", "failed", "cancelled"]
JobId = Annotated[str, Path(max_length=40, examples=["job_0123456789abcdef0123456789abcdef"])]
Cursor = Annotated[
    str | None, Query(max_length=40, pattern=f"^{_ID.pattern}$", examples=["job_0123456789abcdef0123456789abcdef"])
]


class SubmitJobRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A call to be made in the background. Of a user's tenant, jobs with a higher `priority` start first."""

    type: Literal["query", "chat"]
    request: dict[str, Any]
    priority: Annotated[int, Meta(ge=0, le=9)] = 0


class JobSummary(BaseModel):
    """A job without its result. It is not started after `deadline`."""

    job_id: str
    type: str
    status: Status
    priority: int
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    deadline: Moment


class JobResponse(JobSummary):
    """A job. A completed one has the `result`: the response of the endpoint; a failed one the `error`: a problem."""

    result: dict[str, Any] | None
    error: dict[str, Any] | None


EXAMPLE = {"type": "query", "request": {"prompt": "Why is the sky blue?", "max_tokens": 200}}


def _documented_body() -> dict[str, Any]:
    """The request body: that of SubmitJobRequest, with the fields of `request` that its type has in a job."""
    kinds = [SubmitJobRequest, QueryRequest, NativeChatRequest]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    body, options = found[SubmitJobRequest.__name__], []
    for name, kind, rules in (("query", QueryRequest, {}), ("chat", NativeChatRequest, CHAT.request_rules)):
        request = found[kind.__name__] | rules
        fields = {field: schema for field, schema in request["properties"].items() if field not in NOT_IN_JOBS}
        properties = body["properties"] | {"type": {"enum": [name]}, "request": request | {"properties": fields}}
        options.append(body | {"title": f"SubmitJobRequest of type {name}", "properties": properties})
    schema = {"title": body["title"], "oneOf": options}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": EXAMPLE}}}


SUBMITTED: dict[int | str, dict[str, Any]] = {
    202: {
        "links": {
            "Read": link("get_my_job", job_id="$response.body#/job_id"),
            "Cancel": link("cancel_my_job", job_id="$response.body#/job_id"),
        }
    },
    404: {"description": "There is no such model"},
    409: {"description": "A request with this Idempotency-Key is being handled"},
    422: {"description": "The request does not have the fields or types of its type, or the key had another request"},
    429: {"description": "A quota or a rate limit refuses the job; the body names it"},
}


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": _documented_body(), "parameters": [IDEMPOTENCY_KEY, *ATTRIBUTION]},
    responses=SUBMITTED,
    summary="Submit a job",
)
async def submit_job(
    request: Request, response: Response, caller: JobOwner, session: SessionDep, services: ServicesDep
) -> JobResponse:
    """Reserves on the quotas, and calls the model later. The same Idempotency-Key and body return the same job."""
    await session.commit()  # no transaction is open while the client sends the body
    headers = request.scope["headers"]
    principal = await attributed(services, caller.principal, headers)
    await count_call(services, request.scope, principal)
    with services.call_events.record(principal, SURFACE, join_trace(headers)) as record:
        body = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        sent = await run_by_size(len(body), strict_json.decode, SubmitJobRequest, body)
        inner = msgspec.json.encode(sent.request)
        kind = f"/ai/{sent.type}"
        keyed = keyed_request_of(headers, PATH, body)
        exchange = await _open_request(services, record, kind, inner, keyed)
        stored = body_to_store(inner, exchange)
        submitted = await services.jobs.submit(record, JobRequest(kind, stored, exchange, sent.priority, keyed))
        await _note_passages(services, record.caller, submitted.job, exchange.call.passages)
    if submitted.is_repeated:
        response.headers["Idempotent-Replayed"] = "true"
    response.headers.update(fallback_header(submitted.fallback_for) | would_refuse_header(submitted.would_refuse))
    return _response(services, submitted.job)


async def _open_request(
    services: Services, record: CallRecord, kind: str, body: bytes, keyed: KeyedRequest | None
) -> NativeExchange:
    """The exchange of a job's request. The record's caller gets the group that its body names."""
    parsed = read_request(record.caller, kind, body)
    parsed.keyed_request = keyed
    record.caller = name_group(record.caller, parsed.request.group)
    return await open_request(services, record.caller, kind, parsed)


async def _note_passages(services: Services, caller: Principal, job: Job, passages: Sequence[Passage] | None) -> None:
    """Raises NotFound if a document was deleted while the job was submitted: the job is cancelled then."""
    if passages and not await services.retriever.note_job(caller, passages, job.id):
        await services.jobs.cancel(caller, job.id)
        raise NotFound("A document that this would have been answered from was deleted at this moment. Try again.")


@router.get("", summary="My jobs")
async def list_my_jobs(
    caller: JobOwner,
    session: SessionDep,
    services: ServicesDep,
    status: Annotated[Status | None, Query(examples=["completed"])] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[JobSummary]:
    """The newest first."""
    wanted = JobStatus(status) if status is not None else None
    found = await repository.list_page(session, caller.principal, status=wanted, before=cursor, limit=limit + 1)
    more = len(found) > limit
    return Page(
        data=[JobSummary(**_summary(job)) for job in found[:limit]], next_cursor=found[limit - 1].id if more else None
    )


@router.get("/{job_id}", summary="One of my jobs")
async def get_my_job(job_id: JobId, caller: JobOwner, session: SessionDep, services: ServicesDep) -> JobResponse:
    job = await repository.find(session, caller.principal, _valid_id(job_id))
    if job is None:
        raise NotFound
    return _response(services, job)


@router.delete("/{job_id}", summary="Cancel or delete one of my jobs")
async def cancel_my_job(job_id: JobId, caller: JobOwner, session: SessionDep, services: ServicesDep) -> JobResponse:
    """Cancels a job that has not ended, and deletes one that has. A pending one costs nothing; one that is processing
    ends soon, and costs what a stream would whose client disconnects.
    """
    await session.commit()
    return _response(services, await services.jobs.cancel(caller.principal, _valid_id(job_id)))


def _valid_id(job_id: str) -> str:
    """Raises NotFound for an id that no job can have, without a query."""
    if not _ID.fullmatch(job_id):
        raise NotFound
    return job_id


def _response(services: Services, job: Job) -> JobResponse:
    outcome = services.jobs.contents.read_outcome(job)
    document = orjson.loads(outcome) if outcome is not None else None
    is_completed = job.status == JobStatus.COMPLETED
    result, error = (document, None) if is_completed else (None, document)
    return JobResponse(**_summary(job), result=result, error=error)


def _summary(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "type": job.kind.rpartition("/")[2],
        "status": job.status,
        "priority": job.priority,
        "created_at": iso(job.created_ms),
        "started_at": iso(job.started_ms),
        "completed_at": iso(job.completed_ms),
        "deadline": iso(job.deadline_ms),
    }
