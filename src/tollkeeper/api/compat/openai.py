"""OpenAI's API: /v1/chat/completions, /v1/responses and /v1/embeddings."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import orjson

from tollkeeper.api.compat import openai_errors, schemas
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES, CompatExchange, StreamWriter
from tollkeeper.api.compat.fields import MAX_TOKENS, decode_fields, read_count, read_fields, read_flag, read_name
from tollkeeper.api.compat.pseudonym import pseudonym
from tollkeeper.api.metered import Exchange, MeteredEndpoint
from tollkeeper.api.openapi_parts import DONE_DATA
from tollkeeper.chat import ChatRequest, Completion, Usage, UsageReport
from tollkeeper.dialects import chat, embeddings, responses
from tollkeeper.dialects.chat import request_schema as chat_schema
from tollkeeper.dialects.parameters import Rule, filter_parameters
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


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


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
        return chat.write_stream_error(content["code"] or content["type"], content["message"])


class _ChatExchange(CompatExchange):
    """The usage has an event of its own, which is sent only if the request includes it."""

    def __init__(
        self, call: ModelCall, dialect: _ChatDialect, model: str, *, streaming: bool, include_usage: bool
    ) -> None:
        super().__init__(call, dialect, model, streaming=streaming)
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
        if not events and result.charge.basis is not Basis.PROVIDER:  # else a forwarded chunk contained the usage
            events = chat.StreamWriter(self._provider_meta).write_usage(result.usage)
        return events + DONE


class _ResponsesDialect:
    id_prefix = "resp_"

    def __init__(self) -> None:
        self._writer: responses.StreamWriter | None = None
        self._tracker = responses.StreamTracker()

    def write_answer(self, completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
        return responses.write_answer(completion, meta, usage)

    def stream_writer(self, meta: ResponseMeta) -> StreamWriter:
        self._writer = responses.StreamWriter(meta)
        return self._writer

    def follow(self, chunk: StreamChunk) -> None:
        self._tracker.follow(chunk.raw, chunk.deltas)

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
    fields = read_fields(body)
    forwarded = _forwarded(fields, chat.PARAMETERS, caller)
    pause()
    input_size = chat.input_size_of(fields)
    limits = [read_count(fields, name) for name in ("max_completion_tokens", "max_tokens")]
    choices = read_count(fields, "n", MAX_CHOICES) or 1
    streaming = read_flag(fields, "stream")
    include_usage = _stream_options(fields).include_usage
    model = read_name(fields, "model")
    raw = RawRequest(Wire.CHAT, forwarded, input_size)
    call = ModelCall(
        surface="chat/completions",
        input=CallInput(_lazy_reader(chat.read_request, forwarded), raw, choices, size=len(body)),
        model=model,
        max_output=next((limit for limit in limits if limit is not None), None),
    )
    dialect = _ChatDialect(include_usage=include_usage)
    return _ChatExchange(call, dialect, model or "", streaming=streaming, include_usage=include_usage)


def _parse_responses(caller: Principal, body: bytes) -> Exchange:
    fields = read_fields(body)
    forwarded = _forwarded(fields, responses.PARAMETERS, caller)
    pause()
    input_size = responses.input_size_of(fields)
    forwarded["input"] = responses.strip_item_ids(forwarded["input"])
    model = read_name(fields, "model")
    raw = RawRequest(Wire.RESPONSES, forwarded, input_size)
    call = ModelCall(
        surface="responses",
        input=CallInput(_lazy_reader(responses.read_request, forwarded), raw, size=len(body)),
        model=model,
        max_output=read_count(fields, "max_output_tokens"),
    )
    return CompatExchange(call, _ResponsesDialect(), model or "", streaming=read_flag(fields, "stream"))


def _parse_embeddings(caller: Principal, body: bytes) -> Exchange:
    fields = read_fields(body)
    forwarded = _forwarded(fields, embeddings.PARAMETERS, caller)
    raw = RawRequest(Wire.EMBEDDINGS, forwarded, embeddings.input_size_of(fields))

    def read() -> ChatRequest:
        raise InvalidRequest("The provider of this model has no embeddings endpoint. Use another model.")

    call = ModelCall(
        "embeddings", CallInput(read, raw, size=len(body)), read_name(fields, "model"), without_output=True
    )
    return _EmbeddingsExchange(call)


def _forwarded(fields: Mapping[str, msgspec.Raw], rules: Mapping[str, Rule], caller: Principal) -> dict[str, bytes]:
    """The fields to forward: as they were received, except that names become pseudonyms."""
    forwarded = filter_parameters(fields, rules)
    for name in NAMES:
        if name in forwarded:
            forwarded[name] = orjson.dumps(pseudonym(caller, orjson.loads(forwarded[name]), name))
    return forwarded


def _lazy_reader(
    read_request: Callable[[dict[str, Any]], ChatRequest], forwarded: Mapping[str, bytes]
) -> Callable[[], ChatRequest]:
    """Decodes the forwarded fields only if a provider of another wire format needs the ChatRequest."""
    return lambda: read_request(decode_fields(forwarded))


def _stream_options(fields: Mapping[str, msgspec.Raw]) -> _StreamOptions:
    if "stream_options" not in fields:
        return _StreamOptions()
    try:
        return msgspec.json.decode(fields["stream_options"], type=_StreamOptions)
    except msgspec.MsgspecError:
        raise InvalidRequest(
            "stream_options must be an object whose fields are true or false.", parameter="stream_options"
        ) from None


CHAT_COMPLETIONS = MeteredEndpoint(
    path="/v1/chat/completions",
    request_type=chat_schema.schema(MAX_TOKENS, MAX_CHOICES),
    response_type=schemas.CHAT_COMPLETION,
    error_type=schemas.OPENAI_ERROR,
    parse=_parse_chat,
    summary="OpenAI: chat completions",
    description="OpenAI's wire format, JSON and SSE. Parameters that would evade the quota are refused.",
    render_error=openai_errors.render,
    max_body_bytes=MAX_BODY_BYTES,
    examples={
        "Whole": {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 200},
        "Streamed": {
            "messages": [
                {"role": "system", "content": "Answer in one sentence."},
                {"role": "user", "content": "Why is the sky blue?"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    events=(schemas.CHAT_CHUNK, schemas.OPENAI_ERROR, DONE_DATA),
)
RESPONSES = MeteredEndpoint(
    path="/v1/responses",
    request_type=responses_schema.schema(MAX_TOKENS),
    response_type=schemas.RESPONSE,
    error_type=schemas.OPENAI_ERROR,
    parse=_parse_responses,
    summary="OpenAI: responses",
    description="OpenAI's wire format, JSON and SSE. The provider does not store the response.",
    render_error=openai_errors.render,
    max_body_bytes=MAX_BODY_BYTES,
    examples={
        "Whole": {"input": "Why is the sky blue?", "max_output_tokens": 200},
        "Streamed": {
            "instructions": "Answer in one sentence.",
            "input": [{"role": "user", "content": "Why is the sky blue?"}],
            "stream": True,
        },
    },
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
    max_body_bytes=MAX_BODY_BYTES,
    examples={"Two texts": {"input": ["The sky is blue.", "The sun is yellow."]}},
)
