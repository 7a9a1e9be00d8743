"""Hooks of schemathesis: which refusals of requests that are valid by their JSON Schema are not findings.

Each is a rule that JSON Schema cannot express. A refusal counts as one of them only by its own code or sentence.
"""

import json
import re
from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

from tollkeeper.api.compat.openai import MAX_CHOICES
from tollkeeper.documents.parsing.formats import DocumentFormat
from tollkeeper.errors import TollkeeperError
from tollkeeper.principal import GROUP_NAME_PATTERN
from tollkeeper.tags import parse_tags

SENTENCES = (
    "The last message must be the user's.",
    "context_allocation is too small for this prompt and its answer.",
    "A key's expiry must be in the future",
    "A key's name has 1 to 100 printable characters.",
    "A user has at most 50 API keys.",
    "The body is empty. Send the document itself as the body.",
    "The form has a field twice.",
    "models: a model's name has 1 to 200 printable characters.",
    "networks: an entry is an address or a network in CIDR form",
    "Name the window of one of your token quotas",
    "This link is unknown, or was used before, or has ended.",
    "tool_choice names a tool that is not among the tools.",
    "A tool's name must be 1 to 128 letters",
    "The echo model finds no value for this JSON Schema.",
    "The JSON Schema is too large for the echo model.",
    "from and to are dates, or times at full quarters of an hour.",
    "from is before to, and a report",
    "Your tenant has not declared the tag",
    "The request names the tag",
)
NO_JUDGE = "Your tenant has no judge"
MODEL_NAME = re.compile(r"[!-~]{1,200}")
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
MAX_EXACT_INTEGER = 2**53
UNTRANSLATABLE: dict[str, dict[str, str]] = {
    "/v1/chat/completions": {
        "function_call": "function_call",
        "This tool_choice": "allowed_tools",
    },
    "/v1/responses": {
        "include": r"message\.output_text\.logprobs",
        "input": "input_image",
        "tool_choice": 'allowed_tools|"required"',
        "top_logprobs": "top_logprobs",
    },
    "/v1/messages": {
        "messages.content": "tool_result|search_result|application/pdf|document",
    },
}
"""What the model of the test refuses, because its provider has a wire format of its own: the parameter that the refusal
names, and a pattern that is in each such request.
"""
UNTRANSLATABLE["/v1/responses/input_tokens"] = UNTRANSLATABLE["/v1/responses"]
UNTRANSLATABLE["/v1/messages/count_tokens"] = UNTRANSLATABLE["/v1/messages"]
UNREAD = {"functions", "logit_bias", "logprobs", "top_k", "top_logprobs"}
"""Parameters that this model refuses, too, and whose value may be anything."""


@schemathesis.serializer(DocumentFormat.PDF.value, DocumentFormat.DOCX.value)
def serialize_document(_context: Any, value: Any) -> bytes:
    """The body of an upload. Schemathesis knows the formats that are text."""
    return value.encode() if isinstance(value, str) else bytes(getattr(value, "data", value))


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Whether the failure is a finding."""
    return not (isinstance(failure, RejectedPositiveData) and _is_beyond_json_schema(case, response))


def _is_beyond_json_schema(case: Case[Any], response: Response) -> bool:
    answer = response.json()
    error = answer["error"] if isinstance(answer.get("error"), dict) else answer  # a form's has OAuth's `error`, a code
    code = next(iter(response.headers.get("x-error-code", [])), answer.get("code"))
    message: str = error.get("detail") or error.get("message")
    if code == "unsupported_parameter":
        return message.startswith(NO_JUDGE) or _is_untranslatable(case, message)
    if code == "provider_rejected":  # the dimensions: their maximum depends on the model
        return case.path == "/v1/embeddings"
    return message.startswith(SENTENCES)


def _is_untranslatable(case: Case[Any], message: str) -> bool:
    body = json.dumps(case.body)
    return any(
        message.startswith(f"{parameter} is not supported") and re.search(pattern, body)
        for parameter, pattern in UNTRANSLATABLE.get(case.path, {}).items()
    )


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Replace what would end most valid requests before anything of them is tested. Invalid values stay as they are.

    That is a model that does not exist, a group of which the caller is no member, a tag that is not declared, a
    parameter that the model refuses, and an Idempotency-Key that another request had. Whole numbers become integers:
    for JSON Schema, 1.0 is one; this server takes it for a fraction.
    """
    if isinstance(case.body, dict):
        case.body = _answerable(_with_integers(case.body))
    key = case.headers.get("Idempotency-Key")
    if isinstance(key, str) and IDEMPOTENCY_KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = uuid4().hex
    if _is_group(case.headers.get("X-Tollkeeper-Group")):
        del case.headers["X-Tollkeeper-Group"]
    if _are_tags(case.headers.get("X-Tollkeeper-Tags")):
        del case.headers["X-Tollkeeper-Tags"]


def _answerable(body: dict[str, Any]) -> dict[str, Any]:
    """The body without what the model refuses, as far as this leaves a body valid or invalid."""
    body = {name: value for name, value in body.items() if name not in UNREAD}
    if isinstance(name := body.get("model"), str) and MODEL_NAME.fullmatch(name):
        body["model"] = "echo"
    if _is_group(body.get("group")):
        del body["group"]
    if isinstance(choices := body.get("n"), int) and 1 < choices <= MAX_CHOICES:
        body["n"] = 1
    if _is_allowed_tools(body.get("tool_choice")):
        body["tool_choice"] = "auto"
    return body


def _is_group(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(GROUP_NAME_PATTERN, name) is not None


def _are_tags(header: Any) -> bool:
    try:
        return isinstance(header, str) and bool(parse_tags([header.encode()]))
    except TollkeeperError:
        return False


def _is_allowed_tools(choice: Any) -> bool:
    """Whether this is a valid `tool_choice` of a chat completion that names several tools."""
    if not isinstance(choice, dict) or "allowed_tools" not in choice or not choice.keys() <= {"type", "allowed_tools"}:
        return False
    allowed = choice["allowed_tools"]
    return not isinstance(allowed, dict) or allowed.keys() <= {"mode", "tools"}


def _with_integers(value: Any) -> Any:
    match value:
        case dict():
            return {name: _with_integers(inner) for name, inner in value.items()}
        case list():
            return [_with_integers(inner) for inner in value]
        case float() if value.is_integer() and abs(value) < MAX_EXACT_INTEGER:
            return int(value)
        case _:
            return value
