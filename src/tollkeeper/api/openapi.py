"""Completes the OpenAPI document: the metered endpoints, from their declarations, and the errors of other routes.

No operation lists 405: a client that reads the document sends no other method. The document's description states it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tollkeeper.api import openapi_parts as parts
from tollkeeper.api.compat.batch_schemas import SCHEMAS as BATCH_SCHEMAS
from tollkeeper.api.compat.schemas import MODEL_SCHEMAS
from tollkeeper.api.errors import MEDIA_TYPE
from tollkeeper.api.metered import JSON, MeteredEndpoint
from tollkeeper.api.openapi_parts import ATTRIBUTION, IDEMPOTENCY_KEY, JsonSchema, schema_ref
from tollkeeper.api.openapi_portable import portable
from tollkeeper.api.sdk_paths import SDK_PREFIX

ERRORS = {
    "400": "The body is not valid JSON, a parameter is not supported, or the provider rejects the request",
    "401": "There is no valid access token",
    "403": "The API key does not have the scope for this endpoint",
    "404": "There is no such model",
    "408": "The body did not arrive in time",
    "409": "A call with this Idempotency-Key is in flight or was interrupted",
    "413": "The body is too large",
    "422": "The request does not have the fields or types of this endpoint, or its Idempotency-Key had another request",
    "429": "A quota or a rate limit refuses the call; the body names it",
    "502": "The provider failed",
    "503": "The ledger is unavailable, or the provider limits this server's rate",
    "504": "The provider did not answer in time",
}
SDK_ERRORS = {
    "400": "The body is not a valid request, a parameter is not supported, or the provider rejects the request",
    "422": "The Idempotency-Key was used with another request",
}
"""Where the errors of `/v1/*` differ: there, invalid input is 400."""
FREE_ERRORS = {
    "400": "The body is not valid JSON, or a parameter is not supported",
    "422": "The request does not have the fields or types of this endpoint",
    "429": "A rate limit refuses the call; the body names it",
    "503": "The database is unavailable",
}
"""Where the errors of endpoints that call no model differ. They ignore an Idempotency-Key."""
CALL_ERRORS = ("409", "502", "504")
"""Errors that only a call of a model can cause."""
CHARGED_ERRORS = ("400", "429", "502", "503", "504")
"""Errors of a call that has reached the quotas: the headers name the charge or the quota."""

RATE_ERRORS = {"429": "Too many requests"}
BODY_ERRORS = {
    "400": "The body is not valid JSON",
    "408": ERRORS["408"],
    "413": ERRORS["413"],
    "422": FREE_ERRORS["422"],
} | RATE_ERRORS
ACCESS_ERRORS = {status: ERRORS[status] for status in ("401", "403")} | RATE_ERRORS
DATABASE_ERRORS = {"503": "The database is unavailable"}
LOOKUP_ERRORS = {"404": "It does not exist, or the caller may not see it"}
UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""FastAPI's schemas of validation errors. No route returns them."""
METHODS_NOTE = "A path that does not have the requested method answers 405, and lists its methods in `Allow`."
CHARGE_LINK = {
    "Charge": parts.link("get_my_charge", charge_id="$response.header.X-Charge-ID"),
}
SESSION_LINKS = {
    "Conversation": parts.link("get_my_conversation", session_id="$request.body#/session_id"),
    "Forget": parts.link("forget_my_conversation", session_id="$request.body#/session_id"),
}
CACHE_CHOICE = {
    "name": "X-Tollkeeper-Cache",
    "in": "header",
    "required": False,
    "description": "Whether an earlier answer to the same question may be returned. By default, the tenant decides.",
    "schema": {"type": "string", "enum": ["true", "false"]},
}

ADMIN_PREFIX = "/admin/"
CONDITIONAL_PATHS = (
    "/admin/tenants/{tenant_id}",
    "/admin/users/{user_id}",
    "/admin/keys/{key_id}",
    "/admin/identity-provider",
    "/admin/moderation",
)
REPEATED_AT_ONCE = "The same Idempotency-Key is in use at this moment, or the state of the object forbids this"
ADMIN_IDEMPOTENCY_KEY = IDEMPOTENCY_KEY | {
    "description": "The same key, path and body: the act is done once, and the response is the same for 24 hours."
}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "Change the object only if its present ETag is one of these.",
    "schema": {"type": "string", "maxLength": 1_000},
}


