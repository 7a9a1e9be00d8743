"""A loop on which waiting takes no time: where nothing else is to be done, its clock jumps to what comes next."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Jumping(selectors.SelectSelector):
    """Skips what it would have waited for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it on such a loop, beginning at 0 s. It must wait for nothing but time."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(coroutine)
