"""The seam between the path and a provider: what is asked, in which form it goes out, and what comes back."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, Protocol

import msgspec

from tollkeeper.chat import ChatRequest, Completion, Delta, Price, Usage
from tollkeeper.dialects.input_size import InputSize

MAX_CONTEXT = 2_000_000
"""For models whose context window is not known: no model's is larger."""

MIN_OUTPUT = 16
OVERHEAD, OVERHEAD_WITH_TOOLS = 64, 600
"""Tokens that a provider adds to a call of its own accord, at most."""
IMAGE_TOKENS = 16_384
"""What one picture takes at most, where neither the catalog nor the family says: no usual model takes more than
Qwen-VL does ("4 to 16,384 visual tokens", model card of Qwen2-VL, image resolution).
"""


class Wire(StrEnum):
    """A wire format that others have made, by the name of its endpoint."""

    CHAT = "chat/completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"


class RawRequest(NamedTuple):
    """A request as it came, on a wire that its provider speaks too: each top-level field, as JSON.

    Without the model, the output limit, and what says how to deliver: those are written anew.
    """

    wire: Wire
    fields: dict[str, bytes]
    input_size: InputSize


@dataclass
class CallInput:
    """What is asked: in our nouns, read when they are needed, and perhaps as it came.

    `choices` is how many answers are wanted: each may be as long as the limit. Reading raises InvalidRequest or
    UnsupportedParameter for what cannot be said in our nouns.
    """

    read: Callable[[], ChatRequest]
    raw: RawRequest | None = None
    choices: int = 1

    @cached_property
    def request(self) -> ChatRequest:
        return self.read()


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A request in the provider's own wire format, complete but for the output limit.

    The limit goes between `body` and `tail`; where `tail` is None there is none. `wire` is None for a wire that only
    this provider speaks. `texts` tells what a tokenizer has to count.
    """

    model: "Model"
    body: bytes
    tail: bytes | None
    input_size: InputSize
    texts: Callable[[], tuple[str, ...]]
    wire: Wire | None = None
    raw: bool = False
    """Whether the answer is to be passed on as it comes."""
    thinks: bool = False
    """Whether this call asks for thinking that may be billed without being shown."""

    @property
    def bills_hidden_output(self) -> bool:
        return self.thinks or self.model.bills_hidden_output

    def limited_to(self, max_output: int) -> bytes:
        """The whole body."""
        return self.body if self.tail is None else self.body + b"%d" % max_output + self.tail


class StreamChunk(msgspec.Struct, frozen=True, gc=False):
    """Some of a streamed answer: one event or a few. `raw` is how the provider said it, framing included,
    where that is to be passed on.

    The `last` ones end the answer: they are held back until the charge is settled.
    """

    raw: bytes
    deltas: tuple[Delta, ...]
    last: bool = False


class ChunkStream(Protocol):
    """A streamed answer. It is asked for with the first piece; one that ends well has brought a whole answer.

    Closing it, or cancelling what waits for it, hangs up on the provider. Its pieces raise as `complete` does.
    """

    def __aiter__(self) -> AsyncIterator[StreamChunk]: ...

    def __anext__(self) -> Awaitable[StreamChunk]: ...

    async def aclose(self) -> None: ...


class Provider(Protocol):
    """Someone who answers."""

    @property
    def name(self) -> str: ...

    def prepare(self, model: "Model", question: CallInput, *, stream: bool = False) -> PreparedCall:
        """Put a question into the wire format, before anything is reserved.

        Raises InvalidRequest or UnsupportedParameter for what this provider cannot be asked.
        """
        ...

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        """Send it, once, telling the provider never to produce more than `max_output` tokens.

        Raises a ProviderError whose `billed` says whether the provider may have billed it.
        """
        ...

    def stream(self, call: PreparedCall, max_output: int) -> ChunkStream:
        """The same, piece by piece."""
        ...

    async def bound_input(self, call: PreparedCall) -> int | None:
        """No fewer tokens than the input's text has, by the model's own vocabulary; None where that is not known."""
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


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its provider. Counts in tokens; the weight in thousandths.

    `name` is what callers say, `upstream` what the provider calls it. `limit_name` is the field of the chat wire that
    limits the output; None: as the provider thinks best. `sampling` are the sampling parameters it accepts; None: any.
    `bills_hidden_output`: it can bill output that it does not send. `fallbacks` are called in turn when it fails.
    """

    name: str
    provider: Provider
    upstream: str = ""
    overhead: int = OVERHEAD
    overhead_with_tools: int = OVERHEAD_WITH_TOOLS
    image_tokens: int = IMAGE_TOKENS
    least_output: int = MIN_OUTPUT
    context_window: int = MAX_CONTEXT
    weight_milli: int = 1_000
    price: Price | None = None
    limit_name: str | None = None
    sampling: frozenset[str] | None = None
    bills_hidden_output: bool = False
    fallbacks: tuple[str, ...] = field(default=())

    @property
    def upstream_name(self) -> str:
        return self.upstream or self.name

    def can_have_used(self, usage: Usage, choices: int = 1) -> bool:
        """Whether a report can be true: nothing beyond what the model can read, and write so many times."""
        return usage.input_tokens <= self.context_window and usage.output_tokens <= self.context_window * choices
