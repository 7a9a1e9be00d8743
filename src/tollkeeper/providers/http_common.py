"""What the providers with an HTTP API share: encoding requests, reading answers and streams, counting tokens."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import orjson

from tollkeeper import errors
from tollkeeper.chat import (
    ChatRequest,
    Completion,
    Delta,
    Finish,
    InconsistentUsage,
    InputTokens,
    ReasoningDelta,
    ReasoningEnd,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError, TruncatedStream, is_sign_of_life
from tollkeeper.dialects.images import DATA_PREFIX, data_bytes
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.messages.documents import PDF_PAGE_TOKENS
from tollkeeper.dialects.parameters import unsupported
from tollkeeper.providers import tokenizer
from tollkeeper.providers.base import SIGN_OF_LIFE, BilledFailure, Model, PreparedCall, RawRequest, StreamChunk
from tollkeeper.providers.transport import MAX_ANSWER_BYTES, ResponseStream, sent_error
from tollkeeper.worker_thread import pause, run_by_size

NO_KEY = "none"
"""The API key for servers that need none."""


def encode_raw(
    raw: RawRequest, overrides: dict[str, object], limit_name: str | None, extra: Mapping[str, bytes]
) -> tuple[bytes, bytes | None]:
    """A raw request with `extra` fields and the `overrides` as JSON, in two parts: before the output limit, and after
    it.

    The second part is None without a `limit_name`.
    """
    fields = [orjson.dumps(name) + b":" + value for name, value in raw.fields.items()]
    fields += [orjson.dumps(name) + b":" + value for name, value in extra.items()]
    fields += [orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in overrides.items()]
    if limit_name is None:
        return b"{%b}" % b",".join(fields), None
    return b'{%b,"%b":' % (b",".join(fields), limit_name.encode()), b"}"


def encode_document(document: dict[str, object], limit_name: str) -> tuple[bytes, bytes]:
    """A document as JSON, in two parts: before the output limit, and after it."""
    pause()
    return orjson.dumps(document)[:-1] + b',"' + limit_name.encode() + b'":', b"}"


def is_below(origin: str, url: str) -> bool:
    """Whether `url` is at `origin` or below it."""
    return f"{url}/".startswith(f"{origin}/")


def refuse_sampling(model: Model, names: Iterable[str], sampling: frozenset[str]) -> None:
    """Raises UnsupportedParameter for a name among the `sampling` parameters that the model does not accept."""
    if model.sampling is None:
        return
    for name in names:
        if name in sampling and name not in model.sampling:
            raise unsupported(name)


def input_size_of(chat_request: ChatRequest) -> InputSize:
    """The counts that bound the input tokens of a ChatRequest."""
    pictures = chat_request.images
    image_bytes = sum(data_bytes(picture.url) for picture in pictures if picture.url.startswith(DATA_PREFIX))
    return InputSize(len(chat_request.messages), len(pictures), image_bytes, bool(chat_request.options.tools))


@contextmanager
def reading_answer(answer: bytes, sent: bytes) -> Iterator[None]:
    """Turns the errors of a dialect, which reads the `answer` to what was `sent`, into ProviderErrors."""
    try:
        yield
    except MalformedAnswer as error:
        raise errors.ProviderBadResponse from error
    except ProviderSentError as error:
        raise failure(error, answer, sent) from None


def failure(error: ProviderSentError, body: bytes, sent: bytes) -> errors.ProviderError:
    """The error that the provider sent in this body: a BilledFailure if it reports a usage other than 0."""
    read = sent_error(body, sent)
    if error.usage is None or not any(error.usage):
        return read
    billed = BilledFailure(error.usage)
    billed.upstream = read.upstream
    return billed


class Splitter(Protocol):
    """Splits a stream into events or lines. `end` returns the last ones; it raises TruncatedStream inside an event."""

    def feed(self, block: bytes) -> Sequence[Any]: ...

    def end(self) -> Sequence[Any]: ...


class StreamReader(Protocol):
    """Reads the events of one stream. `last`: the event just read ends the answer; `finished`: the answer is whole."""

    last: bool
    finished: bool

    def read(self, event: Any) -> list[Delta]: ...


_END_DELTAS = (Finish, InconsistentUsage, InputTokens, Usage)
"""The deltas that have no content of the answer."""


class ProviderStream:
    """The answer of a provider as a ChunkStream, an event a chunk; with `raw`, each with the event's own bytes.

    An error closes the connection. Content that is in the last event is a chunk of its own, before the last one: the
    last chunk is not delivered to callers for whom the stream is translated. Some servers send a whole answer in JSON
    where a stream was requested: `read_answer` reads it, and its chunks have no bytes of their own.
    """

    def __init__(
        self,
        stream: ResponseStream,
        splitter: Splitter,
        reader: StreamReader,
        *,
        raw: bool,
        read_answer: Callable[[bytes], Completion] | None = None,
    ) -> None:
        self._stream = stream
        self._splitter = splitter
        self._reader = reader
        self._raw = raw
        self._read_answer = read_answer
        self._events: Iterator[Any] = iter(())
        self._read_all = False
        self._begun = False
        self._skipped = False
        """Whether an event with an unknown text was left out. It may have been an error, so an end needs its reason."""
        self._last_chunk: StreamChunk | None = None
        self._whole_body = b""

    def __aiter__(self) -> "ProviderStream":
        return self

    async def __anext__(self) -> StreamChunk:
        """Raises ProviderError, also for a stream that ends before its answer does."""
        if self._last_chunk is not None:
            last_chunk, self._last_chunk = self._last_chunk, None
            return last_chunk
        try:
            while (event := next(self._events, None)) is None:
                block = b"" if self._read_all else await self._stream.read()
                if self._read_answer is not None and (begin := block.lstrip()):
                    if begin.startswith(b"{"):
                        return await self._whole_answer(block, self._read_answer)
                    self._read_answer = None
                events = self._splitter.feed(block) if block else self._remaining_events()
                if block and not events:
                    return SIGN_OF_LIFE
                self._events = iter(events)
            deltas = self._read(event)
            if deltas is None:
                return SIGN_OF_LIFE
            if (
                self._reader.last
                and not self._raw
                and (content := [one for one in deltas if not isinstance(one, _END_DELTAS)])
            ):
                end = tuple([one for one in deltas if isinstance(one, _END_DELTAS)])
                self._last_chunk = StreamChunk(b"", end, last=True)
                return StreamChunk(b"", tuple(content))
            return StreamChunk(event.raw if self._raw else b"", tuple(deltas), self._reader.last)
        except BaseException as error:
            self._stream.close()
            match error:
                case MalformedAnswer():
                    raise errors.ProviderBadResponse from error
                case ProviderSentError():
                    body = self._whole_body if event is None else getattr(event, "data", event)
                    raise failure(error, body, self._stream.sent) from None
                case TruncatedStream():
                    raise errors.ProviderInterrupted from None
            raise

    async def aclose(self) -> None:
        self._stream.close()

    def _read(self, event: Any) -> list[Delta] | None:
        """The deltas of the event; None if it is a sign of life, which is not passed on."""
        try:
            deltas = self._reader.read(event)
        except MalformedAnswer:
            if not self._begun or not is_sign_of_life(getattr(event, "data", event)):
                raise
            self._skipped = True
            return None
        self._begun = True
        if self._skipped and self._reader.last and not self._reader.finished:
            raise TruncatedStream
        return deltas

    async def _whole_answer(self, begin: bytes, read_answer: Callable[[bytes], Completion]) -> StreamChunk:
        """Read a whole answer that begins with these bytes; its end is the last chunk."""
        body = bytearray(begin)
        while block := await self._stream.read():
            body += block
            if len(body) > MAX_ANSWER_BYTES:
                raise MalformedAnswer
        self._whole_body = bytes(body)
        completion = read_answer(self._whole_body)
        self._read_all = self._reader.finished = True
        end: list[Delta] = [Finish(completion.finish_reason)]
        if completion.usage is not None:
            end.append(completion.usage)
        self._last_chunk = StreamChunk(b"", tuple(end), last=True)
        return StreamChunk(b"", tuple(_content_deltas(completion)))

    def _remaining_events(self) -> Sequence[Any]:
        """The events after the last block. Raises TruncatedStream or StopAsyncIteration when there are none left."""
        if not self._read_all:
            self._read_all = True
            return self._splitter.end()
        if not self._reader.finished:
            raise TruncatedStream
        raise StopAsyncIteration


def _content_deltas(completion: Completion) -> Iterator[Delta]:
    for block in completion.reasoning_blocks:
        if block.text:
            yield ReasoningDelta(block.text)
        if block.signature:
            yield ReasoningEnd(block.signature)
    if completion.text and completion.text != completion.refusal:
        yield TextDelta(completion.text)
    if completion.refusal:
        yield RefusalDelta(completion.refusal)
    for number, call in enumerate(completion.tool_calls):
        yield ToolCallDelta(number, call.id, call.name, call.arguments, call.custom)


TEMPLATE_TOKENS_PER_MESSAGE, TEMPLATE_TOKENS_PER_CALL = 4, 3
"""The tokens that a chat template adds, as OpenAI's cookbook counts them ("How to count tokens with tiktoken"). Other
providers do not publish theirs; they are of about the same size.
"""


class TokenCounting:
    """The counting methods of a provider. Only OpenAI's vocabularies are public: for other models, the counts are
    estimates.
    """

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        return None

    async def count_input(self, prepared: PreparedCall) -> int:
        template = TEMPLATE_TOKENS_PER_MESSAGE * prepared.input_size.messages + TEMPLATE_TOKENS_PER_CALL
        images = prepared.input_size.images * prepared.model.image_tokens
        texts = await run_by_size(len(prepared.body), prepared.texts)
        documents = prepared.input_size.pdf_pages * PDF_PAGE_TOKENS
        return await tokenizer.count(prepared.model.upstream_name, texts) + template + images + documents

    async def count_output(self, text: str) -> int:
        return await tokenizer.count(tokenizer.DEFAULT_ENCODING, (text,), output=True)

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        return await tokenizer.truncate(tokenizer.DEFAULT_ENCODING, text, max_tokens)
