"""The steps of moderation on the path of a call. Without rules for a call, each of them does nothing."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from tollkeeper.errors import ProviderError
from tollkeeper.gateway.call_guard import CallGuard
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.listener import Listener
from tollkeeper.gateway.moderated_stream import ModeratedListener
from tollkeeper.gateway.moderator import Moderator
from tollkeeper.gateway.results import CallResult, Outcome
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.operations import Replayed


class GuardedCalls:
    """Moderates the calls of a gateway. `ping_s`: a client that can be sent nothing yet is sent a sign of life. It has
    `total_s` to take what was held back of an answer.
    """

    def __init__(self, moderator: Moderator, *, ping_s: float, total_s: float) -> None:
        self._moderator = moderator
        self._ping_s = ping_s
        self._total_s = total_s

    def listener_for(self, guard: CallGuard | None, listener: Listener | None) -> Listener | None:
        """What receives the provider's stream: the listener, or what checks the stream before it."""
        if guard is None or listener is None or not guard.policy.holds_back:
            return listener
        return ModeratedListener(listener, guard, ping_s=self._ping_s)

    async def admit(self, record: CallRecord, guard: CallGuard | None, reservation: Reservation) -> None:
        """Let the input of a reserved call through. Raises ContentBlocked, ModerationUnavailable: it costs nothing."""
        if guard is None:
            return
        reservation.is_unsent = True
        await self._moderator.admit(record, guard)
        reservation.is_unsent = False

    async def finish(
        self, record: CallRecord, guard: CallGuard | None, listener: Listener | None, call: Awaitable[Outcome]
    ) -> Outcome:
        """Await the provider's answer, which `listener` receives, and let through what may be sent of it.

        Raises what the call raises; ContentBlocked, ModerationUnavailable.
        """
        if guard is None:
            return await call
        if not isinstance(listener, ModeratedListener):
            return await self._moderator.check_answer(record, guard, await call)
        try:
            outcome = await call
        except ProviderError:
            await listener.flush()
            raise
        return await listener.finish(outcome, partial(self._moderator.judge, record, guard), self._total_s)

    async def end_stream(self, guard: CallGuard | None) -> None:
        """Send the end of a stream in which something was put back."""
        if guard is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._total_s):
                    await guard.end_stream()


def restored(guard: CallGuard | None, outcome: Outcome) -> Outcome:
    """The outcome with the caller's own values in place of their placeholders."""
    if guard is None or not guard.placeholders:
        return outcome
    read = outcome.read
    return outcome._replace(read=lambda: guard.restored(read()))


def restored_result(guard: CallGuard | None, result: CallResult | Replayed) -> CallResult | Replayed:
    """The result with its outcome restored. A stored response is what the caller has received before."""
    if guard is None or isinstance(result, Replayed):
        return result
    return replace(result, outcome=restored(guard, result.outcome))


def original_call(call: ModelCall) -> ModelCall:
    """The call before anything was redacted."""
    guard = call.guard
    return replace(call, input=guard.original) if guard is not None and guard.placeholders else call