def complete_document(document: dict[str, Any], endpoints: Sequence[MeteredEndpoint]) -> dict[str, Any]:
    """Add each metered endpoint as an operation, and to the other operations the errors that they return."""
    document["info"]["description"] = f"{document['info']['description']} {METHODS_NOTE}"
    components = document.setdefault("components", {})
    components["headers"] = parts.HEADERS
    schemas = components.setdefault("schemas", {})
    for name in UNUSED_SCHEMAS:
        schemas.pop(name, None)
    for name, schema in _components(endpoints).items():
        assert schemas.setdefault(name, schema) == schema, f"two schemas have the name {name}"
    errors_of_sdks = _sdk_error_schemas(endpoints)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(path, operation, errors_of_sdks)
            if path.startswith(ADMIN_PREFIX):
                _complete_admin_operation(path, method, operation)
    for endpoint in endpoints:
        document["paths"][endpoint.path] = {"post": _operation(endpoint)}
    return portable(document)


def _components(endpoints: Sequence[MeteredEndpoint]) -> dict[str, JsonSchema]:
    """The schemas that the metered endpoints use, by name."""
    kinds = [
        kind
        for endpoint in endpoints
        for kind in (endpoint.request_type, endpoint.response_type, endpoint.error_type, *endpoint.events)
    ]
    types = [kind for kind in kinds if isinstance(kind, type)]
    _, found = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = dict(found)
    schemas |= {kind["title"]: kind for kind in kinds if isinstance(kind, dict)}
    for endpoint in endpoints:
        schemas |= endpoint.schemas
        name = _name(endpoint.request_type)
        schemas[name] = schemas[name] | endpoint.request_rules
    return schemas | MODEL_SCHEMAS | BATCH_SCHEMAS


def _sdk_error_schemas(endpoints: Sequence[MeteredEndpoint]) -> JsonSchema:
    """The error of a route that both SDKs use, in the format of one or the other."""
    names = {kind.error_type["title"]: None for kind in endpoints if kind.path.startswith(SDK_PREFIX)}
    return {"anyOf": [schema_ref(name) for name in names]}


def _complete_operation(path: str, operation: dict[str, Any], errors_of_sdks: JsonSchema) -> None:
    """Add to a route the headers of its responses, and the errors that follow from its security, body and path."""
    is_sdk = path.startswith(SDK_PREFIX)
    responses = operation["responses"]
    if not any(parameter["in"] == "query" for parameter in operation.get("parameters", ())):
        responses.pop("422", None)
    errors = {
        status: response["description"]
        for status, response in responses.items()
        if status >= "400" and (status == "422" or "content" not in response)
    }
    if "422" in errors:
        errors["422"] = "A parameter of the query is not valid"
    if "requestBody" in operation:
        errors |= BODY_ERRORS | DATABASE_ERRORS
    if {} not in operation.get("security", [{}]):  # a login is not optional
        errors |= ACCESS_ERRORS | DATABASE_ERRORS
    if path.startswith(ADMIN_PREFIX):
        errors["403"] = "The caller's role does not allow this, or it needs a fresh login or a second factor"
    if "{" in path:
        errors |= LOOKUP_ERRORS
    for response in responses.values():
        response["headers"] = parts.headers_ref(*_common_headers(is_sdk=is_sdk))
    error_schema = errors_of_sdks if is_sdk else schema_ref("Problem")
    responses |= _error_responses(errors, error_schema, is_sdk=is_sdk)


