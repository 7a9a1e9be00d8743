"""A circuit breaker: a provider that is down is not asked, until it may have come back."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from math import ceil

from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.providers.base import Model, Piece, PreparedCall, Provider, Question

_DOWN = (
    errors.ProviderUnavailable,
    errors.ProviderFailed,
    errors.ProviderTimeout,
    errors.ProviderInterrupted,
)
"""Failures that say that the provider, and not the call, is at fault."""
_UP = (errors.ProviderRateLimited, errors.ProviderRejected, errors.ProviderAuthFailed)
"""Failures that only someone can tell who is there. A key may be good for one model, and not for another."""

NEARLY = 0.9
"""Whoever gives up a stream began to wait a little before it was asked."""


class Guarded:
    """A provider behind a breaker.

    After `failures` in a row it is open for `seconds`: calls fail at once with ProviderUnavailable, which is not
    billed. Then one call in each such time is let through, until one succeeds. A stream that is given up after
    `patience_s` without a piece counts as a failure. `now` is a clock in seconds that never goes back.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        failures: int,
        seconds: float,
        patience_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = provider.name
        self.provider = provider
        self._most = failures
        self._seconds = seconds
        self._patience_s = patience_s * NEARLY
        self._now = now
        self._failures = 0
        self._next_probe = 0.0

    def prepare(self, model: Model, question: Question, *, stream: bool = False) -> PreparedCall:
        return self.provider.prepare(model, question, stream=stream)

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        probing = self._failures >= self._most and self._probe()
        try:
            completion = await self.provider.complete(call, max_output)
        except errors.ProviderError as error:
            self._failed(error, probing=probing)
            raise
        except BaseException:
            self._left(probing=probing)
            raise
        self._failures = 0
        return completion

    async def stream(self, call: PreparedCall, max_output: int) -> AsyncGenerator[Piece]:
        """With the first piece it has succeeded, whatever comes after."""
        probing = self._failures >= self._most and self._probe()
        begun, started = False, self._now()
        try:
            async with aclosing(self.provider.stream(call, max_output)) as pieces:
                async for piece in pieces:
                    if not begun:
                        begun, self._failures = True, 0
                    yield piece
        except errors.ProviderError as error:
            if not begun:
                self._failed(error, probing=probing)
            raise
        except BaseException:
            if not begun and self._now() - started >= self._patience_s:
                self._failed(errors.ProviderTimeout(), probing=probing)
            elif not begun:
                self._left(probing=probing)
            raise

    async def bound_input(self, call: PreparedCall) -> int | None:
        return await self.provider.bound_input(call)

    async def count_input(self, call: PreparedCall) -> int:
        return await self.provider.count_input(call)

    async def count_output(self, text: str) -> int:
        return await self.provider.count_output(text)

    async def cut(self, text: str, tokens: int) -> str:
        return await self.provider.cut(text, tokens)

    async def close(self) -> None:
        await self.provider.close()

    def _probe(self) -> bool:
        """Whether this call may try; another may when it has not answered in time. Raises ProviderUnavailable."""
        now = self._now()
        if now < self._next_probe:
            raise errors.ProviderUnavailable(retry_after_s=ceil(self._next_probe - now))
        self._next_probe = now + self._seconds
        return True

    def _failed(self, error: errors.ProviderError, *, probing: bool) -> None:
        """Calls that were out when it opened change nothing when they fail too."""
        if isinstance(error, _UP):
            self._failures = 0
        elif not isinstance(error, _DOWN):
            self._left(probing=probing)
        elif probing or self._failures < self._most:
            self._failures = min(self._failures + 1, self._most)
            self._next_probe = self._now() + self._seconds

    def _left(self, *, probing: bool) -> None:
        """The call said nothing of the provider: its caller hung up, or the answer made no sense."""
        if probing:
            self._next_probe = self._now()
