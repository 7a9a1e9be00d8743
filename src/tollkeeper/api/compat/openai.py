"""OpenAI's API: /v1/chat/completions, /v1/responses and /v1/embeddings."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson

from tollkeeper.api import limit_headers
from tollkeeper.api.compat import examples, openai_errors, schemas
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES, CompatExchange, StreamWriter, name_default_model
from tollkeeper.api.compat.fields import (
    MAX_TOKENS,
    decode_fields,
    read_count,
    read_fields,
    read_flag,
    read_name,
    read_output_limit,
    read_stream_options,
)
from tollkeeper.api.compat.hosted import input_size_without_hosted
from tollkeeper.api.compat.pseudonym import pseudonym
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.openapi_parts import DONE_DATA
from tollkeeper.chat import ChatRequest, Completion, Usage, UsageReport
from tollkeeper.dialects import chat, embeddings, responses
from tollkeeper.dialects.chat import request_schema as chat_schema
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.hosted_tools import leave_out_tools
from tollkeeper.dialects.parameters import Rule, filter_parameters, split_extra
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses import request_schema as responses_schema
from tollkeeper.dialects.sse import DONE, Splitter
from tollkeeper.errors import InvalidRequest, TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, RawRequest, StreamChunk, Wire
from tollkeeper.quota.rules.models import Basis
from tollkeeper.worker_thread import pause

MAX_CHOICES = 128
_NO_CHOICES = re.compile(rb'"choices":\s*\[\s*\]')
NAMES = ("user", "safety_identifier", "prompt_cache_key")
"""Parameters with names that callers give their users and caches."""

RESPONSES_OUTPUT = 16_384
"""Coding agents send no output limit to this endpoint, and end the turn at the first answer that is cut."""


class _ChatDialect:
    id_prefix = "chatcmpl-"

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage

    def write_answer(self, completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
        return chat.write_answer(completion, meta, usage)

    def stream_writer(self, meta: ResponseMeta) -> chat.StreamWriter:
        return chat.StreamWriter(meta, with_usage=self._include_usage)

    def follow(self, _chunk: StreamChunk) -> None:
        """The end of this stream does not depend on its earlier chunks."""

    def end_provider_stream(self, meta: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        return chat.StreamWriter(meta, with_usage=self._include_usage, begun=True).end(finish_reason, usage)

    def write_stream_error(self, error: TollkeeperError) -> bytes:
        content = openai_errors.error_object(error)
        return chat.write_stream_error(content["type"], content["code"] or content["type"], content["message"])


class _ChatExchange(CompatExchange):
    """The usage has an event of its own, which is sent only if the request includes it."""

    def __init__(self, call: ModelCall, dialect: _ChatDialect, *, streaming: bool, include_usage: bool) -> None:
        super().__init__(call, dialect, streaming=streaming)
        self._include_usage = include_usage

    def render_chunk(self, chunk: StreamChunk) -> bytes:
        """Leaves out a usage event that was sent before the end, if the request does not include it."""
        if len(chunk.deltas) == 1 and isinstance(chunk.deltas[0], UsageReport) and not self._include_usage:
            return b"" if _NO_CHOICES.search(chunk.raw) else super().render_chunk(chunk)
        return super().render_chunk(chunk)

    def _render_end(self, result: CallResult) -> bytes:
        if not self._forwarded or result.outcome.shortened:
            return super()._render_end(result)
        if not self._include_usage:
            return DONE
        events = b"".join(event.raw for event in Splitter().feed(result.outcome.tail) if event.data != b"[DONE]")
        if not events and result.answer_basis is not Basis.PROVIDER:  # else a forwarded chunk contained the usage
            events = chat.StreamWriter(self._provider_meta).write_usage(result.usage)
        return events + DONE


class _ResponsesDialect:
    id_prefix = "resp_"

    def __init__(self, tool_names: Mapping[str, responses.ToolName] = responses.NO_NAMESPACES) -> None:
        self._tool_names = tool_names
        self._writer: responses.StreamWriter | None = None
        self._tracker = responses.StreamTracker()

    def write_answer(self, completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
        return responses.write_answer(completion, meta, usage, self._tool_names)

    def stream_writer(self, meta: ResponseMeta) -> StreamWriter:
        self._writer = responses.StreamWriter(meta, self._tool_names)
        return self._writer

    def follow(self, chunk: StreamChunk) -> None:
        self._tracker.follow(chunk.raw, chunk.deltas, chunk.events)

    def end_provider_stream(self, meta: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        return self._tracker.end(meta, finish_reason, usage)

    def write_stream_error(self, error: TollkeeperError) -> bytes:
        content = openai_errors.error_object(error)
        number = self._tracker.event_count if self._writer is None else self._writer.sequence_number
        return responses.write_stream_error(
            content["type"], content["code"] or content["type"], content["message"], number
        )


class _EmbeddingsExchange:
    """The provider's response is forwarded byte for byte. It is never streamed."""

    streamed = None

    def __init__(self, call: ModelCall) -> None:
        self.call = call

    def render(self, result: CallResult) -> bytes:
        assert result.completion.raw is not None
        return result.completion.raw

    async def save(self, result: CallResult) -> None:
        """There is nothing to store."""


