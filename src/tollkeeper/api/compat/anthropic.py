"""Anthropic's surface: /v1/messages and /v1/messages/count_tokens."""

from typing import Any

import orjson

from tollkeeper import errors
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES, CompatExchange, Writer, fields_of, flag, number, text
from tollkeeper.api.compat.openai_errors import is_final
from tollkeeper.api.compat.pseudonym import pseudonym
from tollkeeper.api.dependencies import Services
from tollkeeper.api.errors import Rendered, cause_of, headers_of, sentence_of, status_of
from tollkeeper.api.metered import OF_OTHERS, Exchange, MeteredEndpoint
from tollkeeper.chat import ChatRequest, Completion, Usage
from tollkeeper.dialects import messages
from tollkeeper.dialects.parameters import filter_parameters, refusal
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, RawRequest, StreamChunk, Wire


class _Messages:
    """Messages, as a visit needs them."""

    id_prefix = "msg_"

    def __init__(self) -> None:
        self._follower = messages.StreamTracker()

    def read_request(self, document: dict[str, Any]) -> ChatRequest:
        return messages.read_request(document)

    def write_answer(self, completion: Completion, head: ResponseMeta, usage: Usage) -> bytes:
        return messages.write_answer(completion, head, usage)

    def writer(self, head: ResponseMeta) -> Writer:
        return messages.StreamWriter(head)

    def follow(self, piece: StreamChunk) -> None:
        self._follower.follow(piece.raw)

    def end_theirs(self, _head: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        return self._follower.end(finish_reason, usage)

    def write_stream_error(self, error: errors.TollkeeperError) -> bytes:
        return messages.write_stream_error(error.code, error.detail)


class _MessagesVisit(CompatExchange):
    """Its last event tells nothing; where the line broke before it, it is said for the provider."""

    def _end(self, answer: CallResult) -> bytes:
        ended = super()._end(answer)
        return ended if b'"message_stop"' in ended else ended + messages.STOP


_NAMES = {"stop": "stop_sequences", "reasoning_effort": "output_config.effort"}
"""What callers here call an option that a chat completion calls otherwise."""


def render(error: errors.TollkeeperError) -> Rendered:
    """What went wrong, as Anthropic's API says it: `{"type": "error", "error": {type, message}}`."""
    cause = _in_their_words(cause_of(error))
    status = 400 if isinstance(cause, errors.InvalidRequest) else status_of(cause)
    headers = headers_of(cause, status) | {"Content-Type": "application/json", "X-Error-Code": cause.code}
    if is_final(cause):
        headers["x-should-retry"] = "false"
    refused = cause.parameter if isinstance(cause, errors.UnsupportedParameter) else None
    return status, messages.error_body(messages.error_type(status), sentence_of(cause), refused), headers


def _in_their_words(error: errors.TollkeeperError) -> errors.TollkeeperError:
    """An option that the model's wire cannot say goes by our name; the caller knows it by another."""
    if isinstance(error, errors.UnsayableOption) and error.parameter in _NAMES:
        return refusal(_NAMES[error.parameter])
    return error


def _read(body: bytes, caller: Principal, *, surface: str, needs_limit: bool) -> tuple[ModelCall, str, bool]:
    fields = messages.with_output_config(fields_of(body))
    passed = filter_parameters(fields, messages.PARAMETERS)
    model = text(fields, "model")
    limit = number(fields, "max_tokens")
    if limit is None and needs_limit:
        raise errors.InvalidRequest("max_tokens is missing.", parameter="max_tokens")

    def read() -> ChatRequest:
        return messages.read_request({name: orjson.loads(value) for name, value in passed.items()})

    input_size = messages.shape_of(fields)
    if "metadata" in passed:
        passed["metadata"] = _metadata(caller, passed["metadata"])
    raw = RawRequest(Wire.MESSAGES, passed, input_size)
    return ModelCall(surface, CallInput(read, raw), model, limit), model or "", flag(fields, "stream")


def _metadata(caller: Principal, given: bytes) -> bytes:
    """There is nothing in it but what the caller calls someone."""
    user_id = orjson.loads(given).get("user_id")
    return given if user_id is None else orjson.dumps({"user_id": pseudonym(caller, user_id, "metadata.user_id")})


async def _open(_services: Services, caller: Principal, body: bytes) -> Exchange:
    ask, model, streaming = _read(body, caller, surface="messages", needs_limit=True)
    return _MessagesVisit(ask, _Messages(), model, streaming=streaming)


async def _count(services: Services, caller: Principal, body: bytes) -> bytes:
    """Counted here, so that no provider hears of it."""
    async with services.database.session() as session:
        await services.credentials.current(session, caller)
    ask, _, _ = _read(body, caller, surface="messages", needs_limit=False)
    return messages.write_token_count(await services.gateway.count_input(ask))


MESSAGES = MeteredEndpoint(
    path="/v1/messages",
    takes=OF_OTHERS,
    gives=OF_OTHERS,
    opens=_open,
    summary="Anthropic: messages",
    description="Anthropic's wire format, JSON and SSE. Parameters that would escape the quota are refused.",
    manner=render,
    largest_body=MAX_BODY_BYTES,
    streams=True,
)
COUNT_TOKENS = MeteredEndpoint(
    path="/v1/messages/count_tokens",
    takes=OF_OTHERS,
    gives=OF_OTHERS,
    opens=_count,
    summary="Anthropic: count tokens",
    description="Counted with the best tokenizer at hand, without asking the provider. Costs nothing.",
    manner=render,
    largest_body=MAX_BODY_BYTES,
)
