"""What has come of a streamed answer so far."""

from tollkeeper.chat import (
    Completion,
    Delta,
    Finish,
    InputTokens,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)


class StreamAccumulator:
    """Everything that the provider sent: what the caller pays for, whatever becomes of the stream."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.usage: Usage | None = None
        self.input_tokens: int | None = None
        """As the provider says before it answers."""
        self.finish_reason: str | None = None
        self._unreported = True
        self.size = 0
        """Bytes of all text in it; a token is at least one."""

    def add(self, deltas: tuple[Delta, ...]) -> None:
        for delta in deltas:
            match delta:
                case TextDelta() | RefusalDelta() | ReasoningDelta():
                    text = delta.text
                    self.size += len(text) if text.isascii() else len(text.encode())
                    self._unreported = True
                case ToolCallDelta(_, _, name, arguments):
                    self.size += len((name or "").encode()) + len(arguments.encode())
                    self._unreported = True
                case Usage():
                    self.usage, self._unreported = delta, False
                case Finish(reason):
                    self.finish_reason = reason
                case InputTokens(tokens):
                    self.input_tokens = tokens
                    continue
            self.deltas.append(delta)

    @property
    def report(self) -> Usage | None:
        """The usage, if it is of a whole answer. Told on the way, it is of no more than was said by then."""
        return None if self._unreported or self.finish_reason is None else self.usage

    def text_since(self, position: int) -> str:
        """All text of the deltas from that one on, whatever kind of text it is."""
        said: list[str] = []
        for delta in self.deltas[position:]:
            match delta:
                case TextDelta(text) | RefusalDelta(text) | ReasoningDelta(text):
                    said.append(text)
                case ToolCallDelta(_, _, name, arguments):
                    said += [name or "", arguments]
        return "".join(said)

    def completion(self) -> Completion:
        """The answer as far as it came."""
        text, refusal, reasoning = [], [], []
        calls: dict[int, tuple[str, str, list[str], bool]] = {}
        for delta in self.deltas:
            match delta:
                case TextDelta(piece):
                    text.append(piece)
                case RefusalDelta(piece):
                    refusal.append(piece)
                case ReasoningDelta(piece):
                    reasoning.append(piece)
                case ToolCallDelta(index, call_id, name, arguments, custom):
                    calls.setdefault(index, (call_id or "", name or "", [], custom))[2].append(arguments)
        return Completion(
            "".join(text) or "".join(refusal),
            self.finish_reason or "stop",
            self.usage,
            tuple(
                ToolCall(call_id, name, "".join(pieces), custom)
                for _, (call_id, name, pieces, custom) in sorted(calls.items())
            ),
            "".join(refusal) or None,
            "".join(reasoning) or None,
        )
