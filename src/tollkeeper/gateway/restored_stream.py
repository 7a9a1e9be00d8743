"""A streamed answer in which the caller's own values take the place of their placeholders, also across chunks."""

from collections.abc import Sequence

from tollkeeper.chat import Delta, ReasoningDelta, ReasoningEnd, RefusalDelta, TextDelta, ToolCallDelta
from tollkeeper.gateway.listener import Listener, PassingListener
from tollkeeper.moderation.placeholders import Placeholders, possible_begin
from tollkeeper.providers.base import StreamChunk

TextKind = type[TextDelta] | type[RefusalDelta] | type[ReasoningDelta]


class RestoringListener(PassingListener):
    """Passes a stream on to its `listener`, restored. The end of a text that may begin a placeholder waits for more."""

    def __init__(self, listener: Listener, placeholders: Placeholders) -> None:
        super().__init__(listener)
        self._placeholders = placeholders
        self._kind: TextKind | None = None
        self._tail = ""
        self._tool_tails: dict[int, tuple[str, bool]] = {}
        self._reasoning_changed = False

    async def deliver(self, chunk: StreamChunk) -> None:
        await self._pass_on(self._restore(chunk.deltas))

    async def finish(self) -> None:
        """Send what has waited for more. Does nothing the second time."""
        rest = self._flush()
        for index, (tail, _) in self._tool_tails.items():
            if tail:
                rest.append(ToolCallDelta(index, None, None, tail))
        self._tool_tails.clear()
        await self._pass_on(rest)

    def _restore(self, deltas: Sequence[Delta]) -> list[Delta]:
        ready: list[Delta] = []
        for delta in deltas:
            match delta:
                case TextDelta(text) | RefusalDelta(text) | ReasoningDelta(text):
                    if self._kind is not type(delta):
                        ready += self._flush()
                        self._kind = type(delta)
                    ready += self._restore_text(text)
                case ReasoningEnd():
                    ready += self._flush()
                    if not self._reasoning_changed:  # else the signature does not belong to the text
                        ready.append(delta)
                    self._reasoning_changed = False
                case ToolCallDelta():
                    ready += [*self._flush(), self._restore_call(delta)]
                case _:
                    ready.append(delta)
        return ready

    def _restore_text(self, text: str) -> list[Delta]:
        assert self._kind is not None
        waiting = self._tail + text
        cut = possible_begin(waiting)
        passed, self._tail = waiting[:cut], waiting[cut:]
        restored = self._placeholders.restore(passed)
        if self._kind is ReasoningDelta and restored != passed:
            self._reasoning_changed = True
        return [self._kind(restored)] if restored else []

    def _restore_call(self, delta: ToolCallDelta) -> Delta:
        tail, custom = self._tool_tails.get(delta.index, ("", delta.custom))
        waiting = tail + delta.arguments
        cut = possible_begin(waiting)
        self._tool_tails[delta.index] = waiting[cut:], custom
        arguments = self._placeholders.restore(waiting[:cut], in_json=not custom)
        return ToolCallDelta(delta.index, delta.id, delta.name, arguments, delta.custom)

    def _flush(self) -> list[Delta]:
        """What has waited of the present text, which is complete."""
        tail, self._tail = self._tail, ""
        return [self._kind(tail)] if tail and self._kind is not None else []

    async def _pass_on(self, ready: Sequence[Delta]) -> None:
        if ready:
            await self._listener.deliver(StreamChunk(b"", tuple(ready)))
