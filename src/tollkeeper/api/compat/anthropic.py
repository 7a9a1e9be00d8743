"""Anthropic's API: /v1/messages and /v1/messages/count_tokens."""

from collections.abc import Sequence

import orjson

from tollkeeper import errors
from tollkeeper.api import limit_headers
from tollkeeper.api.compat import anthropic_errors, examples, schemas
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES, CompatExchange, StreamWriter, name_default_model
from tollkeeper.api.compat.fields import MAX_TOKENS, decode_fields, read_count, read_fields, read_flag, read_name
from tollkeeper.api.compat.hosted import input_size_without_hosted
from tollkeeper.api.compat.pseudonym import pseudonym
from tollkeeper.api.dependencies import Services
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.sdk_paths import MESSAGES_PATH
from tollkeeper.chat import ChatRequest, Completion, Usage
from tollkeeper.dialects import messages
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.messages import request_schema
from tollkeeper.dialects.parameters import filter_parameters, split_extra
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, RawRequest, StreamChunk, Wire
from tollkeeper.tenant_scope import TenantScope
from tollkeeper.worker_thread import pause


class _MessagesDialect:
    id_prefix = "msg_"

    def __init__(self) -> None:
        self._tracker = messages.StreamTracker()

    def write_answer(self, completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
        return messages.write_answer(completion, meta, usage)

    def stream_writer(self, meta: ResponseMeta) -> StreamWriter:
        return messages.StreamWriter(meta)

    def follow(self, chunk: StreamChunk) -> None:
        self._tracker.follow(chunk.raw)

    def end_provider_stream(self, _meta: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        return self._tracker.end(finish_reason, usage)

    def write_stream_error(self, error: errors.TollkeeperError) -> bytes:
        return anthropic_errors.stream_error(error)


class _MessagesExchange(CompatExchange):
    def _render_end(self, result: CallResult) -> bytes:
        """Adds the last event if the provider's connection broke before it: it carries no information."""
        end = super()._render_end(result)
        return end if b'"message_stop"' in end else end + messages.MESSAGE_STOP


def _read_call(body: bytes, caller: Principal, *, surface: str, limit_required: bool) -> tuple[ModelCall, bool]:
    """The call, and whether the answer is to be streamed. Raises InputError."""
    dropped = Dropped()
    fields, extra = split_extra(messages.move_output_format(read_fields(body)), messages.PARAMETERS)
    forwarded = filter_parameters(fields, messages.PARAMETERS, dropped)
    model = read_name(fields, "model")
    limit = read_count(fields, "max_tokens")
    if limit is None and limit_required:
        raise errors.InvalidRequest("max_tokens is missing.", parameter="max_tokens")

    def read() -> ChatRequest:
        dropped.add(*dropped.untranslated)
        return messages.read_request(decode_fields(forwarded), dropped)

    pause()
    input_size = input_size_without_hosted(
        fields, forwarded, dropped, messages.input_size_of, messages.leave_out_hosted
    )
    if "metadata" in forwarded:
        forwarded["metadata"] = _metadata(caller, forwarded["metadata"])
    raw = RawRequest(Wire.MESSAGES, forwarded, input_size, extra)
    dropped.untranslated += [name for name in messages.UNTRANSLATED if name in forwarded]
    call_input = CallInput(read, raw, size=len(body), dropped=dropped)
    return ModelCall(surface, call_input, model, limit), read_flag(fields, "stream")


def _metadata(caller: Principal, sent: bytes) -> bytes:
    """The metadata to forward. `user_id` is its only field."""
    user_id = orjson.loads(sent).get("user_id")
    return sent if user_id is None else orjson.dumps({"user_id": pseudonym(caller, user_id, "metadata.user_id")})


def _parse_messages(caller: Principal, body: bytes) -> Exchange:
    call, streaming = _read_call(body, caller, surface="messages", limit_required=True)
    return _MessagesExchange(call, _MessagesDialect(), streaming=streaming)


def _read_headers(exchange: Exchange, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Note the betas that the caller enables: those that change no price are sent to a provider of this wire format."""
    values = [value for name, value in headers if name == b"anthropic-beta"]
    if not values:
        return
    call_input = exchange.call.input
    assert call_input.raw is not None
    if betas := messages.allowed_betas(values, call_input.dropped):
        call_input.raw = call_input.raw._replace(headers={"anthropic-beta": betas})
        call_input.dropped.untranslated.append("anthropic-beta")


def _parse_count(caller: Principal, body: bytes) -> ModelCall:
    return _read_call(body, caller, surface="messages", limit_required=False)[0]


async def _count_tokens(services: Services, caller: Principal, call: ModelCall) -> bytes:
    """Count the input with a tokenizer of this server; the provider is not called."""
    async with services.database.session(TenantScope(caller.tenant_id)) as session:
        await services.authenticator.load_account(session, caller)
    return messages.write_token_count(await services.gateway.count_input(caller, call))


MESSAGES = MeteredEndpoint(
    path=MESSAGES_PATH,
    request_type=request_schema.schema("MessagesRequest", schemas.REF_TEMPLATE, MAX_TOKENS, limit_required=True),
    response_type=schemas.MESSAGE,
    error_type=schemas.ANTHROPIC_ERROR,
    schemas=request_schema.components(schemas.REF_TEMPLATE),
    parse=_parse_messages,
    prepare=name_default_model,
    read_headers=_read_headers,
    summary="Anthropic: messages",
    description="Anthropic's wire format, JSON and SSE. Parameters that would evade the quota are refused.",
    render_error=anthropic_errors.render,
    limit_headers=limit_headers.ANTHROPIC,
    max_body_bytes=MAX_BODY_BYTES,
    examples=examples.MESSAGES_REQUESTS,
    response_example=examples.MESSAGES_RESPONSE,
    events=(schemas.TYPED_EVENT,),
)
COUNT_TOKENS = MeteredEndpoint(
    path="/v1/messages/count_tokens",
    request_type=request_schema.schema("CountTokensRequest", schemas.REF_TEMPLATE, MAX_TOKENS, limit_required=False),
    response_type=schemas.TOKEN_COUNT,
    error_type=schemas.ANTHROPIC_ERROR,
    parse=_parse_count,
    prepare=_count_tokens,
    summary="Anthropic: count tokens",
    description="Counted with the best tokenizer available, without a call of the provider. Free of charge.",
    render_error=anthropic_errors.render,
    limit_headers=limit_headers.ANTHROPIC,
    max_body_bytes=MAX_BODY_BYTES,
    examples=examples.COUNT_TOKENS_REQUESTS,
    response_example=examples.COUNT_TOKENS_RESPONSE,
    calls_model=False,
)
