"""A call in another API's wire format.

Where the provider speaks the same format, its response is forwarded byte for byte; else a dialect writes it.
"""

import time
from functools import cached_property
from typing import Protocol
from uuid import uuid4

from tollkeeper.api.dependencies import Services
from tollkeeper.chat import Completion, Delta, Usage
from tollkeeper.dialects.response_meta import ResponseMeta, response_meta_of
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.principal import Principal
from tollkeeper.providers.base import StreamChunk

MAX_BODY_BYTES = 20 * 1024 * 1024
"""Enough for pictures."""


class StreamWriter(Protocol):
    """Writes one streamed answer."""

    def write(self, delta: Delta) -> bytes: ...

    def end(self, finish_reason: str, usage: Usage) -> bytes: ...


class Dialect(Protocol):
    """Writes responses in one wire format, and follows a provider's stream that is forwarded. One per exchange."""

    id_prefix: str

    def write_answer(self, completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes: ...

    def stream_writer(self, meta: ResponseMeta) -> StreamWriter: ...

    def follow(self, chunk: StreamChunk) -> None:
        """Note a chunk of the provider's stream that is forwarded."""
        ...

    def end_provider_stream(self, meta: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        """The end of a provider's stream that was cut, from where it stands."""
        ...

    def write_stream_error(self, error: TollkeeperError) -> bytes: ...


class CompatExchange:
    """One call in another API's wire format. `model` is its name in the response; by default that of the request."""

    def __init__(self, call: ModelCall, dialect: Dialect, *, streaming: bool) -> None:
        self.call = call
        self.model = call.model or ""
        self._streaming = streaming
        self._dialect = dialect
        self._writer: StreamWriter | None = None
        self._forwarded: list[bytes] = []
        """The first two chunks that were forwarded. Some servers send their response's id only in the second."""
        self._end: bytes | None = None

    @cached_property
    def _own_meta(self) -> ResponseMeta:
        """The id, model and time of a response that the dialect writes."""
        return ResponseMeta(f"{self._dialect.id_prefix}{uuid4().hex}", self.model, int(time.time()))

    @property
    def _provider_meta(self) -> ResponseMeta:
        """The id, model and time of the provider's stream, for what is added to it."""
        return response_meta_of(b"".join(self._forwarded)) or self._own_meta

    @property
    def streamed(self) -> "CompatExchange | None":
        return self if self._streaming else None

    def render(self, result: CallResult) -> bytes:
        if result.completion.raw is not None:
            return result.completion.raw
        return self._dialect.write_answer(result.completion, self._own_meta, result.usage)

    def render_chunk(self, chunk: StreamChunk) -> bytes:
        if chunk.raw:
            if len(self._forwarded) < 2:
                self._forwarded.append(chunk.raw)
            self._dialect.follow(chunk)
            return chunk.raw
        return b"".join(map(self._stream_writer().write, chunk.deltas))

    def render_end(self, result: CallResult) -> bytes:
        """The provider's own end; written by the dialect for a stream that was cut or is translated.

        It is rendered once, so that the stored response and the sent one are equal.
        """
        if self._end is None:
            self._end = self._render_end(result)
        return self._end

    def _render_end(self, result: CallResult) -> bytes:
        if self._forwarded and not result.outcome.shortened:
            return result.outcome.tail
        finish_reason = result.completion.finish_reason
        if self._forwarded:
            return self._dialect.end_provider_stream(self._provider_meta, finish_reason, result.usage)
        return self._stream_writer().end(finish_reason, result.usage)

    def render_error(self, error: TollkeeperError) -> bytes:
        return self._dialect.write_stream_error(error)

    async def save(self, result: CallResult) -> None:
        """Nothing is stored: these APIs have no conversations on this server."""

    def _stream_writer(self) -> StreamWriter:
        if self._writer is None:
            self._writer = self._dialect.stream_writer(self._own_meta)
        return self._writer


async def name_default_model(services: Services, caller: Principal, exchange: CompatExchange) -> CompatExchange:
    """Name the default model in the response to a request that names none."""
    exchange.model = exchange.model or services.gateway.catalog.default_name
    return exchange
