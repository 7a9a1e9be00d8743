"""A streamed answer that is checked before it is sent: what a rule blocks never reaches the client."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from tollkeeper.chat import (
    Completion,
    Delta,
    Finish,
    ReasoningDelta,
    ReasoningEnd,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from tollkeeper.errors import ContentBlocked
from tollkeeper.gateway.accumulator import StreamAccumulator
from tollkeeper.gateway.call_guard import OUTPUT, CallGuard
from tollkeeper.gateway.listener import Listener, PassingListener, kept_alive
from tollkeeper.gateway.moderated_text import HeldText, mask
from tollkeeper.gateway.results import Outcome
from tollkeeper.moderation.patterns import TooDense
from tollkeeper.moderation.policy import Rule
from tollkeeper.moderation.scan import Finding, TooManyFindings, first_block, map_json, redact_text, scan, texts_in_json
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation

TextKind = type[TextDelta] | type[RefusalDelta] | type[ReasoningDelta]
Judge = Callable[[Completion], Awaitable[Rule | None]]
"""Has the classifiers judge an answer. Returns the rule that blocks it; raises ModerationUnavailable."""
BLOCKED_REASON = "content_filter"
"""The finish reason of an answer that was cut."""


class ModeratedListener(PassingListener):
    """Passes on what of a stream may be sent, to its `listener`. When a rule blocks, it cuts the provider off.

    Text is held back by the window of the policy, tool calls until they are complete. `ping_s` is after how long, in
    seconds, in which nothing could be sent, the client is sent a sign of life.
    """

    def __init__(self, listener: Listener, guard: CallGuard, *, ping_s: float) -> None:
        super().__init__(listener)
        self._guard = guard
        self._ping_s = ping_s
        self._passed_at = time.monotonic()
        self._kind: TextKind | None = None
        self._sent: dict[TextKind | None, str] = {}
        """The ends of what was let go, by kind: a client may join the texts of a kind that another one has divided."""
        self._text = self._new_text()
        self._tools: list[ToolCallDelta] = []
        self._delivered = StreamAccumulator()
        self._cut_provider: Callable[[], None] | None = None
        self.blocked_by: Rule | None = None

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        self._cut_provider = on_disconnect
        super().attach(on_disconnect, reservation)

    def _is_blocked(self) -> bool:
        return self.blocked_by is not None

    async def deliver(self, chunk: StreamChunk) -> None:
        if self._is_blocked():
            return
        try:
            ready = self._ready(chunk.deltas)
        except (TooDense, TooManyFindings):
            ready = self._refuse(self._strictest())
        await self._pass_on(ready)
        if self._is_blocked() and self._cut_provider is not None:
            asyncio.get_running_loop().call_soon(self._cut_provider)  # a task cannot cancel its own block
            await asyncio.sleep(0)

    async def finish(self, outcome: Outcome, judge: Judge, timeout_s: float) -> Outcome:
        """Send what is held back, once the provider's stream has ended. Returns the outcome with what was sent.

        A client that does not take it within `timeout_s` counts as gone.

        Raises ContentBlocked if a rule blocks the answer and nothing of it was seen; and what `judge` raises.
        """
        if not self._is_blocked() and not outcome.cut_short:
            try:
                ready = [*self._flush(), *self._take_tools()]
            except (TooDense, TooManyFindings):
                ready = self._refuse(self._strictest())
            if not self._is_blocked():
                with kept_alive(self._listener, self._ping_s):
                    blocking = await judge(outcome.read())
                if blocking is not None:
                    ready = self._refuse(blocking, noted=True)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._pass_on(ready)
            except TimeoutError:
                return outcome._replace(cut_short=True)
        return self._ended(outcome)

    def _ended(self, outcome: Outcome) -> Outcome:
        """The outcome with what was sent. Raises ContentBlocked."""
        sent = self._delivered.completion()
        if (rule := self.blocked_by) is None:
            return outcome._replace(read=partial(_completed, outcome, sent))
        if not self._guard.shows_parts or not self._delivered.has_output:
            raise ContentBlocked(rule.name, of_answer=True)
        cut = partial(_completed, outcome, sent, BLOCKED_REASON)
        return outcome._replace(read=cut, tail=b"", shortened=True, cut_short=False)

    async def flush(self) -> None:
        """Send what is held back and may be sent, of a stream that has failed."""
        if not self._is_blocked() and not self._guard.policy.holds_all:
            try:
                await self._pass_on(self._flush())
            except (TooDense, TooManyFindings):
                return

    def _ready(self, deltas: Sequence[Delta]) -> list[Delta]:
        """What may be sent after these deltas, in order."""
        ready: list[Delta] = []
        for delta in deltas:
            match delta:
                case TextDelta(text) | RefusalDelta(text) | ReasoningDelta(text):
                    if self._kind is not type(delta):
                        ready += self._flush()
                        self._kind = type(delta)
                        self._text = self._new_text()
                    self._text.feed(text)
                case ReasoningEnd():
                    ready += [*self._flush(), delta]
                case ToolCallDelta():
                    self._tools.append(delta)
                case Finish():
                    pass
                case _:
                    ready.append(delta)
            if self._is_blocked():
                return ready
        return [*ready, *self._take()]

    def _flush(self) -> list[Delta]:
        """The rest of the present text, which is complete."""
        ready = self._take(final=True)
        self._sent[self._kind] = self._text.sent
        self._text = self._new_text()
        return ready

    def _take(self, *, final: bool = False) -> list[Delta]:
        released, blocked = self._text.take(final=final)
        if blocked is not None:
            return self._refuse(blocked.rule, noted=True)
        return [self._kind(released)] if released and self._kind is not None else []

    def _take_tools(self) -> list[Delta]:
        """The tool calls, each as one piece, checked as decoded. None of an answer that is blocked."""
        if self._is_blocked():
            return []
        rules, redact = self._guard.policy.output_rules, partial(redact_text, replace=mask)
        calls: list[Delta] = []
        received = StreamAccumulator()
        received.add(tuple(self._tools))
        indexes = sorted({delta.index for delta in self._tools})
        for index, call in zip(indexes, received.completion().tool_calls, strict=True):
            texts = [call.arguments] if call.custom else texts_in_json(call.arguments)
            found = [one for text in (call.name, *texts) for one in scan(rules, text)]
            self._note(found)
            if (blocked := first_block(found)) is not None:
                return self._refuse(blocked.rule, noted=True)
            change = partial(_redact, redact, rules)
            arguments = change(call.arguments) if call.custom else map_json(call.arguments, change)
            calls.append(ToolCallDelta(index, call.id, call.name, arguments, call.custom))
        return calls

    async def _pass_on(self, ready: Sequence[Delta]) -> None:
        if ready:
            self._delivered.add(tuple(ready))
            self._passed_at = time.monotonic()
            await self._listener.deliver(StreamChunk(b"", tuple(ready)))
        elif time.monotonic() - self._passed_at > self._ping_s:
            self._passed_at = time.monotonic()
            self._listener.ping()

    def _refuse(self, rule: Rule, *, noted: bool = False) -> list[Delta]:
        if not noted:
            self._guard.note_rule(OUTPUT, rule)
        self.blocked_by = rule
        return []

    def _strictest(self) -> Rule:
        """The rule that stands for all where a text cannot be checked."""
        rules = self._guard.policy.output_rules
        return next((rule for rule in rules if rule.is_enforced and rule.action == "block"), rules[0])

    def _new_text(self) -> HeldText:
        return HeldText(self._guard.policy, self._note, follows=self._sent.get(self._kind, ""))

    def _note(self, found: Sequence[Finding]) -> None:
        if found:
            self._guard.note_findings(OUTPUT, found)


def _redact(redact: Callable[..., str], rules: Sequence[Rule], text: str) -> str:
    return redact(rules, text)


def _completed(outcome: Outcome, sent: Completion, finish_reason: str | None = None) -> Completion:
    """What was sent of an answer, with the usage of the whole one."""
    whole = outcome.read()
    return sent._replace(usage=whole.usage, finish_reason=finish_reason or whole.finish_reason)
