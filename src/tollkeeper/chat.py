"""The nouns of a conversation with a model, in our own words, whatever the wire."""

from typing import Any, Literal, NamedTuple

import msgspec

Role = Literal["system", "user", "assistant"]

NAMED_TOOL = "tool:"
"""Before a tool's name, where it is the one that must be called."""


class Image(NamedTuple):
    """A picture, by its address or as a `data:` URL."""

    url: str
    detail: str | None = None


class ToolCall(NamedTuple):
    """The model wants a tool called. `arguments` is JSON, as the model wrote it: perhaps not valid.

    A `custom` tool takes a text in place of it.
    """

    id: str
    name: str
    arguments: str
    custom: bool = False


class ToolResult(NamedTuple):
    """What a tool answered to the call of that id."""

    call_id: str
    content: str


Part = str | Image | ToolCall | ToolResult


class Message(NamedTuple):
    """One turn. Mostly its content is just text; else it is made of parts, in order."""

    role: Role
    content: str | tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """The text of it alone."""
        return "".join(part for part in self.parts if isinstance(part, str))


class Grammar(NamedTuple):
    """What a text must be: the kind of grammar, say `lark` or `regex`, and the grammar itself."""

    syntax: str
    definition: str


class Tool(NamedTuple):
    """A tool that the model may ask for: a function, whose `parameters` is a JSON Schema, or a `custom` one.

    That takes a text, which follows the `grammar`, if there is one.
    """

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None = None
    custom: bool = False
    grammar: Grammar | None = None


class Options(NamedTuple):
    """How to answer. None: as the provider does when nobody says.

    `tool_choice` is "auto", "none", "required" or a tool's name after NAMED_TOOL. `schema` is a JSON Schema that the
    answer must follow, to the letter if that is `schema_strict`; `json` asks for any JSON object.
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
    """What to ask a model. Neither the model nor the output limit is here: the catalog and the ledger know those."""

    messages: tuple[Message, ...]
    options: Options = Options()

    @property
    def pictures(self) -> tuple[Image, ...]:
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Image))

    @property
    def texts(self) -> tuple[str, ...]:
        """All text in it that a tokenizer has to count, tools included."""
        return tuple(_texts(self))


class Usage(NamedTuple):
    """Tokens of one call, as billed. `input_tokens` includes the cached ones, `output_tokens` the reasoning."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Price(NamedTuple):
    """What a model's tokens cost, in micro-USD per million. `cache_write`: None costs what input does."""

    input: int
    cached_input: int
    output: int
    cache_write: int | None = None


FinishReason = str
"""`stop`, `length`, `tool_calls`, `content_filter` or `refusal`; what else a provider says is passed on as it is."""


class Completion(NamedTuple):
    """A whole answer. `usage` is None when the provider reported none, or one that cannot be true.

    `raw` is the provider's own document, where the caller speaks the same wire.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage | None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None
    raw: bytes | None = None


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer's text."""

    text: str


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of a refusal."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of what the model shows of its thinking."""

    text: str


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the `index`th tool call. `id` and `name` come with its first piece, and only there."""

    index: int
    id: str | None
    name: str | None
    arguments: str
    custom: bool = False


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The answer is over, and why."""

    reason: FinishReason


class InputTokens(msgspec.Struct, frozen=True, gc=False):
    """What the provider says of the input before it answers. It is no report: the answer is still to be counted."""

    tokens: int


Delta = TextDelta | RefusalDelta | ReasoningDelta | ToolCallDelta | InputTokens | Finish | Usage
"""One event of a streamed answer. `Usage` is the provider's report; a later one replaces an earlier one."""


def _texts(request: ChatRequest) -> list[str]:
    texts: list[str] = []
    for message in request.messages:
        for part in message.parts:
            match part:
                case str():
                    texts.append(part)
                case ToolCall():
                    texts += [part.name, part.arguments]
                case ToolResult():
                    texts.append(part.content)
                case Image():
                    pass
    for tool in request.options.tools:
        texts += [tool.name, tool.description or "", str(tool.parameters or ""), *(tool.grammar or ())]
    if request.options.schema is not None:
        texts += [str(request.options.schema), request.options.schema_description or ""]
    return texts
