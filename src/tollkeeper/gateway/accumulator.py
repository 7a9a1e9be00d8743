"""The content and the usage of a streamed answer, as far as it was received."""

from tollkeeper.chat import (
    Completion,
    Delta,
    Finish,
    InconsistentUsage,
    InputTokens,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from tollkeeper.dialects.answer_checks import MAX_TOKEN_COUNT
from tollkeeper.dialects.usage_counts import merged_report


class StreamAccumulator:
    """Collects the deltas of one stream. The caller pays for what is in it, even if the client received less.

    Reported counts above `max_input` or `max_output` are impossible, in tokens.
    """

    def __init__(self, max_input: int = MAX_TOKEN_COUNT, max_output: int = MAX_TOKEN_COUNT) -> None:
        self._max_input, self._max_output = max_input, max_output
        self.deltas: list[Delta] = []
        self.usage: UsageReport | None = None
        self.input_tokens: int | None = None
        """Reported by the provider at the start of the stream."""
        self.finish_reason: str | None = None
        self.has_output = False
        """Whether any part of the answer was received."""
        self._has_unreported_output = True
        self.text_bytes = 0
        """UTF-8 bytes of all text; a token is at least one byte."""

    def add(self, deltas: tuple[Delta, ...]) -> None:
        """Add the deltas of one chunk."""
        for delta in deltas:
            match delta:
                case TextDelta() | RefusalDelta() | ReasoningDelta():
                    text = delta.text
                    self.text_bytes += len(text) if text.isascii() else len(text.encode())
                    self.has_output = self._has_unreported_output = True
                case ToolCallDelta(_, _, name, arguments):
                    self.text_bytes += len((name or "").encode()) + len(arguments.encode())
                    self.has_output = self._has_unreported_output = True
                case Usage() | InconsistentUsage():
                    self._add_report(delta)
                case Finish(reason):
                    self.finish_reason = reason
                case InputTokens(tokens):
                    self.input_tokens = tokens
                    continue
            self.deltas.append(delta)

    def _add_report(self, report: UsageReport) -> None:
        """A report of less output than an earlier one covers no output that came after that one."""
        self.usage = merged_report(self.usage, report, self._max_input, self._max_output)
        if (report.output_tokens or 0) == (self.usage.output_tokens or 0):
            self._has_unreported_output = False

    @property
    def has_begun(self) -> bool:
        """Whether the answer has begun: with its first output, or with its end. A report of usage is no beginning."""
        return self.has_output or self.finish_reason is not None

    @property
    def is_reported(self) -> bool:
        """Whether the usage reports cover all output so far. One in mid-stream does not cover later output."""
        return not self._has_unreported_output

    def end(self) -> bool:
        """Finish an answer that has output, if the provider gave no reason for its end. Returns whether it did so."""
        if self.finish_reason is not None or not self.has_output:
            return False
        called = any(isinstance(delta, ToolCallDelta) for delta in self.deltas)
        self.finish_reason = "tool_calls" if called else "stop"
        return True

    def cut(self) -> None:
        """Finish the answer here, because it is too long. A report that the provider has sent does not cover it."""
        self.finish_reason = "length"
        self._has_unreported_output = True

    def text_since(self, position: int) -> str:
        """The text, refusals, reasoning and tool calls of the deltas from this index on, as one string."""
        pieces: list[str] = []
        for delta in self.deltas[position:]:
            match delta:
                case TextDelta(text) | RefusalDelta(text) | ReasoningDelta(text):
                    pieces.append(text)
                case ToolCallDelta(_, _, name, arguments):
                    pieces += [name or "", arguments]
        return "".join(pieces)

    def completion(self) -> Completion:
        """The answer as far as it was received. Its finish reason is `stop` where none was."""
        text, refusal, reasoning = [], [], []
        tool_calls: dict[int, tuple[str, list[str], list[str], bool]] = {}
        for delta in self.deltas:
            match delta:
                case TextDelta(fragment):
                    text.append(fragment)
                case RefusalDelta(fragment):
                    refusal.append(fragment)
                case ReasoningDelta(fragment):
                    reasoning.append(fragment)
                case ToolCallDelta(index, call_id, name, arguments, custom):
                    call = tool_calls.setdefault(index, (call_id or "", [], [], custom))
                    call[1].append(name or "")
                    call[2].append(arguments)
        return Completion(
            "".join(text) or "".join(refusal),
            self.finish_reason or "stop",
            self.usage,
            tuple(
                ToolCall(call_id, "".join(names), "".join(arguments), custom)
                for _, (call_id, names, arguments, custom) in sorted(tool_calls.items())
            ),
            "".join(refusal) or None,
            "".join(reasoning) or None,
        )
