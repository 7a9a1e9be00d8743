"""What the OpenAPI document says about files and batches, in OpenAI's and in Anthropic's wire format."""

from collections.abc import Sequence
from typing import Any

from tollkeeper.api.openapi_parts import ATTRIBUTION, IDEMPOTENCY_KEY, JsonSchema, schema_ref
from tollkeeper.dialects.request_schema import STRING, list_of, nullable, object_of, one_of_values

JSON = "application/json"
_COUNT: JsonSchema = {"type": "integer", "minimum": 0}
_TIME = nullable(_COUNT)
_LINE_ID: JsonSchema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
_EXPIRES_AFTER = object_of({"anchor": one_of_values("created_at"), "seconds": {"type": "integer", "minimum": 3_600}})

FILE: dict[str, Any] = {
    "id": "file-0199f2d4c1a07f3e8b5d2c6a9e4f1b70",
    "object": "file",
    "bytes": 1_834,
    "created_at": 1_795_651_200,
    "expires_at": 1_798_243_200,
    "filename": "questions.jsonl",
    "purpose": "batch",
    "status": "processed",
    "status_details": None,
}
BATCH: dict[str, Any] = {
    "id": "batch_0199f2d4c1a07f3e8b5d2c6a9e4f1b71",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": FILE["id"],
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": "file-0199f2d4c1a07f3e8b5d2c6a9e4f1b72",
    "error_file_id": None,
    "created_at": 1_795_651_200,
    "in_progress_at": 1_795_651_201,
    "expires_at": 1_795_737_600,
    "finalizing_at": 1_795_651_260,
    "cancelling_at": None,
    "completed_at": 1_795_651_260,
    "failed_at": None,
    "expired_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 12, "completed": 12, "failed": 0},
    "metadata": None,
}
MESSAGE_BATCH: dict[str, Any] = {
    "id": "msgbatch_0199f2d4c1a07f3e8b5d2c6a9e4f1b73",
    "type": "message_batch",
    "processing_status": "in_progress",
    "request_counts": {"processing": 12, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
    "created_at": "2026-11-30T00:00:00.000Z",
    "expires_at": "2026-12-01T00:00:00.000Z",
    "ended_at": None,
    "cancel_initiated_at": None,
    "archived_at": None,
    "results_url": None,
}
_FILE = object_of(
    {
        "id": STRING,
        "object": one_of_values("file"),
        "bytes": _COUNT,
        "created_at": _COUNT,
        "expires_at": _COUNT,
        "filename": STRING,
        "purpose": one_of_values("batch", "batch_output"),
        "status": one_of_values("processed"),
        "status_details": {"type": "null"},
    }
)
_BATCH = object_of(
    {
        "id": STRING,
        "object": one_of_values("batch"),
        "endpoint": STRING,
        "errors": nullable({"type": "object"}),
        "input_file_id": STRING,
        "completion_window": one_of_values("24h"),
        "status": one_of_values(
            "validating", "in_progress", "cancelling", "completed", "failed", "expired", "cancelled"
        ),
        "output_file_id": nullable(STRING),
        "error_file_id": nullable(STRING),
        "created_at": _COUNT,
        "in_progress_at": _TIME,
        "expires_at": _COUNT,
        "finalizing_at": _TIME,
        "cancelling_at": _TIME,
        "completed_at": _TIME,
        "failed_at": _TIME,
        "expired_at": _TIME,
        "cancelled_at": _TIME,
        "request_counts": object_of({"total": _COUNT, "completed": _COUNT, "failed": _COUNT}),
        "metadata": nullable({"type": "object", "additionalProperties": STRING}),
    }
)
_MESSAGE_BATCH = object_of(
    {
        "id": STRING,
        "type": one_of_values("message_batch"),
        "processing_status": one_of_values("in_progress", "canceling", "ended"),
        "request_counts": object_of(dict.fromkeys(MESSAGE_BATCH["request_counts"], _COUNT)),
        **dict.fromkeys(("created_at", "expires_at"), STRING),
        **dict.fromkeys(("ended_at", "cancel_initiated_at", "archived_at", "results_url"), nullable(STRING)),
    }
)

Responses = dict[int | str, dict[str, Any]]


def _answer(schema: JsonSchema, example: Any, **errors: str) -> Responses:
    found: Responses = {200: {"content": {JSON: {"schema": schema, "example": example}}}}
    return found | {int(status.removeprefix("e")): {"description": text} for status, text in errors.items()}


def _list(schema: JsonSchema, example: dict[str, Any], **constants: str) -> Responses:
    ends = {"first_id": nullable(STRING), "last_id": nullable(STRING)}
    fields = {"data": list_of(schema), "has_more": {"type": "boolean"}, **ends}
    fields |= {name: one_of_values(value) for name, value in constants.items()}
    return _answer(
        object_of(fields),
        page([example], has_more=False) | constants,
        e400="A parameter of the query is not valid",
        e404="It does not exist in this wire format",
    )


def page(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list, as both APIs send it; OpenAI's also have an `object`."""
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"data": data, "has_more": has_more, **ends}


def _body(name: str, example: Any) -> dict[str, Any]:
    content = {JSON: {"schema": schema_ref(name), "examples": {"simple": {"value": example}}}}
    return {"requestBody": {"required": True, "content": content}, "parameters": [IDEMPOTENCY_KEY, *ATTRIBUTION]}


_UPLOAD_REQUEST = object_of({"purpose": one_of_values("batch"), "file": {"type": "string", "format": "binary"}})
_UPLOAD_REQUEST["properties"] |= {
    "expires_after[anchor]": one_of_values("created_at"),
    "expires_after[seconds]": {"type": "integer", "minimum": 3_600, "maximum": 2_592_000},
}
_CREATE_REQUEST = object_of(
    {
        "input_file_id": STRING,
        "endpoint": one_of_values("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings"),
        "completion_window": one_of_values("24h"),
    },
    {
        "metadata": {"type": "object", "additionalProperties": STRING, "maxProperties": 16},
        "output_expires_after": _EXPIRES_AFTER,
    },
) | {"additionalProperties": False}
_CREATE_MESSAGES_REQUEST = object_of(
    {
        "requests": list_of(
            object_of({"custom_id": _LINE_ID, "params": {"type": "object"}}) | {"additionalProperties": False}, least=1
        )
    }
) | {"additionalProperties": False}
SCHEMAS: dict[str, JsonSchema] = {
    name: {"title": name} | schema
    for name, schema in (
        ("File", _FILE),
        ("Batch", _BATCH),
        ("MessageBatch", _MESSAGE_BATCH),
        ("UploadFileRequest", _UPLOAD_REQUEST),
        ("CreateBatchRequest", _CREATE_REQUEST),
        ("CreateMessageBatchRequest", _CREATE_MESSAGES_REQUEST),
    )
}
"""By the names that the document's operations refer to."""

UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": schema_ref("UploadFileRequest"),
                "example": {
                    "purpose": "batch",
                    "file": '{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "Hello"}}',
                },
            }
        },
    }
}
CREATE = _body(
    "CreateBatchRequest",
    {"input_file_id": FILE["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"},
)
CREATE_MESSAGES = _body(
    "CreateMessageBatchRequest",
    {
        "requests": [
            {
                "custom_id": "question-1",
                "params": {
                    "model": "claude-haiku-4-5",
                    "max_tokens": 200,
                    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
                },
            }
        ]
    },
)
FILE_CONTENT: Responses = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
RESULTS: Responses = {
    200: {"content": {"application/x-jsonl": {"schema": {"type": "string"}}}},
    409: {"description": "The batch has not ended"},
}
_UNSUPPORTED = "The body is in a format that this endpoint does not read"
_REUSED = "The Idempotency-Key was used with another request"


def file_created() -> Responses:
    return _answer(schema_ref("File"), FILE, e404="It does not exist in this wire format", e415=_UNSUPPORTED)


def one_file() -> Responses:
    return _answer(schema_ref("File"), FILE)


def file_list() -> Responses:
    return _list(schema_ref("File"), FILE, object="list")


def file_deleted() -> Responses:
    deleted = {"id": FILE["id"], "object": "file", "deleted": True}
    schema = object_of({"id": STRING, "object": one_of_values("file"), "deleted": one_of_values(True)})
    return _answer(schema, deleted, e409="A batch that has not ended reads the file")


def batch() -> Responses:
    return _answer(schema_ref("Batch"), BATCH)


def batch_created() -> Responses:
    return _answer(schema_ref("Batch"), BATCH, e404="There is no such file", e415=_UNSUPPORTED, e422=_REUSED)


def batch_list() -> Responses:
    return _list(schema_ref("Batch"), BATCH, object="list")


def message_batch() -> Responses:
    return _answer(schema_ref("MessageBatch"), MESSAGE_BATCH)


def message_batch_created() -> Responses:
    return _answer(
        schema_ref("MessageBatch"),
        MESSAGE_BATCH,
        e415=_UNSUPPORTED,
        e422=_REUSED,
    )


def message_batch_list() -> Responses:
    return _list(schema_ref("MessageBatch"), MESSAGE_BATCH)


def message_batch_deleted() -> Responses:
    deleted = {"id": MESSAGE_BATCH["id"], "type": "message_batch_deleted"}
    schema = object_of({"id": STRING, "type": one_of_values("message_batch_deleted")})
    return _answer(schema, deleted, e409="The batch has not ended")
