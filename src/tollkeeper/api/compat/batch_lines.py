"""The lines of batches: what they look like in OpenAI's and in Anthropic's API, and the calls that they are."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar
from uuid import uuid4

import msgspec
import orjson

from tollkeeper.api.compat import anthropic_errors, openai_errors
from tollkeeper.api.compat.anthropic import MESSAGES
from tollkeeper.api.compat.completions import COMPLETIONS
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES
from tollkeeper.api.dependencies import Services
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.batches.kinds import BatchKind, LineProblem
from tollkeeper.errors import BatchError, LineCancelled, TollkeeperError, UnsupportedParameter
from tollkeeper.files.models import Purpose
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.jobs.kinds import JobExchange, JobKind
from tollkeeper.principal import Principal
from tollkeeper.worker_thread import run_by_size

SURFACE = "batches"
"""The surface of the charges of batches. A key needs it, and the surface of the calls."""
OPENAI_PREFIX, ANTHROPIC_PREFIX = "batch", "msgbatch"
"""How the ids of batches begin."""
OPENAI_ENDPOINTS = {endpoint.path: endpoint for endpoint in (CHAT_COMPLETIONS, RESPONSES, COMPLETIONS, EMBEDDINGS)}
OPENAI_PATHS = tuple(OPENAI_ENDPOINTS)
MAX_OPENAI_ID = 512
ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""As in Anthropic's API (reference, "Create a Message Batch", `custom_id`)."""
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
"""In valid JSON, they stand between values only."""


class OpenAiLine(msgspec.Struct, forbid_unknown_fields=True):
    """A request of a batch of OpenAI's API."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class AnthropicLine(msgspec.Struct, forbid_unknown_fields=True):
    """A request of a batch of Anthropic's API."""

    custom_id: str
    params: msgspec.Raw


AnyLine = TypeVar("AnyLine", OpenAiLine, AnthropicLine)
_decode_openai = msgspec.json.Decoder(OpenAiLine).decode
_decode_anthropic = msgspec.json.Decoder(AnthropicLine).decode


class Render(Protocol):
    """Renders the line of results for a call that was made."""

    def __call__(self, line_id: str, charge_id: str, body: bytes) -> bytes: ...


class LineExchange:
    """The call of a line, and its line of results."""

    def __init__(self, line_id: str, exchange: Exchange, render: Render) -> None:
        self._line_id = line_id
        self._exchange = exchange
        self._render = render

    @property
    def call(self) -> ModelCall:
        return replace(self._exchange.call, surface=SURFACE)

    def render(self, result: CallResult) -> bytes:
        return self._render(self._line_id, result.charge.charge_id, self._exchange.render(result))


class OpenAiLines:
    """The lines of batches of one endpoint. Failures are written to a file of their own."""

    output_purpose = Purpose.BATCH_OUTPUT
    splits_errors = True
    deletes_input = False

    def __init__(self, services: Services, endpoint: MeteredEndpoint) -> None:
        self._services = services
        self._endpoint = endpoint
        self.max_line_bytes = endpoint.max_body_bytes

    def read_line(self, content: bytes) -> str:
        line = _decode(_decode_openai, content, "custom_id, method, url and body")
        if not 1 <= len(line.custom_id) <= MAX_OPENAI_ID or "\0" in line.custom_id:
            raise LineProblem(
                "invalid_custom_id", f"A custom_id has 1 to {MAX_OPENAI_ID} characters, without NUL.", "custom_id"
            )
        if line.method != "POST":
            raise LineProblem("invalid_method", "The method must be: POST.", "method")
        if line.url != self._endpoint.path:
            raise LineProblem(
                "invalid_url", f"The url must be the endpoint of the batch: {self._endpoint.path}.", "url"
            )
        if not bytes(line.body).startswith(b"{"):
            raise LineProblem("invalid_line", "The body must be a JSON object.", "body")
        return line.custom_id

    async def open(self, caller: Principal, request: bytes) -> JobExchange:
        line = _decode_openai(request)
        exchange = await _open(self._services, self._endpoint, caller, bytes(line.body))
        return LineExchange(line.custom_id, exchange, self._render)

    def render_error(self, error: TollkeeperError, read_request: Callable[[], bytes]) -> bytes:
        status, body, _ = openai_errors.render(error)
        return self._render(_decode_openai(read_request()).custom_id, f"req_{uuid4().hex}", body, status)

    def render_unmade(self, line_id: str, error: BatchError) -> bytes:
        failure = {"code": error.code, "message": error.detail}
        return orjson.dumps({"id": _new_request_id(), "custom_id": line_id, "response": None, "error": failure})

    def _render(self, line_id: str, charge_id: str, body: bytes, status: int = 200) -> bytes:
        response = {"status_code": status, "request_id": charge_id, "body": orjson.Fragment(_on_one_line(body))}
        request_id = f"batch_req_{charge_id.rpartition('_')[2]}"
        return orjson.dumps({"id": request_id, "custom_id": line_id, "response": response, "error": None})


