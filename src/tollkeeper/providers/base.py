"""The seam between the path and a provider, one method wide."""

from dataclasses import dataclass
from typing import Protocol

from tollkeeper.chat import ChatRequest, Completion


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A request in the provider's own wire format, complete but for the output limit.

    `body_bytes` is the size that bounds its input tokens. `texts` is what a tokenizer would have to count.
    """

    body: bytes
    body_bytes: int
    messages: int
    texts: tuple[str, ...]


class Provider(Protocol):
    """Someone who answers."""

    @property
    def name(self) -> str: ...

    def prepare(self, request: ChatRequest) -> PreparedCall:
        """Put a request into the wire format, before anything is reserved."""
        ...

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        """Send it, once, telling the provider never to produce more than `max_output` tokens.

        Raises a ProviderError whose `billed` says whether the provider may have billed it.
        """
        ...

    async def count_input(self, call: PreparedCall) -> int:
        """The input's tokens, by the best tokenizer at hand."""
        ...

    async def count_output(self, text: str) -> int:
        """The tokens of an answer, by the best tokenizer at hand."""
        ...

    async def cut(self, text: str, tokens: int) -> str:
        """The first `tokens` tokens of an answer."""
        ...

    async def close(self) -> None: ...
