"""What the providers that are reached over HTTP have in common."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import orjson

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Delta, Finish, InputTokens, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.reading import BadAnswer, ProviderSaidError, Unfinished
from tollkeeper.providers import tokenizer
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, StreamChunk
from tollkeeper.providers.transport import Stream


def body_of(raw: RawRequest, ours: dict[str, object], limit_name: str | None) -> tuple[bytes, bytes | None]:
    """A request that goes out as it came, but for our own fields: what stands before the output limit, and after."""
    fields = [orjson.dumps(name) + b":" + value for name, value in raw.fields.items()]
    fields += [orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in ours.items()]
    body = b"{" + b",".join(fields)
    return (body + b"}", None) if limit_name is None else (body + b',"' + limit_name.encode() + b'":', b"}")


def opened(document: dict[str, object], limit_name: str) -> tuple[bytes, bytes]:
    """A document of ours, before the output limit and after."""
    return orjson.dumps(document)[:-1] + b',"' + limit_name.encode() + b'":', b"}"


def refuse_sampling(model: Model, names: Iterable[str], sampling: frozenset[str]) -> None:
    """Raises UnsupportedParameter for one of the `sampling` parameters that the model does not take."""
    if model.sampling is None:
        return
    for name in names:
        if name in sampling and name not in model.sampling:
            raise refusal(name)


def shape_of_request(request: ChatRequest) -> InputSize:
    """What bounds the input of a request in our nouns."""
    pictures = request.pictures
    image_bytes = sum(len(picture.url.partition(",")[2]) for picture in pictures if picture.url.startswith("data:"))
    return InputSize(len(request.messages), len(pictures), image_bytes, bool(request.options.tools))


def texts_of(question: CallInput) -> Callable[[], tuple[str, ...]]:
    """What a tokenizer has to count. Of a request that goes out as it came that is all text in it, known or not."""
    raw = question.raw
    return (lambda: question.request.texts) if raw is None else (lambda: tuple(_texts_in(raw)))


_READ = frozenset(
    {"messages", "input", "system", "instructions", "tools", "functions", "response_format", "text", "output_config"}
)
"""The fields whose content a model reads."""
_GRAMMAR = frozenset(
    {"role", "content", "type", "text", "id", "name", "function", "input", "image_url", "url", "source"}
)
"""Keys that make up a request, and are not part of what the model reads."""
_NAMES, MAX_NAME_LENGTH = frozenset({"role", "type"}), 32
_PICTURES = frozenset({"image_url", "input_image", "image"})
_OF_A_PICTURE = frozenset({"type", "image_url", "source", "detail", "cache_control"})
_FREE = frozenset({"input", "arguments", "input_schema", "parameters", "schema", "json_schema"})
"""Under these keys an object is whatever someone has written: nothing in it is a picture."""


def _texts_in(raw: RawRequest) -> Iterator[str]:
    """Every string but those that hold pictures, every number, and every key that someone has chosen."""
    found: list[tuple[Any, bool]] = [
        (orjson.loads(value), False) for name, value in raw.fields.items() if name in _READ
    ]
    while found:
        value, free = found.pop()
        match value:
            case str():
                yield value
            case list():
                found += [(one, free) for one in value]
            case dict():
                yield from value.keys() - _GRAMMAR
                if free or str(value.get("type")) not in _PICTURES or value.keys() - _OF_A_PICTURE:
                    found += [
                        (one, free or (key in _FREE and isinstance(one, dict)))
                        for key, one in value.items()
                        if key not in _NAMES or not isinstance(one, str) or len(one) > MAX_NAME_LENGTH
                    ]
            case int() | float() if not isinstance(value, bool):
                yield str(value)


@contextmanager
def reading() -> Iterator[None]:
    """Reading a whole answer, whose faults are the provider's."""
    try:
        yield
    except BadAnswer as error:
        raise errors.ProviderBadResponse from error


class Splitter(Protocol):
    """Cuts a stream into events, or lines. `end` gives what is left; it raises Unfinished."""

    def feed(self, block: bytes) -> Sequence[Any]: ...

    def end(self) -> Sequence[Any]: ...


class Reader(Protocol):
    """Reads one stream, an event at a time. `last` says of the event just read that it ends the answer."""

    last: bool
    finished: bool

    def read(self, event: Any) -> list[Delta]: ...


_UNSAID = (Finish, InputTokens, Usage)
"""What is told of an answer beside its words."""


class ProviderStream:
    """A provider's answer as it comes, an event a piece; with `raw`, each as it is. What breaks it hangs up.

    Words that come with the end are a piece of their own before it: the end itself is not heard where it is translated.
    """

    def __init__(self, stream: Stream, splitter: Splitter, reader: Reader, *, raw: bool) -> None:
        self._stream = stream
        self._splitter = splitter
        self._reader = reader
        self._raw = raw
        self._events: Iterator[Any] = iter(())
        self._read_all = False
        self._ending: StreamChunk | None = None

    def __aiter__(self) -> "ProviderStream":
        return self

    async def __anext__(self) -> StreamChunk:
        """Raises ProviderError, also for a missing end."""
        if self._ending is not None:
            ending, self._ending = self._ending, None
            return ending
        try:
            while (event := next(self._events, None)) is None:
                block = b"" if self._read_all else await self._stream.read()
                self._events = iter(self._splitter.feed(block) if block else self._left())
            deltas = self._reader.read(event)
            if (
                self._reader.last
                and not self._raw
                and (said := [one for one in deltas if not isinstance(one, _UNSAID)])
            ):
                self._ending = StreamChunk(b"", tuple([one for one in deltas if isinstance(one, _UNSAID)]), last=True)
                return StreamChunk(b"", tuple(said))
            return StreamChunk(event.raw if self._raw else b"", tuple(deltas), self._reader.last)
        except BaseException as error:
            self._stream.close()
            match error:
                case BadAnswer():
                    raise errors.ProviderBadResponse from error
                case ProviderSaidError():
                    raise errors.ProviderFailed from None
                case Unfinished():
                    raise errors.ProviderInterrupted from None
            raise

    async def aclose(self) -> None:
        self._stream.close()

    def _left(self) -> Sequence[Any]:
        """What there is still, when no block comes any more. Raises StopAsyncIteration when that was said too."""
        if not self._read_all:
            self._read_all = True
            return self._splitter.end()
        if not self._reader.finished:
            raise Unfinished
        raise StopAsyncIteration


TEMPLATE_PER_MESSAGE, TEMPLATE_PER_CALL = 4, 3
"""What a chat template adds, as OpenAI's cookbook counts it ("How to count tokens with tiktoken"). Others' are not
public, and much like it."""


class TokenCounting:
    """Counts with the vocabularies at hand. Only OpenAI's are known; for others it is the best that can be had."""

    async def bound_input(self, call: PreparedCall) -> int | None:
        return None

    async def count_input(self, call: PreparedCall) -> int:
        template = TEMPLATE_PER_MESSAGE * call.input_size.messages + TEMPLATE_PER_CALL
        images = call.input_size.images * call.model.image_tokens
        return await tokenizer.count(call.model.upstream_name, call.texts()) + template + images

    async def count_output(self, text: str) -> int:
        return await tokenizer.count(tokenizer.BEST_AT_HAND, (text,), output=True)

    async def cut(self, text: str, tokens: int) -> str:
        return await tokenizer.cut(tokenizer.BEST_AT_HAND, text, tokens)
