"""The provider that needs no key and no network: it says back what it was told, one word a token.

Deterministic, with length, pace and failures to be set, so that first runs, tests and load can use it.
"""

import asyncio
from dataclasses import dataclass
from itertools import cycle, islice

import orjson

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Usage
from tollkeeper.providers.base import PreparedCall
from tollkeeper.settings import EchoFailure

NOTHING_SAID = "(nothing)"

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

    def prepare(self, request: ChatRequest) -> PreparedCall:
        texts = tuple(message.content for message in request.messages)
        body = orjson.dumps(texts)
        return PreparedCall(body, len(body), len(texts), texts)

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        words = call.texts[-1].split() or [NOTHING_SAID]
        wanted = self.tokens or len(words)
        answer = list(islice(cycle(words), min(wanted, max_output)))
        seconds = self.delay_s + (len(answer) / self.tokens_per_second if self.tokens_per_second else 0)
        if seconds:
            await asyncio.sleep(seconds)
        if (failure := _FAILURES.get(self.failure)) is not None:
            raise failure
        return Completion(
            text=" ".join(answer),
            finish_reason="length" if wanted > max_output else "stop",
            usage=None if self.failure == "no_usage" else Usage(_words(call.texts), len(answer)),
        )

    async def count_input(self, call: PreparedCall) -> int:
        return _words(call.texts)

    async def count_output(self, text: str) -> int:
        return _words((text,))

    async def cut(self, text: str, tokens: int) -> str:
        return " ".join(text.split()[:tokens])

    async def close(self) -> None:
        """Nothing to close."""


def _words(texts: tuple[str, ...]) -> int:
    return sum(max(1, len(text.split())) for text in texts)
