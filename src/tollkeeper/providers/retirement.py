"""Providers that were replaced: they are kept for their calls in flight, and closed later."""

import time
from collections.abc import Callable

from tollkeeper.providers.base import Provider

RETIRED_S = 10_800
"""How long a replaced provider is kept: longer than any call can take."""


class Retirement:
    """The providers that no new call gets. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._retired: list[tuple[float, Provider]] = []

    def add(self, provider: Provider) -> None:
        """Keep a provider that was replaced."""
        self._retired.append((self._now(), provider))

    async def close(self, *, older_than_s: float = RETIRED_S) -> None:
        """Close the providers that were replaced so long ago that no call uses them."""
        limit = self._now() - older_than_s
        closable = [provider for at, provider in self._retired if at <= limit]
        self._retired = [(at, provider) for at, provider in self._retired if at > limit]
        for provider in closable:
            await provider.close()
