"""A streamed answer of a provider with an HTTP API, as chunks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from tollkeeper import errors
from tollkeeper.chat import (
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
from tollkeeper.providers.base import SIGN_OF_LIFE, StreamChunk
from tollkeeper.providers.http_common import failure
from tollkeeper.providers.transport import MAX_ANSWER_BYTES, ResponseStream


class Splitter(Protocol):
    """Splits a stream into events or lines. `end` returns the last ones; it raises TruncatedStream inside an event."""

    def feed(self, block: bytes) -> Sequence[Any]: ...

    def end(self) -> Sequence[Any]: ...


class StreamReader(Protocol):
    """Reads the events of one stream.

    `last`: the event just read ends the answer; `finished`: the answer is whole; `alone`: the event just read must not
    be in one chunk with others.
    """

    last: bool
    finished: bool
    alone: bool

    def read(self, event: Any) -> list[Delta]: ...


_END_DELTAS = (Finish, InconsistentUsage, InputTokens, Usage)
"""The deltas that have no content of the answer."""


MAX_BLOCK_BYTES = 32 * 1024
"""How many bytes are split into events before other tasks have their turn."""
SKIPPED_EVENT_BYTES = 64
"""What an event that is skipped counts for, beside its size: a provider may send many small ones."""
MAX_MERGED_BYTES = 8 * 1024
"""How many bytes of events that arrived together are one chunk. The output limit is checked between chunks."""


class ProviderStream:
    """The answer of a provider as a ChunkStream; with `raw`, each chunk with the events' own bytes.

    The events that have arrived together are one chunk, up to MAX_MERGED_BYTES. An error closes the connection. The
    last event is a chunk of its own, without content: it is not delivered to callers for whom the stream is translated.
    Some servers send a whole answer in JSON where a stream was requested: `read_answer` reads it, and its chunks have
    no bytes of their own.
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
        self._next_chunk: StreamChunk | None = None
        self._failure: BaseException | None = None
        """The error of an event that arrived together with others: it is raised after their chunk."""
        self._whole_body = b""
        self._unsplit = b""
        """What was received and is not split into events yet."""

    def __aiter__(self) -> "ProviderStream":
        return self

    async def __anext__(self) -> StreamChunk:
        """Raises ProviderError, also for a stream that ends before its answer does."""
        if (prepared := self._next_chunk) is not None:
            self._next_chunk = None
            return prepared
        if self._failure is not None:
            raise self._failure
        try:
            while (chunk := self._merge_events()) is None:
                block = b"" if self._read_all else await self._next_block()
                if self._read_answer is not None and (begin := block.lstrip()):
                    if begin.startswith(b"{"):
                        return await self._whole_answer(block, self._read_answer)
                    self._read_answer = None
                events = self._splitter.feed(block) if block else self._remaining_events()
                if block and not events:
                    return SIGN_OF_LIFE
                self._events = iter(events)
        except BaseException as error:
            self._stream.close()
            failed = self._provider_error(error, self._whole_body)
            if failed is None:
                raise
            raise failed from (error if isinstance(error, MalformedAnswer) else None)
        return chunk

    async def _next_block(self) -> bytes:
        """What was received, at most MAX_BLOCK_BYTES at once; empty at the end."""
        block = self._unsplit or await self._stream.read()
        self._unsplit = block[MAX_BLOCK_BYTES:]
        return block[:MAX_BLOCK_BYTES]

    def _merge_events(self) -> StreamChunk | None:
        """A chunk of the next events that have arrived; None if there are none. Raises ProviderError."""
        raws: list[bytes] = []
        deltas: list[Delta] = []
        size, seen = 0, False
        for event in self._events:
            seen = True
            data = getattr(event, "data", event)
            try:
                read = self._read(event)
            except Exception as error:
                failed = self._provider_error(error, data) or error
                if not raws:
                    raise failed from None
                self._stream.close()
                self._failure = failed
                break
            if read is None:
                size += len(data) + SKIPPED_EVENT_BYTES
                if size > MAX_MERGED_BYTES:
                    break
                continue
            if self._reader.last:
                return self._end(event, read, raws, deltas)
            if self._reader.alone:
                return self._after(raws, deltas, StreamChunk(event.raw if self._raw else b"", tuple(read)))
            raws.append(event.raw if self._raw else b"")
            deltas += read
            size += len(data)
            if size > MAX_MERGED_BYTES:
                break
        if not raws:
            return SIGN_OF_LIFE if seen else None
        return StreamChunk(b"".join(raws), tuple(deltas), events=len(raws))

    def _end(self, event: Any, read: list[Delta], raws: list[bytes], deltas: list[Delta]) -> StreamChunk:
        """A chunk of an event that belongs to the end of the answer; before it, one of what has arrived with it."""
        if self._raw:
            end = StreamChunk(event.raw, tuple(read), last=True)
        else:
            content = [one for one in read if not isinstance(one, _END_DELTAS)]
            end = StreamChunk(b"", tuple([one for one in read if isinstance(one, _END_DELTAS)]), last=True)
            if content:
                raws.append(b"")
                deltas += content
        return self._after(raws, deltas, end)

    def _after(self, raws: list[bytes], deltas: list[Delta], chunk: StreamChunk) -> StreamChunk:
        """A chunk of the events so far, after which `chunk` is the next one; `chunk`, if there are none."""
        if not raws:
            return chunk
        self._next_chunk = chunk
        return StreamChunk(b"".join(raws), tuple(deltas), events=len(raws))

    def _provider_error(self, error: BaseException, body: bytes) -> errors.ProviderError | None:
        """The ProviderError for an error that was found in `body`; None for others."""
        match error:
            case MalformedAnswer():
                return errors.ProviderBadResponse()
            case ProviderSentError():
                return failure(error, body, self._stream.sent)
            case TruncatedStream():
                return errors.ProviderInterrupted()
        return None

    async def aclose(self) -> None:
        self._stream.close()

    def _read(self, event: Any) -> list[Delta] | None:
        """The deltas of the event; None if it is a sign of life, which is not passed on."""
        data = getattr(event, "data", event)
        may_be_text = self._begun and not data.startswith((b"{", b"[")) and getattr(event, "name", b"") != b"error"
        if may_be_text and is_sign_of_life(data):  # decoding it would cost much more
            self._skipped = True
            return None
        try:
            deltas = self._reader.read(event)
        except MalformedAnswer:
            if not self._begun or not is_sign_of_life(data):
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
        while block := await self._next_block():
            body += block
            if len(body) > MAX_ANSWER_BYTES:
                raise MalformedAnswer
        self._whole_body = bytes(body)
        completion = read_answer(self._whole_body)
        self._read_all = self._reader.finished = True
        end: list[Delta] = [Finish(completion.finish_reason)]
        if completion.usage is not None:
            end.append(completion.usage)
        self._next_chunk = StreamChunk(b"", tuple(end), last=True)
        return StreamChunk(b"", tuple(content_deltas(completion)))

    def _remaining_events(self) -> Sequence[Any]:
        """The events after the last block. Raises TruncatedStream or StopAsyncIteration when there are none left."""
        if not self._read_all:
            self._read_all = True
            return self._splitter.end()
        if not self._reader.finished:
            raise TruncatedStream
        raise StopAsyncIteration


def content_deltas(completion: Completion) -> Iterator[Delta]:
    """The content of a whole answer, as the deltas of a stream."""
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
