"""OpenAI's surface: /v1/chat/completions, /v1/responses and /v1/embeddings."""

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from tollkeeper.api.compat import openai_errors
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES, CompatExchange, Writer, fields_of, flag, number, text
from tollkeeper.api.compat.pseudonym import pseudonym
from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import OF_OTHERS, Exchange, MeteredEndpoint
from tollkeeper.chat import ChatRequest, Completion, Usage
from tollkeeper.dialects import chat, embeddings, responses
from tollkeeper.dialects.parameters import Rule, filter_parameters
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import DONE, Splitter
from tollkeeper.errors import InvalidRequest, TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, RawRequest, StreamChunk, Wire
from tollkeeper.quota.rules.models import Basis

MAX_CHOICES = 128
NAMES = ("user", "safety_identifier", "prompt_cache_key")
"""What callers call people and caches."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Chat:
    """Chat completions, as a visit needs them."""

    id_prefix = "chatcmpl-"

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage

    def read_request(self, document: dict[str, Any]) -> ChatRequest:
        return chat.read_request(document)

    def write_answer(self, completion: Completion, head: ResponseMeta, usage: Usage) -> bytes:
        return chat.write_answer(completion, head, usage)

    def writer(self, head: ResponseMeta) -> chat.StreamWriter:
        return chat.StreamWriter(head, with_usage=self._include_usage)

    def follow(self, _piece: StreamChunk) -> None:
        """Chunks stand alone."""

    def end_theirs(self, head: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        return chat.StreamWriter(head, with_usage=self._include_usage, begun=True).end(finish_reason, usage)

    def write_stream_error(self, error: TollkeeperError) -> bytes:
        told = openai_errors.told(error)
        return chat.write_stream_error(told["code"] or told["type"], told["message"])


class _ChatVisit(CompatExchange):
    """Its usage comes in an event of its own, which the caller may not have asked for."""

    def __init__(self, ask: ModelCall, dialect: _Chat, model: str, *, streaming: bool, include_usage: bool) -> None:
        super().__init__(ask, dialect, model, streaming=streaming)
        self._include_usage = include_usage

    def _end(self, answer: CallResult) -> bytes:
        if not self._passed_on or answer.outcome.shortened:
            return super()._end(answer)
        if not self._include_usage:
            return DONE
        told = b"".join(event.raw for event in Splitter().feed(answer.outcome.tail) if event.data != b"[DONE]")
        if not told and answer.charge.basis is not Basis.PROVIDER:  # else it came with what was passed on
            told = chat.StreamWriter(self._their_head).usage(answer.usage)
        return told + DONE


class _Responses:
    """Responses, as a visit needs them."""

    id_prefix = "resp_"

    def __init__(self) -> None:
        self._writer: responses.StreamWriter | None = None
        self._follower = responses.StreamTracker()

    def read_request(self, document: dict[str, Any]) -> ChatRequest:
        return responses.read_request(document)

    def write_answer(self, completion: Completion, head: ResponseMeta, usage: Usage) -> bytes:
        return responses.write_answer(completion, head, usage)

    def writer(self, head: ResponseMeta) -> Writer:
        self._writer = responses.StreamWriter(head)
        return self._writer

    def follow(self, piece: StreamChunk) -> None:
        self._follower.follow(piece.raw, piece.deltas)

    def end_theirs(self, head: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        return self._follower.end(head, finish_reason, usage)

    def write_stream_error(self, error: TollkeeperError) -> bytes:
        told = openai_errors.told(error)
        number = self._follower.events if self._writer is None else self._writer.sequence_number
        return responses.write_stream_error(told["type"], told["code"] or told["type"], told["message"], number)


class _EmbeddingsVisit:
    """Vectors come whole, and as the provider made them."""

    streamed = None

    def __init__(self, ask: ModelCall) -> None:
        self.ask = ask

    def whole(self, answer: CallResult) -> bytes:
        assert answer.completion.raw is not None
        return answer.completion.raw

    async def remember(self, answer: CallResult) -> None:
        """There is nothing to remember."""


async def _open_chat(_services: Services, caller: Principal, body: bytes) -> Exchange:
    fields = fields_of(body)
    passed = _passed_on(fields, chat.PARAMETERS, caller)
    input_size = chat.shape_of(fields)
    limits = [number(fields, name) for name in ("max_completion_tokens", "max_tokens")]
    choices = number(fields, "n", MAX_CHOICES) or 1
    streaming = flag(fields, "stream")
    include_usage = _stream_options(fields).include_usage
    model = text(fields, "model")
    ask = ModelCall(
        surface="chat/completions",
        input=CallInput(_reader(chat.read_request, passed), RawRequest(Wire.CHAT, passed, input_size), choices),
        model=model,
        max_output=next((limit for limit in limits if limit is not None), None),
    )
    dialect = _Chat(include_usage=include_usage)
    return _ChatVisit(ask, dialect, model or "", streaming=streaming, include_usage=include_usage)


async def _open_responses(_services: Services, caller: Principal, body: bytes) -> Exchange:
    fields = fields_of(body)
    passed = _passed_on(fields, responses.PARAMETERS, caller)
    input_size = responses.shape_of(fields)
    passed["input"] = responses.detached(passed["input"])
    model = text(fields, "model")
    ask = ModelCall(
        surface="responses",
        input=CallInput(_reader(responses.read_request, passed), RawRequest(Wire.RESPONSES, passed, input_size)),
        model=model,
        max_output=number(fields, "max_output_tokens"),
    )
    return CompatExchange(ask, _Responses(), model or "", streaming=flag(fields, "stream"))


async def _open_embeddings(_services: Services, caller: Principal, body: bytes) -> Exchange:
    fields = fields_of(body)
    passed = _passed_on(fields, embeddings.PARAMETERS, caller)
    raw = RawRequest(Wire.EMBEDDINGS, passed, embeddings.shape_of(fields))

    def read() -> ChatRequest:
        raise InvalidRequest("An embeddings request is not a conversation.")

    ask = ModelCall("embeddings", CallInput(read, raw), text(fields, "model"), without_output=True)
    return _EmbeddingsVisit(ask)


def _passed_on(fields: Mapping[str, msgspec.Raw], rules: Mapping[str, Rule], caller: Principal) -> dict[str, bytes]:
    """What goes out: as it came, but for names."""
    passed = filter_parameters(fields, rules)
    for name in NAMES:
        if name in passed:
            passed[name] = orjson.dumps(pseudonym(caller, orjson.loads(passed[name]), name))
    return passed


def _reader(read: Any, passed: Mapping[str, bytes]) -> Any:
    """Reads what is passed on, when and if our nouns for it are needed."""
    return lambda: read({name: orjson.loads(value) for name, value in passed.items()})


def _stream_options(fields: Mapping[str, msgspec.Raw]) -> _StreamOptions:
    if "stream_options" not in fields:
        return _StreamOptions()
    try:
        return msgspec.json.decode(fields["stream_options"], type=_StreamOptions)
    except msgspec.MsgspecError:
        raise InvalidRequest("stream_options is not what it must be.", parameter="stream_options") from None


CHAT_COMPLETIONS = MeteredEndpoint(
    path="/v1/chat/completions",
    takes=OF_OTHERS,
    gives=OF_OTHERS,
    opens=_open_chat,
    summary="OpenAI: chat completions",
    description="OpenAI's wire format, JSON and SSE. Parameters that would escape the quota are refused.",
    manner=openai_errors.render,
    largest_body=MAX_BODY_BYTES,
    streams=True,
)
RESPONSES = MeteredEndpoint(
    path="/v1/responses",
    takes=OF_OTHERS,
    gives=OF_OTHERS,
    opens=_open_responses,
    summary="OpenAI: responses",
    description="OpenAI's wire format, JSON and SSE. Nothing is kept at the provider.",
    manner=openai_errors.render,
    largest_body=MAX_BODY_BYTES,
    streams=True,
)
EMBEDDINGS = MeteredEndpoint(
    path="/v1/embeddings",
    takes=OF_OTHERS,
    gives=OF_OTHERS,
    opens=_open_embeddings,
    summary="OpenAI: embeddings",
    description="OpenAI's wire format. Only input is charged.",
    manner=openai_errors.render,
    largest_body=MAX_BODY_BYTES,
)
