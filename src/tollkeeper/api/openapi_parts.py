"""What the operations of the OpenAPI document share: the headers of responses, problems, and the events of streams."""

from typing import Any

import msgspec

from tollkeeper.tags import TAGS_PATTERN

JsonSchema = dict[str, Any]

DONE_DATA = "[DONE]"
"""The data of the last event of a stream in OpenAI's form."""

PROBLEM: JsonSchema = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem details with a stable `code`. A refusal by a quota has the quota's figures.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "correlation_id": {"type": "string"},
        "quota": {"type": "string"},
        "limit": {"type": "integer"},
        "used": {"type": "integer"},
        "reserved": {"type": "integer"},
        "needed": {"type": "integer"},
        "error": {"type": "string", "description": "Of OAuth2 forms: the code of RFC 6749, 5.2."},
        "error_description": {"type": "string", "description": "Of OAuth2 forms: `detail` in ASCII."},
        "resets_at": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
    },
    "required": ["type", "title", "status", "detail", "code", "correlation_id"],
}

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body: one provider call, one charge, and the same response for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
}

GROUP_CHOICE = {
    "name": "X-Tollkeeper-Group",
    "in": "header",
    "required": False,
    "description": "The group that the request counts for, one of the user's. By default, the user's default group.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"},
}
TAGS_CHOICE = {
    "name": "X-Tollkeeper-Tags",
    "in": "header",
    "required": False,
    "description": "What the request counts for: tags that the tenant has declared, as name=value, with commas.",
    "schema": {"type": "string", "minLength": 3, "maxLength": 1000, "pattern": TAGS_PATTERN},
    "example": "cost-centre=42, run=abc",
}
ATTRIBUTION = [GROUP_CHOICE, TAGS_CHOICE]
"""What a request counts for besides its user."""


def _header(description: str, schema: JsonSchema, *, required: bool = False) -> dict[str, Any]:
    return {"description": description, "required": required, "schema": schema}


_ID = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
_TEXT = {"type": "string"}
_COUNT = {"type": "integer"}

