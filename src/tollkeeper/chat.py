"""The nouns of a conversation with a model, in our own words, whatever the wire."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to ask a model. The output limit is not here: the ledger grants it."""

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as billed. `input_tokens` includes the cached ones."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in micro-USD per million."""

    input: int
    cached_input: int
    output: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `usage` is None when the provider reported none, or one that cannot be true."""

    text: str
    finish_reason: str
    usage: Usage | None
