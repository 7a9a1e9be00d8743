"""The provider that needs no key and no network: it says back what it was told, one word a token.

Deterministic, with length, pace and failures to be set, so that first runs, tests and load can use it.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import cycle, islice

import msgspec
import orjson

from tollkeeper import errors
from tollkeeper.chat import Completion, Finish, TextDelta, Usage
from tollkeeper.dialects import embeddings
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, StreamChunk, Wire
from tollkeeper.providers.http_common import shape_of_request
from tollkeeper.settings import EchoFailure

NOTHING_SAID = "(nothing)"
DIMENSIONS = 256
MAX_DIMENSIONS = 4_096
MAX_NUMBERS = 1_000_000
"""In all vectors of one call."""

_FAILURES: dict[EchoFailure, type[errors.ProviderError]] = {
    "unavailable": errors.ProviderUnavailable,
    "auth_failed": errors.ProviderAuthFailed,
    "rate_limited": errors.ProviderRateLimited,
    "rejected": errors.ProviderRejected,
    "error": errors.ProviderFailed,
    "timeout": errors.ProviderTimeout,
    "bad_response": errors.ProviderBadResponse,
}


@dataclass(frozen=True, slots=True)
class EchoProvider:
    """`tokens` is the length of every answer (0: that of the prompt); `delay_s` and `tokens_per_second` its pace."""

    tokens: int = 0
    delay_s: float = 0.0
    tokens_per_second: float = 0.0
    failure: EchoFailure = "none"
    name: str = "echo"

    def prepare(self, model: Model, question: CallInput, *, stream: bool = False) -> PreparedCall:
        if question.raw is not None and question.raw.wire is Wire.EMBEDDINGS:
            return _prepared_embeddings(model, question.raw)
        if question.choices > 1:
            raise refusal("n")
        request = question.request
        texts = tuple(message.text for message in request.messages)
        return PreparedCall(model, orjson.dumps(texts), b"", shape_of_request(request), lambda: texts)

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        words, reason = self._answer(call, max_output)
        await self._pause(self.delay_s + self._pace_s * len(words))
        self._fail()
        if call.wire is Wire.EMBEDDINGS:
            return await asyncio.to_thread(_embedded, call)
        usage = None if self.failure == "no_usage" else Usage(_words(call.texts()), len(words))
        return Completion("".join(words), reason, usage)

    async def stream(self, call: PreparedCall, max_output: int) -> AsyncGenerator[StreamChunk]:
        words, reason = self._answer(call, max_output)
        await self._pause(self.delay_s)
        self._fail()
        for word in words:
            await self._pause(self._pace_s)
            yield StreamChunk(b"", (TextDelta(word),))
        yield StreamChunk(b"", (Finish(reason),))
        if self.failure != "no_usage":
            yield StreamChunk(b"", (Usage(_words(call.texts()), len(words)),), last=True)

    async def bound_input(self, call: PreparedCall) -> int | None:
        return _words(call.texts())

    async def count_input(self, call: PreparedCall) -> int:
        return _words(call.texts())

    async def count_output(self, text: str) -> int:
        return len(text.split())

    async def cut(self, text: str, tokens: int) -> str:
        return " ".join(text.split()[:tokens])

    async def close(self) -> None:
        """Nothing to close."""

    def _answer(self, call: PreparedCall, max_output: int) -> tuple[list[str], str]:
        """The words, the space before each included, and why they end."""
        texts = call.texts()
        words = (texts[-1].split() if texts else []) or [NOTHING_SAID]
        wanted = self.tokens or len(words)
        said = list(islice(cycle(words), min(wanted, max_output)))
        return [*said[:1], *(f" {word}" for word in said[1:])], "length" if wanted > max_output else "stop"

    @property
    def _pace_s(self) -> float:
        return 1 / self.tokens_per_second if self.tokens_per_second else 0

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds)

    def _fail(self) -> None:
        if (failure := _FAILURES.get(self.failure)) is not None:
            raise failure


def _words(texts: tuple[str, ...]) -> int:
    return sum(max(1, len(text.split())) for text in texts)


def _prepared_embeddings(model: Model, raw: RawRequest) -> PreparedCall:
    body = b"{" + b",".join(orjson.dumps(name) + b":" + value for name, value in raw.fields.items()) + b"}"
    inputs = embeddings.read_inputs({"input": msgspec.Raw(raw.fields["input"])})
    texts = tuple(one if isinstance(one, str) else " ".join(map(str, one)) for one in inputs.each)
    return PreparedCall(model, body, None, raw.input_size, lambda: texts, Wire.EMBEDDINGS, raw=True)


def _embedded(call: PreparedCall) -> Completion:
    asked = orjson.loads(call.body)
    dimensions = asked.get("dimensions", DIMENSIONS)
    if type(dimensions) is not int or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise errors.ProviderRejected
    if len(call.texts()) * dimensions > MAX_NUMBERS:
        raise errors.ProviderRejected
    usage = Usage(_words(call.texts()), 0)
    vectors = [_vector(text, dimensions) for text in call.texts()]
    head = ResponseMeta("", call.model.name, 0)
    raw = embeddings.write_answer(vectors, head, usage, asked.get("encoding_format", "float"))
    return Completion("", "stop", usage, raw=raw)


def _vector(text: str, dimensions: int) -> list[float]:
    """Each word points somewhere of its own; a text is where its words point together (feature hashing)."""
    sums = [0.0] * dimensions
    for word in text.lower().split() or [NOTHING_SAID]:
        digest = hashlib.sha256(word.encode()).digest()
        for at in range(0, 32, 4):
            number = int.from_bytes(digest[at : at + 4], "big")
            sums[number % dimensions] += 1.0 if number & 0x80000000 else -1.0
    length = math.sqrt(sum(value * value for value in sums)) or 1.0
    return [value / length for value in sums]