HEADERS: dict[str, dict[str, Any]] = {
    "X-Correlation-ID": _header("The request's, if it is well-formed; else a new one.", _ID, required=True),
    "X-Process-Time": _header("The time until the response began, in seconds.", {"type": "number"}, required=True),
    "x-request-id": _header("The correlation id, where OpenAI's SDK reads it.", _ID, required=True),
    "request-id": _header("The correlation id, where Anthropic's SDK reads it.", _ID, required=True),
    "ETag": _header("The version of this representation, for If-Match (RFC 9110, 8.8.3).", _TEXT),
    "X-Charge-ID": _header("The charge of this call, as in `/me/charges/{charge_id}`.", _TEXT),
    "X-Quota-Name": _header("The tightest quota: the one with the least left of its limit.", _TEXT),
    "X-Quota-Limit": _header("The limit of this quota, in its unit.", _COUNT),
    "X-Quota-Remaining": _header("What remains of this quota.", _COUNT),
    "X-Quota-Reset": _header(
        "When this quota resets; absent if it never does.", {"type": "string", "format": "date-time"}
    ),
    "X-Quota-Would-Refuse": _header(
        "The quotas that only report and would have refused this call, separated by commas; absent if there are none.",
        _TEXT,
    ),
    "RateLimit-Policy": _header(
        "The tightest quota in each unit and the tightest limit on the rate of requests, as "
        "draft-ietf-httpapi-ratelimit-headers-11 describes them.",
        _TEXT,
    ),
    "RateLimit": _header("What remains of them, and the seconds until they reset.", _TEXT),
    "x-ratelimit-limit-requests": _header("The tightest limit in requests, in OpenAI's form.", _COUNT),
    "x-ratelimit-remaining-requests": _header("The requests that remain.", _COUNT),
    "x-ratelimit-reset-requests": _header("The time until it resets, as `6m0s`; absent if it never does.", _TEXT),
    "x-ratelimit-limit-tokens": _header("The limit of the tightest quota in tokens, in OpenAI's form.", _COUNT),
    "x-ratelimit-remaining-tokens": _header("What remains of this quota.", _COUNT),
    "x-ratelimit-reset-tokens": _header("The time until it resets, as `6m0s`; absent if it never does.", _TEXT),
    "anthropic-ratelimit-requests-limit": _header("The tightest limit in requests, in Anthropic's form.", _COUNT),
    "anthropic-ratelimit-requests-remaining": _header("The requests that remain.", _COUNT),
    "anthropic-ratelimit-requests-reset": _header(
        "When it resets; absent if it never does.", {"type": "string", "format": "date-time"}
    ),
    "anthropic-ratelimit-tokens-limit": _header(
        "The limit of the tightest quota in tokens, in Anthropic's form.", _COUNT
    ),
    "anthropic-ratelimit-tokens-remaining": _header("What remains of this quota.", _COUNT),
    "anthropic-ratelimit-tokens-reset": _header(
        "When it resets; absent if it never does.", {"type": "string", "format": "date-time"}
    ),
    "X-Tollkeeper-Dropped": _header(
        "What of the request was not sent to the provider, separated by commas; absent if all of it was.", _TEXT
    ),
    "X-Fallback-For": _header(
        "The model that was asked for, if a quota had no room for it, so that another one answers; absent otherwise.",
        _TEXT,
    ),
    "X-Cache": _header(
        "Whether the answer is that of an earlier call; absent where the response cache is off.",
        {"type": "string", "enum": ["hit", "miss"]},
    ),
    "Age": _header("How old an answer from the cache is, in seconds.", _COUNT),
    "Idempotent-Replayed": _header("The response is that of an earlier call with the same key.", {"const": "true"}),
    "WWW-Authenticate": _header("How to authenticate.", {"const": "Bearer"}, required=True),
    "Retry-After": _header("Wait so many seconds before the next attempt.", _COUNT),
    "X-Error-Code": _header("This server's own stable code of the error.", _TEXT, required=True),
    "x-should-retry": _header("`false`: the same request would fail again, or would pay again.", {"const": "false"}),
}
EVERY_RESPONSE = ("X-Correlation-ID", "X-Process-Time")
SDK_RESPONSE = ("x-request-id", "request-id")
CHARGE = ("X-Charge-ID", "X-Quota-Name", "X-Quota-Limit", "X-Quota-Remaining", "X-Quota-Reset", "X-Quota-Would-Refuse")
SDK_ERROR = ("X-Error-Code", "x-should-retry")
ERROR_HEADERS = {
    "401": ("WWW-Authenticate",),
    "409": ("Retry-After",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}


def headers_ref(*names: str) -> dict[str, Any]:
    """The `headers` of a response, as references to the components."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def schema_ref(name: str) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{name}"}


def link(operation_id: str, **parameters: str) -> dict[str, Any]:
    """A link to an operation whose parameters come from this one, as runtime expressions of OpenAPI."""
    return {"operationId": operation_id, "parameters": parameters}


def event_schema(data: JsonSchema | str) -> JsonSchema:
    """The schema of a server-sent event. `data` is the schema of its JSON, or the only text that it can be.

    Version 3.1 of OpenAPI has no keyword for the items of a stream, so this is the schema of the media type itself.
    """
    if isinstance(data, str):
        content: JsonSchema = {"const": data}
    else:
        content = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": content}, "required": ["data"]}


def json_body(kind: type[msgspec.Struct], example: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """The request body of an endpoint that reads it itself, so that the framework does not know it.

    The schemas that it refers to are its `$defs`, which `openapi_portable` moves to where the references lead.
    """
    _, schemas = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    schema = schemas.pop(kind.__name__)
    content = {"application/json": {"schema": schema | ({"$defs": schemas} if schemas else {}), "example": example}}
    return {"requestBody": {"required": required, "content": content}}