def _parse_chat(caller: Principal, body: bytes) -> Exchange:
    fields, extra = split_extra(read_fields(body), chat.PARAMETERS)
    dropped = Dropped()
    forwarded = _forwarded(fields, chat.PARAMETERS, caller, dropped)
    pause()
    input_size = input_size_without_hosted(fields, forwarded, dropped, chat.input_size_of, leave_out_tools)
    limits = [read_output_limit(fields, name) for name in ("max_completion_tokens", "max_tokens")]
    choices = read_count(fields, "n", MAX_CHOICES) or 1
    streaming = read_flag(fields, "stream")
    include_usage = read_stream_options(fields).include_usage
    model = read_name(fields, "model")
    raw = RawRequest(Wire.CHAT, forwarded, input_size, extra)
    call = ModelCall(
        surface="chat/completions",
        input=CallInput(
            _lazy_reader(_read_chat_request, forwarded, dropped), raw, choices, size=len(body), dropped=dropped
        ),
        model=model,
        max_output=next((limit for limit in limits if limit is not None), None),
    )
    dialect = _ChatDialect(include_usage=include_usage)
    return _ChatExchange(call, dialect, streaming=streaming, include_usage=include_usage)


def _parse_responses(caller: Principal, body: bytes) -> Exchange:
    dropped = Dropped()
    fields, extra = split_extra(read_fields(body), responses.PARAMETERS)
    forwarded = _forwarded(fields, responses.PARAMETERS, caller, dropped)
    pause()
    input_size = input_size_without_hosted(
        fields, forwarded, dropped, responses.input_size_of, responses.leave_out_hosted
    )
    read_request = _lazy_reader(responses.read_request, dict(forwarded), dropped)
    forwarded["input"] = responses.strip_item_ids(forwarded["input"])
    model = read_name(fields, "model")
    raw = RawRequest(Wire.RESPONSES, forwarded, input_size, extra)
    call = ModelCall(
        surface="responses",
        input=CallInput(read_request, raw, size=len(body), dropped=dropped),
        model=model,
        max_output=read_output_limit(fields, "max_output_tokens"),
        usual_output=RESPONSES_OUTPUT,
    )
    dialect = _ResponsesDialect(responses.namespaced_tools(fields))
    return CompatExchange(call, dialect, streaming=read_flag(fields, "stream"))


def _parse_embeddings(caller: Principal, body: bytes) -> Exchange:
    fields, extra = split_extra(read_fields(body), embeddings.PARAMETERS)
    forwarded = _forwarded(fields, embeddings.PARAMETERS, caller, Dropped())
    raw = RawRequest(Wire.EMBEDDINGS, forwarded, embeddings.input_size_of(fields), extra)

    def read() -> ChatRequest:
        raise InvalidRequest("The provider of this model has no embeddings endpoint. Use another model.")

    call = ModelCall(
        "embeddings", CallInput(read, raw, size=len(body)), read_name(fields, "model"), without_output=True
    )
    return _EmbeddingsExchange(call)


def _forwarded(
    fields: Mapping[str, msgspec.Raw], rules: Mapping[str, Rule], caller: Principal, dropped: Dropped
) -> dict[str, bytes]:
    """The fields to forward: as they were received, except that names become pseudonyms."""
    forwarded = filter_parameters(fields, rules, dropped)
    for name in NAMES:
        if name in forwarded:
            forwarded[name] = orjson.dumps(pseudonym(caller, orjson.loads(forwarded[name]), name))
    return forwarded


def _lazy_reader(
    read_request: Callable[[dict[str, Any], Dropped], ChatRequest], forwarded: Mapping[str, bytes], dropped: Dropped
) -> Callable[[], ChatRequest]:
    """Decodes the forwarded fields only if a provider of another wire format needs the ChatRequest."""
    return lambda: read_request(decode_fields(forwarded), dropped)


def _read_chat_request(request: dict[str, Any], dropped: Dropped) -> ChatRequest:
    if request.pop("verbosity", None) is not None:
        dropped.add("verbosity")
    return chat.read_request(request)


CHAT_COMPLETIONS = MeteredEndpoint(
    path="/v1/chat/completions",
    request_type=chat_schema.schema(MAX_TOKENS, MAX_CHOICES),
    response_type=schemas.CHAT_COMPLETION,
    error_type=schemas.OPENAI_ERROR,
    parse=_parse_chat,
    prepare=name_default_model,
    summary="OpenAI: chat completions",
    description="OpenAI's wire format, JSON and SSE. Parameters that would evade the quota are refused.",
    render_error=openai_errors.render,
    limit_headers=limit_headers.OPENAI,
    max_body_bytes=MAX_BODY_BYTES,
    examples=examples.CHAT_REQUESTS,
    response_example=examples.CHAT_RESPONSE,
    events=(schemas.CHAT_CHUNK, schemas.OPENAI_ERROR, DONE_DATA),
)
RESPONSES = MeteredEndpoint(
    path="/v1/responses",
    request_type=responses_schema.schema(MAX_TOKENS),
    response_type=schemas.RESPONSE,
    error_type=schemas.OPENAI_ERROR,
    parse=_parse_responses,
    prepare=name_default_model,
    summary="OpenAI: responses",
    description="OpenAI's wire format, JSON and SSE. The provider does not store the response.",
    render_error=openai_errors.render,
    limit_headers=limit_headers.OPENAI,
    max_body_bytes=MAX_BODY_BYTES,
    examples=examples.RESPONSES_REQUESTS,
    response_example=examples.RESPONSES_RESPONSE,
    events=(schemas.TYPED_EVENT,),
)
EMBEDDINGS = MeteredEndpoint(
    path="/v1/embeddings",
    request_type=schemas.EMBEDDINGS_REQUEST,
    response_type=schemas.EMBEDDINGS,
    error_type=schemas.OPENAI_ERROR,
    parse=_parse_embeddings,
    summary="OpenAI: embeddings",
    description="OpenAI's wire format. Only the input is charged.",
    render_error=openai_errors.render,
    limit_headers=limit_headers.OPENAI,
    max_body_bytes=MAX_BODY_BYTES,
    examples=examples.EMBEDDINGS_REQUESTS,
    response_example=examples.EMBEDDINGS_RESPONSE,
)