def _complete_admin_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add to a route of the admin API what all of them have: another tenant's ids, repeated requests, conditions."""
    errors, parameters = dict(LOOKUP_ERRORS), []
    if method == "post" and "requestBody" in operation:
        errors |= {"409": REPEATED_AT_ONCE}
        parameters.append(ADMIN_IDEMPOTENCY_KEY)
    if method in ("patch", "put") and path in CONDITIONAL_PATHS:
        errors |= {"412": "If-Match does not have the present ETag"}
        parameters.append(IF_MATCH)
    if method in ("get", "patch", "put") and path in CONDITIONAL_PATHS:
        operation["responses"]["200"]["headers"] |= parts.headers_ref("ETag")
    if parameters:
        operation["parameters"] = [*operation.get("parameters", ()), *parameters]
    present = operation["responses"]
    missing = {status: text for status, text in errors.items() if status not in present}
    present |= _error_responses(missing, schema_ref("Problem"), is_sdk=False)


def _common_headers(*, is_sdk: bool) -> Iterator[str]:
    yield from parts.EVERY_RESPONSE
    if is_sdk:
        yield from parts.SDK_RESPONSE


def _error_responses(
    errors: dict[str, str], schema: JsonSchema, *, is_sdk: bool, charge_headers: Sequence[str] = ()
) -> dict[str, Any]:
    common = (*_common_headers(is_sdk=is_sdk), *(parts.SDK_ERROR if is_sdk else ()))
    return {
        status: {
            "description": description,
            "headers": parts.headers_ref(
                *common, *parts.ERROR_HEADERS.get(status, ()), *(charge_headers if status in CHARGED_ERRORS else ())
            ),
            "content": {JSON if is_sdk else MEDIA_TYPE: {"schema": schema}},
        }
        for status, description in errors.items()
    }


def _operation(endpoint: MeteredEndpoint) -> dict[str, Any]:
    is_sdk = endpoint.path.startswith(SDK_PREFIX)
    errors = dict(ERRORS) | (SDK_ERRORS if is_sdk else {})
    charge_headers: tuple[str, ...] = parts.CHARGE
    if not endpoint.calls_model:
        errors = {status: text for status, text in (errors | FREE_ERRORS).items() if status not in CALL_ERRORS}
        errors["400"] = SDK_ERRORS["400"] if is_sdk else errors["400"]
        charge_headers = ()
        if is_sdk:
            del errors["422"]
    charge_headers += endpoint.limit_headers.names
    content = {JSON: {"schema": _schema(endpoint.response_type)}} if endpoint.response_type is not None else {}
    if endpoint.response_example is not None:
        content[JSON]["example"] = endpoint.response_example
    if endpoint.events:
        content["text/event-stream"] = {"schema": {"anyOf": [_event(data) for data in endpoint.events]}}
    replayed = (
        ("X-Tollkeeper-Dropped", "X-Fallback-For", "X-Cache", "Age", "Idempotent-Replayed")
        if endpoint.calls_model
        else ()
    )
    answer = {
        "description": "The answer",
        "headers": parts.headers_ref(*_common_headers(is_sdk=is_sdk), *charge_headers, *replayed),
        "content": content,
    }
    if endpoint.calls_model:
        answer["links"] = CHARGE_LINK if is_sdk else CHARGE_LINK | SESSION_LINKS
    examples = {name: {"value": example} for name, example in endpoint.examples.items()}
    return {
        "tags": ["ai"],
        "summary": endpoint.summary,
        "description": endpoint.description,
        "operationId": endpoint.path.strip("/").replace("/", "_"),
        "security": [{"OAuth2PasswordBearer": []}, {"APIKey": []}],
        "parameters": _parameters(calls_model=endpoint.calls_model),
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _schema(endpoint.request_type), "examples": examples}},
        },
        "responses": {"200": answer}
        | _error_responses(errors, _schema(endpoint.error_type), is_sdk=is_sdk, charge_headers=charge_headers),
    }


def _schema(kind: Any) -> JsonSchema:
    return schema_ref(_name(kind))


def _name(kind: Any) -> str:
    name: str = kind["title"] if isinstance(kind, dict) else kind.__name__
    return name


def _event(data: Any) -> JsonSchema:
    return parts.event_schema(data if isinstance(data, str) else _schema(data))


def _parameters(*, calls_model: bool) -> list[dict[str, Any]]:
    return [IDEMPOTENCY_KEY, CACHE_CHOICE, *ATTRIBUTION] if calls_model else ATTRIBUTION
