"""The nouns of a conversation with a model, in our own words, whatever the wire."""

from typing import Literal, NamedTuple


class Message(NamedTuple):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(NamedTuple):
    """What to ask a model. The output limit is not here: the ledger grants it."""

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None


class Usage(NamedTuple):
    """Tokens of one call, as billed. `input_tokens` includes the cached ones."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Price(NamedTuple):
    """What a model's tokens cost, in micro-USD per million."""

    input: int
    cached_input: int
    output: int


class Completion(NamedTuple):
    """A whole answer. `usage` is None when the provider reported none, or one that cannot be true."""

    text: str
    finish_reason: str
    usage: Usage | None
