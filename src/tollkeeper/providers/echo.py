"""The provider without key and network: it returns the last message of the input. One word is one token.

It is deterministic. Length, pace and failures can be set, for first runs, tests and load.

It calls a tool if `tool_choice` requires one or names one, or if a word of the last message is the name of a tool. The
arguments are the smallest that the tool's schema allows; a custom tool receives the last message. The words of a call
are those of its name and its arguments, written as one text. After the result of a tool it answers with that result. A
request for JSON is answered with the smallest value that the schema allows.

Of the input, the words of messages count, with the tool calls and results in them; each message counts at least one.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal, NamedTuple

import msgspec
import orjson

from tollkeeper import errors
from tollkeeper.chat import Completion, Delta, Finish, TextDelta, ToolCall, ToolCallDelta, Usage
from tollkeeper.dialects import embeddings
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, StreamChunk, Wire
from tollkeeper.providers.echo_script import CallHead, Script, last_message, script_of, text_of, words
from tollkeeper.providers.extra_parameters import passed_extra, require_chat_request
from tollkeeper.providers.http_common import input_size_of
from tollkeeper.providers.kind import FREE, ConfiguredProvider, ProviderKind
from tollkeeper.settings import Settings
from tollkeeper.worker_thread import pause, run_by_size

EMPTY_PROMPT_ANSWER = "(nothing)"
DIMENSIONS = 256
MAX_DIMENSIONS = 4_096
MAX_VECTOR_NUMBERS = 1_000_000
"""In all vectors of one call together."""
SLICE_CHARACTERS = 64 * 1024

EchoFailure = Literal[
    "none", "unavailable", "auth_failed", "rate_limited", "rejected", "error", "timeout", "bad_response", "no_usage"
]
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
class _ScriptedCall(PreparedCall):
    """A call whose answer is not the echo."""

    script: Script | None = None


class _Answer(NamedTuple):
    """The words of an answer, each with the space before it. With a `call`, they are its arguments."""

    words: list[str]
    finish_reason: str
    call: CallHead | None = None

    def deltas(self) -> Iterator[Delta]:
        """One delta for each word."""
        call = self.call
        for number, word in enumerate(self.words):
            if call is None:
                yield TextDelta(word)
            elif number == 0:
                yield ToolCallDelta(0, call.id, call.name, word, call.custom)
            else:
                yield ToolCallDelta(0, None, None, word, call.custom)

    def completion(self, usage: Usage | None) -> Completion:
        text = "".join(self.words)
        if self.call is None:
            return Completion(text, self.finish_reason, usage)
        call = ToolCall(self.call.id, self.call.name, text, self.call.custom)
        return Completion("", self.finish_reason, usage, (call,))


@dataclass(frozen=True, slots=True)
class EchoProvider:
    """`tokens` is the length of every echo (0: that of the last message).

    `delay_s` is the time to the first token; then come `tokens_per_second` (0: without a pause). Every call fails with
    `failure`; with "no_usage", the call succeeds and reports no usage.
    """

    tokens: int = 0
    delay_s: float = 0.0
    tokens_per_second: float = 0.0
    failure: EchoFailure = "none"
    name: str = "echo"

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        if call_input.raw is not None and call_input.raw.wire is Wire.EMBEDDINGS:
            passed_extra(model, call_input)
            return _prepare_embeddings(model, call_input.raw)
        chat_request = require_chat_request(model, call_input)
        last = last_message(chat_request)
        texts = (*(text_of(one) for one in chat_request.messages if one is not last), text_of(last))
        pause()
        body, size = orjson.dumps(texts), input_size_of(chat_request)
        if (script := script_of(chat_request, body)) is not None:
            return _ScriptedCall(model, body, b"", size, lambda: texts, script=script)
        return PreparedCall(model, body, b"", size, lambda: texts)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        answer = await run_by_size(len(prepared.body), self._answer, prepared, max_output)
        await self._pause(self.delay_s + self._seconds_per_token * len(answer.words))
        self._fail()
        if prepared.wire is Wire.EMBEDDINGS:
            return await asyncio.to_thread(_embed, prepared)
        usage = None if self.failure == "no_usage" else Usage(await self.count_input(prepared), len(answer.words))
        return answer.completion(usage)

    async def stream(self, prepared: PreparedCall, max_output: int) -> AsyncGenerator[StreamChunk]:
        answer = await run_by_size(len(prepared.body), self._answer, prepared, max_output)
        await self._pause(self.delay_s)
        self._fail()
        for delta in answer.deltas():
            await self._pause(self._seconds_per_token)
            yield StreamChunk(b"", (delta,))
        yield StreamChunk(b"", (Finish(answer.finish_reason),))
        if self.failure != "no_usage":
            yield StreamChunk(b"", (Usage(await self.count_input(prepared), len(answer.words)),), last=True)

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        return await self.count_input(prepared)

    async def count_input(self, prepared: PreparedCall) -> int:
        return await run_by_size(len(prepared.body), lambda: _count_words(prepared.texts()))

    async def count_output(self, text: str) -> int:
        return len(text.split())

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        return " ".join(text.split()[:max_tokens])

    async def close(self) -> None:
        """Does nothing: there is no connection."""

    def _answer(self, prepared: PreparedCall, max_output: int) -> _Answer:
        script = prepared.script if isinstance(prepared, _ScriptedCall) else None
        if script is not None and script.pieces is not None:
            pieces, length = list(script.pieces[:max_output]), len(script.pieces)
        else:
            texts = prepared.texts()
            prompt = list(islice(words(texts[-1] if texts else ""), max_output)) or [EMPTY_PROMPT_ANSWER]
            length = self.tokens or _count_words(texts[-1:] or ("",))
            echo = list(islice(cycle(prompt), min(length, max_output)))
            pieces = [*echo[:1], *(f" {word}" for word in echo[1:])]
        call = script.call if script is not None else None
        whole = "stop" if call is None else "tool_calls"
        return _Answer(pieces, "length" if length > max_output else whole, call)

    @property
    def _seconds_per_token(self) -> float:
        return 1 / self.tokens_per_second if self.tokens_per_second else 0

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds)

    def _fail(self) -> None:
        if (failure := _FAILURES.get(self.failure)) is not None:
            raise failure


def _count_words(texts: tuple[str, ...]) -> int:
    return sum(max(1, _words_in(text)) for text in texts)


def _words_in(text: str) -> int:
    """The number of words, counted in slices: a split of a long text would keep all other threads waiting."""
    count, follows_space = 0, True
    for start in range(0, len(text), SLICE_CHARACTERS):
        pause()
        part = text[start : start + SLICE_CHARACTERS]
        count += len(part.split()) - (not follows_space and not part[0].isspace())
        follows_space = part[-1].isspace()
    return count


def _prepare_embeddings(model: Model, raw: RawRequest) -> PreparedCall:
    body = b"{" + b",".join(orjson.dumps(name) + b":" + value for name, value in raw.fields.items()) + b"}"
    items = embeddings.read_input({"input": msgspec.Raw(raw.fields["input"])}).items
    texts = tuple(one if isinstance(one, str) else " ".join(map(str, one)) for one in items)
    return PreparedCall(model, body, None, raw.input_size, lambda: texts, Wire.EMBEDDINGS, raw=True)


def _embed(prepared: PreparedCall) -> Completion:
    fields = orjson.loads(prepared.body)
    dimensions = fields.get("dimensions", DIMENSIONS)
    if type(dimensions) is not int or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise errors.ProviderRejected
    texts = prepared.texts()
    if len(texts) * dimensions > MAX_VECTOR_NUMBERS:
        raise errors.ProviderRejected
    usage = Usage(_count_words(texts), 0)
    vectors = [_embed_text(text, dimensions) for text in texts]
    meta = ResponseMeta("", prepared.model.name, 0)
    raw = embeddings.write_answer(vectors, meta, usage, fields.get("encoding_format", "float"))
    return Completion("", "stop", usage, raw=raw)


def _embed_text(text: str, dimensions: int) -> list[float]:
    """A unit vector by feature hashing: the sum of a vector for each word. Texts that share words are similar."""
    sums = [0.0] * dimensions
    for word in text.lower().split() or [EMPTY_PROMPT_ANSWER]:
        digest = hashlib.sha256(word.encode()).digest()
        for at in range(0, 32, 4):
            number = int.from_bytes(digest[at : at + 4], "big")
            sums[number % dimensions] += 1.0 if number & 0x80000000 else -1.0
    length = math.sqrt(sum(value * value for value in sums)) or 1.0
    return [value / length for value in sums]


def make_echo(settings: Settings, name: str = "echo") -> ConfiguredProvider:
    """An echo provider as the settings describe it. Its only model without a catalog entry has the provider's name."""
    provider = EchoProvider(
        tokens=settings.echo_tokens,
        delay_s=settings.echo_delay_seconds,
        tokens_per_second=settings.echo_tokens_per_second,
        failure=settings.echo_failure,
        name=name,
    )
    return ConfiguredProvider(provider, price=FREE, default_model=name, only_default=True)


KIND = ProviderKind("echo", lambda options, settings: make_echo(settings, options.name), behind_breaker=False)
