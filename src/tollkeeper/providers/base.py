"""The interface between the gateway and a provider: `Provider`, its input and its output.

A `CallInput` is prepared for one `Model` as a `PreparedCall`; the provider returns a `Completion` or a `ChunkStream`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple, Protocol

import msgspec

from tollkeeper.chat import ChatRequest, Completion, Delta, Price, UsageReport
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import NO_EXTRA, Treatment
from tollkeeper.errors import ProviderError, ProviderFailed

MAX_CONTEXT = 2_000_000
"""The context window, in tokens, of a model whose window is not known: no model has a larger one."""

MIN_OUTPUT = 16
"""The least output limit, in tokens, of a model that does not reason."""
OVERHEAD, OVERHEAD_WITH_TOOLS = 64, 600
"""The most tokens that a provider adds to the input of a call, without and with tools."""
IMAGE_TOKENS = 16_384
"""The most tokens of one picture, where neither the catalog nor the model's name gives a figure: no usual model takes
more than Qwen-VL does ("4 to 16,384 visual tokens", model card of Qwen2-VL, image resolution).
"""


NO_HEADERS: Mapping[str, str] = MappingProxyType({})
NO_EXTRA_PARAMETERS: Mapping[str, Treatment] = MappingProxyType({})


class BilledFailure(ProviderFailed):
    """The provider failed, and reported what it bills all the same. No other attempt may follow."""

    billed = True

    def __init__(self, usage: UsageReport) -> None:
        super().__init__()
        self.usage = usage


class Wire(StrEnum):
    """A wire format of OpenAI or Anthropic, by the name of its endpoint."""

    CHAT = "chat/completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"


class RawRequest(NamedTuple):
    """A request in the caller's own wire format: each top-level field as JSON.

    The fields for the model, the output limit and the delivery are left out: the provider writes them anew. `extra` are
    the fields that the wire format does not have: the operator decides what is done with each.
    """

    wire: Wire
    fields: dict[str, bytes]
    input_size: InputSize
    extra: Mapping[str, bytes] = NO_EXTRA
    headers: Mapping[str, str] = NO_HEADERS
    """Headers to send with it, beside the provider's own."""


@dataclass
class CallInput:
    """The input of a call: a ChatRequest, read when it is needed, and perhaps the raw request.

    `choices` is the number of answers; the output limit applies to each. `size` is that of the request's body, in
    bytes. `dropped` collects what is left out, also by a translation. `read_request` raises InvalidRequest or
    UnsupportedParameter for a request that a ChatRequest cannot express.
    """

    read_request: Callable[[], ChatRequest]
    raw: RawRequest | None = None
    choices: int = 1
    size: int = 0
    dropped: Dropped = field(default_factory=Dropped)

    @cached_property
    def chat_request(self) -> ChatRequest:
        return self.read_request()


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A request in the provider's wire format, complete but for the output limit.

    The limit goes between `body` and `tail`; where `tail` is None, the request has no limit. `wire` is None for a wire
    format that only this provider has. `texts` returns the texts that a tokenizer has to count.
    """

    model: "Model"
    body: bytes
    tail: bytes | None
    input_size: InputSize
    texts: Callable[[], tuple[str, ...]]
    wire: Wire | None = None
    raw: bool = False
    """Whether the caller receives the provider's own answer, byte for byte."""
    thinks: bool = False
    """Whether this call requests thinking, which may be billed without being sent."""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @property
    def bills_hidden_output(self) -> bool:
        return self.thinks or self.model.bills_hidden_output

    @property
    def signer(self) -> str:
        """The model's name in the seals of its signatures; empty if the caller receives the provider's own answer."""
        return "" if self.raw else self.model.name

    def body_with_limit(self, max_output: int) -> bytes:
        """The whole body, with an output limit of `max_output` tokens."""
        return self.body if self.tail is None else b"%b%d%b" % (self.body, max_output, self.tail)


class StreamChunk(msgspec.Struct, frozen=True, gc=False):
    """One piece of a streamed answer: one event or several.

    `raw` is the provider's own bytes, framing included, where the caller receives those; else it is empty. Chunks with
    `last` end the answer: they are not delivered before the charge is settled.
    """

    raw: bytes
    deltas: tuple[Delta, ...]
    last: bool = False
    events: int = 1
    """How many events of the provider it has."""


SIGN_OF_LIFE = StreamChunk(b"", ())
"""The chunk that stands for bytes of the provider which complete no event, as a comment: nothing of an answer."""


class ChunkStream(Protocol):
    """A streamed answer. The request is sent when the first chunk is awaited; a normal end means a whole answer.

    Closing the stream, or cancelling an `__anext__`, closes the connection to the provider. `__anext__` raises as
    `Provider.complete` does.
    """

    def __aiter__(self) -> AsyncIterator[StreamChunk]: ...

    def __anext__(self) -> Awaitable[StreamChunk]: ...

    async def aclose(self) -> None: ...


class Provider(Protocol):
    """A service that runs models."""

    @property
    def name(self) -> str: ...

    def prepare(self, model: "Model", call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        """Write the input in the provider's wire format. The ledger has reserved nothing yet.

        Raises InvalidRequest or UnsupportedParameter for an input that this provider does not support.
        """
        ...

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        """Send the call once, with an output limit of `max_output` tokens, and return the whole answer.

        Raises a ProviderError whose `billed` is whether the provider may have billed the call.
        """
        ...

    def stream(self, prepared: PreparedCall, max_output: int) -> ChunkStream:
        """Send the call once, with an output limit of `max_output` tokens, and return the answer chunk by chunk."""
        ...

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        """An upper bound of the text's tokens, by the model's own vocabulary; None where that is not known."""
        ...

    async def count_input(self, prepared: PreparedCall) -> int:
        """The input's tokens, by the best tokenizer at hand."""
        ...

    async def count_output(self, text: str) -> int:
        """The tokens of an answer, by the best tokenizer at hand."""
        ...

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        """The first `max_tokens` tokens of an answer."""
        ...

    async def close(self) -> None: ...


class ModelDeployments(Protocol):
    """The deployments of one model: see `deployments.py`."""

    @property
    def models(self) -> "tuple[Model, ...]": ...

    def first(self) -> "Model": ...

    def another(self, tried: Collection[str]) -> "Model | None": ...

    def record_failure(self, model: "Model", error: ProviderError) -> None: ...

    def view(self, models: "Sequence[Model]") -> "Model": ...


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its provider. Counts are in tokens, the weight in thousandths.

    `name` is the name for callers, `upstream` the provider's name where that differs. `limit_name` is the field of the
    chat wire that limits the output; None: the provider chooses. `sampling` are the sampling parameters that the model
    accepts; None: all. `bills_hidden_output`: the provider can bill output that it does not send. `extra_parameters`
    says which fields beyond the wire format are passed on or dropped; others are refused. `fallbacks` are called in
    this order when the model fails. `deployments` are all places that serve this model, if there are several: this
    object is one of them. `with_tenant_key`: the provider is called with the tenant's own key.
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
    extra_parameters: Mapping[str, Treatment] = field(default_factory=lambda: NO_EXTRA_PARAMETERS)
    fallbacks: tuple[str, ...] = field(default=())
    deployments: "ModelDeployments | None" = None
    with_tenant_key: bool = False

    @property
    def upstream_name(self) -> str:
        return self.upstream or self.name
