"""The types of a chat with a model: requests, answers and streams, independent of any wire format."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec

Role = Literal["system", "user", "assistant"]

TOOL_CHOICE_PREFIX = "tool:"
"""In `Options.tool_choice`, the prefix of the name of the one tool that must be called."""


class Image(NamedTuple):
    """An image, by its URL or as a `data:` URL."""

    url: str
    detail: str | None = None


class ToolCall(NamedTuple):
    """The model calls a tool. `arguments` is the JSON that the model wrote, which may be invalid.

    For a `custom` tool, `arguments` is plain text. `signature` is what the model demands back with the call.
    """

    id: str
    name: str
    arguments: str
    custom: bool = False
    signature: str = ""


class ToolResult(NamedTuple):
    """The result of the tool call with the id `call_id`: a text, and the images that the tool returned."""

    call_id: str
    content: str
    images: tuple[Image, ...] = ()


class Reasoning(NamedTuple):
    """A block of the reasoning that a model showed. `signature` proves to that model that it wrote the block.

    `redacted`: the block has no text; its signature contains the encrypted reasoning.
    """

    text: str
    signature: str = ""
    redacted: bool = False


Part = str | Image | Reasoning | ToolCall | ToolResult


class Message(NamedTuple):
    """One message of a conversation. Its content is plain text, or content parts in order."""

    role: Role
    content: str | tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts, also where it is plain text."""
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """The text parts, as `join_texts` joins them."""
        return join_texts(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        """The images among the parts and in the results of tools."""
        images: list[Image] = []
        for part in () if isinstance(self.content, str) else self.content:
            if isinstance(part, Image):
                images.append(part)
            elif isinstance(part, ToolResult):
                images += part.images
        return tuple(images)


def join_texts(texts: Iterable[str]) -> str:
    """The texts of several parts as one, a line break between each two. Empty texts are left out."""
    return "\n".join(filter(None, texts))


class Grammar(NamedTuple):
    """A grammar that a custom tool's input follows. `syntax` is its kind, for example `lark` or `regex`."""

    syntax: str
    definition: str


class Tool(NamedTuple):
    """A tool that the model may call: a function, whose `parameters` are a JSON Schema, or a `custom` tool.

    A custom tool takes plain text, which follows the `grammar` if there is one.
    """

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None = None
    custom: bool = False
    grammar: Grammar | None = None


class Options(NamedTuple):
    """How the model is to answer. None means the provider's default.

    `tool_choice` is "auto", "none", "required", or TOOL_CHOICE_PREFIX and the name of a tool. `schema` is a JSON Schema
    for the answer, which the provider enforces if `schema_strict`. `json` requires any JSON object.
    """

    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    effort: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    parallel_tools: bool | None = None
    json: bool = False
    schema: dict[str, Any] | None = None
    schema_name: str | None = None
    schema_description: str | None = None
    schema_strict: bool | None = None


class ChatRequest(NamedTuple):
    """The input of a model and its options. The model is the catalog's choice, the output limit the ledger's."""

    messages: tuple[Message, ...]
    options: Options = Options()

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of all messages."""
        return tuple([image for message in self.messages for image in message.images])

    @property
    def texts(self) -> tuple[str, ...]:
        """All text that the tokenizer counts, including tools and the schema."""
        return tuple(_texts(self))


class Usage(NamedTuple):
    """The billed tokens of one call. `input_tokens` includes cached tokens, `output_tokens` reasoning tokens."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class InconsistentUsage(NamedTuple):
    """A usage report that is incomplete or contradicts itself. None: the count is missing, or not a number of tokens.

    It is no basis for a charge, unless its total resolves the contradiction; but it proves a least usage.
    """

    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None = None
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


UsageReport = Usage | InconsistentUsage


HOUR_CACHE_FACTOR = 2


class Price(NamedTuple):
    """The prices of a model, in micro-USD per million tokens. A `cache_write` of None costs the same as `input`."""

    input: int
    cached_input: int
    output: int
    cache_write: int | None = None

    def with_hour_cache(self) -> "Price":
        """The prices where a cache may be written for an hour: twice the input's (Claude API, "Prompt caching").

        A report does not tell both lifetimes apart, so all that is written costs that much: never less than is billed.
        """
        return self._replace(cache_write=max(HOUR_CACHE_FACTOR * self.input, self.cache_write or 0))


FinishReason = str
"""`stop`, `length`, `tool_calls`, `content_filter` or `refusal`; or what the provider reports, if it is not known."""


class Completion(NamedTuple):
    """A whole answer. `usage` is the provider's report; once the answer is charged by it, the usage as charged.

    `raw` is the body of the provider's response, where the caller uses the same wire format. `signed_reasoning` is the
    reasoning in blocks, where the model signed any.
    """

    text: str
    finish_reason: FinishReason
    usage: UsageReport | None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None
    raw: bytes | None = None
    signed_reasoning: tuple[Reasoning, ...] = ()

    @property
    def reasoning_blocks(self) -> tuple[Reasoning, ...]:
        """The reasoning in blocks, signed or not."""
        return self.signed_reasoning or ((Reasoning(self.reasoning),) if self.reasoning else ())


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer's text."""

    text: str


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of a refusal."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the reasoning that the model shows."""

    text: str


class ReasoningEnd(msgspec.Struct, frozen=True, gc=False):
    """The end of a signed block of reasoning, whose text came before. `signature` as in Reasoning."""

    signature: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the tool call number `index`. Only its first piece has `id`.

    Its first piece has the `name`, or the begin of it: some servers send it in pieces too, before the arguments.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
    custom: bool = False


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The end of the answer, with its reason."""

    reason: FinishReason


class InputTokens(msgspec.Struct, frozen=True, gc=False):
    """The input tokens, reported at the start of a stream. This is no usage report: the output is not known yet."""

    tokens: int


Delta = TextDelta | RefusalDelta | ReasoningDelta | ReasoningEnd | ToolCallDelta | InputTokens | Finish | UsageReport
"""One event of a streamed answer. Of several usage reports, the largest counts are true."""


def _texts(request: ChatRequest) -> list[str]:
    texts: list[str] = []
    for message in request.messages:
        for part in message.parts:
            match part:
                case str():
                    texts.append(part)
                case Reasoning():
                    texts += [part.text, part.signature]
                case ToolCall():
                    texts += [part.name, part.arguments, part.signature]
                case ToolResult():
                    texts.append(part.content)
                case Image():
                    pass
    for tool in request.options.tools:
        texts += [tool.name, tool.description or "", str(tool.parameters or ""), *(tool.grammar or ())]
    if request.options.schema is not None:
        texts += [str(request.options.schema), request.options.schema_description or ""]
    return texts
