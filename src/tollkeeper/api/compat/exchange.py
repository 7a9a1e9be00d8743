"""A call on a wire that others have made: passed on as it came where the provider speaks it too, else translated."""

import re
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol
from uuid import uuid4

import msgspec

from tollkeeper.api import strict_json
from tollkeeper.chat import ChatRequest, Completion, Delta, Usage
from tollkeeper.dialects.response_meta import ResponseMeta, response_meta_of
from tollkeeper.errors import InvalidJson, InvalidRequest, TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.providers.base import StreamChunk

MAX_BODY_BYTES = 20 * 1024 * 1024
"""With pictures in it."""
MAX_TOKENS = 10_000_000
_NAME = re.compile(r"\S{1,200}")


class Writer(Protocol):
    """Writes one streamed answer."""

    def write(self, delta: Delta) -> bytes: ...

    def end(self, finish_reason: str, usage: Usage) -> bytes: ...


class Dialect(Protocol):
    """What a visit needs of a wire."""

    id_prefix: str

    def read_request(self, document: dict[str, Any]) -> ChatRequest: ...

    def write_answer(self, completion: Completion, head: ResponseMeta, usage: Usage) -> bytes: ...

    def writer(self, head: ResponseMeta) -> Writer: ...

    def follow(self, piece: StreamChunk) -> None:
        """The provider's own words went out."""
        ...

    def end_theirs(self, head: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        """End what the provider began and did not end, from where it stands."""
        ...

    def write_stream_error(self, error: TollkeeperError) -> bytes: ...


class CompatExchange:
    """One call. What has come as it is goes out as it is; the rest is said by the dialect."""

    def __init__(self, ask: ModelCall, dialect: Dialect, model: str, *, streaming: bool) -> None:
        self.ask = ask
        self._streaming = streaming
        self._dialect = dialect
        self._model = model
        self._writer: Writer | None = None
        self._passed_on: list[bytes] = []
        """The first of what came and went out as it is. Some servers say who they are with their second word."""
        self._ended: bytes | None = None

    @cached_property
    def _head(self) -> ResponseMeta:
        """Of an answer in our words."""
        return ResponseMeta(f"{self._dialect.id_prefix}{uuid4().hex}", self._model, int(time.time()))

    @property
    def _their_head(self) -> ResponseMeta:
        """Of what the provider began, for what is added to it."""
        return response_meta_of(b"".join(self._passed_on)) or self._head

    @property
    def streamed(self) -> "CompatExchange | None":
        return self if self._streaming else None

    def whole(self, answer: CallResult) -> bytes:
        if answer.completion.raw is not None:
            return answer.completion.raw
        return self._dialect.write_answer(answer.completion, self._head, answer.usage)

    def piece(self, piece: StreamChunk) -> bytes:
        if piece.raw:
            if len(self._passed_on) < 2:
                self._passed_on.append(piece.raw)
            self._dialect.follow(piece)
            return piece.raw
        return b"".join(map(self._open().write, piece.deltas))

    def end(self, answer: CallResult) -> bytes:
        """As the provider ended it; but where it was cut, or is translated, as the dialect ends it.

        A stream ends once: said again, to be kept, it is what was said.
        """
        if self._ended is None:
            self._ended = self._end(answer)
        return self._ended

    def _end(self, answer: CallResult) -> bytes:
        if self._passed_on and not answer.outcome.shortened:
            return answer.outcome.tail
        if self._passed_on:
            return self._dialect.end_theirs(self._their_head, answer.completion.finish_reason, answer.usage)
        return self._open().end(answer.completion.finish_reason, answer.usage)

    def broken(self, error: TollkeeperError) -> bytes:
        return self._dialect.write_stream_error(error)

    async def remember(self, answer: CallResult) -> None:
        """Others' wires have no conversations here."""

    def _open(self) -> Writer:
        if self._writer is None:
            self._writer = self._dialect.writer(self._head)
        return self._writer


_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of a body, each still in JSON; one that is null counts as absent. Raises InvalidJson."""
    strict_json.check(body)
    try:
        fields = _decode(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The body is not a JSON object.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidJson from None
    return {name: value for name, value in fields.items() if bytes(value) != b"null"}


def text(fields: Mapping[str, msgspec.Raw], name: str) -> str | None:
    """A field that is a name. Raises InvalidRequest when it is something else."""
    value: str | None = _one(fields, name, str, "a string")
    if value is not None and not _NAME.fullmatch(value):
        raise InvalidRequest(f"{name} must be 1 to 200 characters without white space.", parameter=name)
    return value


def number(fields: Mapping[str, msgspec.Raw], name: str, most: int = MAX_TOKENS) -> int | None:
    """A field that is a whole number of 1 or more. Raises InvalidRequest when it is something else."""
    value: int | None = _one(fields, name, int, "an integer")
    if value is not None and not 1 <= value <= most:
        raise InvalidRequest(f"{name} must be from 1 to {most}.", parameter=name)
    return value


def flag(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    """A field that is true or false. Raises InvalidRequest when it is something else."""
    return bool(_one(fields, name, bool, "true or false"))


def _one(fields: Mapping[str, msgspec.Raw], name: str, kind: type[Any], described: str) -> Any:
    if name not in fields:
        return None
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except msgspec.MsgspecError:
        raise InvalidRequest(f"{name} must be {described}.", parameter=name) from None