class AnthropicLines:
    """The lines of batches of messages. All results are in one file, which only the batch leads to."""

    output_purpose = Purpose.MESSAGE_BATCH_OUTPUT
    splits_errors = False
    deletes_input = True
    max_line_bytes = MESSAGES.max_body_bytes

    def __init__(self, services: Services) -> None:
        self._services = services

    def read_line(self, content: bytes) -> str:
        return require_anthropic_id(_decode(_decode_anthropic, content, "custom_id and params"))

    async def open(self, caller: Principal, request: bytes) -> JobExchange:
        line = _decode_anthropic(request)
        exchange = await _open(self._services, MESSAGES, caller, bytes(line.params))
        return LineExchange(line.custom_id, exchange, _render_message)

    def render_error(self, error: TollkeeperError, read_request: Callable[[], bytes]) -> bytes:
        _, body, _ = anthropic_errors.render(error)
        result = {"type": "errored", "error": orjson.Fragment(_on_one_line(body))}
        return orjson.dumps({"custom_id": _decode_anthropic(read_request()).custom_id, "result": result})

    def render_unmade(self, line_id: str, error: BatchError) -> bytes:
        end = "canceled" if isinstance(error, LineCancelled) else "expired"
        return orjson.dumps({"custom_id": line_id, "result": {"type": end}})


def kind_of(path: str) -> str:
    """The kind of a batch of OpenAI's API for this endpoint."""
    return f"/v1/batches{path}"


MESSAGE_BATCHES = "/v1/messages/batches"
"""The kind of Anthropic's batches, and their path."""


def batch_kinds(services: Services) -> Mapping[str, BatchKind]:
    """The kinds of batches of a server with these services."""
    return _kinds(services)


def line_kinds(services: Services) -> Mapping[str, JobKind]:
    """The same, as the kinds of the jobs that their lines become."""
    return _kinds(services)


def _kinds(services: Services) -> dict[str, OpenAiLines | AnthropicLines]:
    kinds: dict[str, OpenAiLines | AnthropicLines] = {MESSAGE_BATCHES: AnthropicLines(services)}
    for path, endpoint in OPENAI_ENDPOINTS.items():
        kinds[kind_of(path)] = OpenAiLines(services, endpoint)
    return kinds


def require_surface(caller: Principal, path: str) -> None:
    """Raises Forbidden unless the caller's key allows calls of this endpoint in batches."""
    endpoint = OPENAI_ENDPOINTS.get(path, MESSAGES)
    caller.limits.require_surface(SURFACE)
    caller.limits.require_surface(endpoint.surface)


def require_anthropic_id(line: AnthropicLine) -> str:
    """Returns the id of a line. Raises LineProblem."""
    if not ANTHROPIC_ID.fullmatch(line.custom_id):
        raise LineProblem("invalid_custom_id", "A custom_id has 1 to 64 letters, digits, _ and -.", "custom_id")
    if not bytes(line.params).startswith(b"{"):
        raise LineProblem("invalid_line", "The params must be a JSON object.", "params")
    return line.custom_id


async def _open(services: Services, endpoint: MeteredEndpoint, caller: Principal, body: bytes) -> Exchange:
    """Read the request of a line, as its endpoint does. Raises Forbidden, InputError."""
    require_surface(caller, endpoint.path)
    exchange = await run_by_size(len(body), endpoint.parse, caller, body)
    if endpoint.prepare is not None:
        exchange = await endpoint.prepare(services, caller, exchange)
    if exchange.streamed is not None:
        raise UnsupportedParameter("stream is not supported in batches.", parameter="stream")
    opened: Exchange = exchange
    return opened


def _decode(decode: Callable[[bytes], AnyLine], content: bytes, fields: str) -> AnyLine:
    """Raises LineProblem."""
    try:
        return decode(content)
    except msgspec.ValidationError:
        raise LineProblem("invalid_line", f"A line is a JSON object with {fields}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise LineProblem("invalid_json_line", "The line is not valid JSON.") from None


def _render_message(line_id: str, charge_id: str, body: bytes) -> bytes:
    result = {"type": "succeeded", "message": orjson.Fragment(_on_one_line(body))}
    return orjson.dumps({"custom_id": line_id, "result": result})


def _on_one_line(body: bytes) -> bytes:
    return body.translate(_LINE_BREAKS)


def _new_request_id() -> str:
    return f"batch_req_{uuid4().hex}"
