"""Requests: a caller's into our nouns, ours onto the wire."""

import re
from typing import Any, Literal

import msgspec
import orjson

from tollkeeper.chat import NAMED_TOOL, ChatRequest, Image, Message, Options, Part, Tool, ToolCall, ToolResult
from tollkeeper.dialects.messages import blocks
from tollkeeper.dialects.messages.blocks import Base64, Content, OutputConfig, Picture, Text, ToolAnswer, ToolUse, Turn
from tollkeeper.dialects.parameters import refusal
from tollkeeper.errors import InvalidRequest

JSON_ONLY = "Answer with one JSON object and nothing else."
"""How to ask for any JSON object: the wire itself knows only schemas."""
NOTHING_IN = {"type": "object", "properties": {}}
"""The schema of a tool that takes nothing."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_CHOICES_BACK = {ours: theirs for theirs, ours in _CHOICES.items()}
_EFFORTS = {name: name for name in ("low", "medium", "high", "xhigh", "max")} | {"minimal": "low"}
_PICTURE = re.compile(r"data:(image/(?:jpeg|png|gif|webp));base64,")


class _Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Asked(msgspec.Struct):
    """What of a request is plain; the content is read apart."""

    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None
    tool_choice: _Choice | None = None
    output_config: OutputConfig | None = None


def read_request(document: dict[str, Any]) -> ChatRequest:
    """A caller's request in our nouns. Raises InvalidRequest, UnsupportedParameter.

    Left out are hints to a cache, that a tool failed (what it said tells), how much to think, and thoughts of before,
    which only the model that had them can read.
    """
    if document.get("top_k") is not None:
        raise refusal("top_k")
    try:
        asked = msgspec.convert(document, _Asked)
    except msgspec.ValidationError:
        raise InvalidRequest("The request is not one for a message.") from None
    choice, wanted = asked.tool_choice, asked.output_config or OutputConfig()
    disabled = choice.disable_parallel_tool_use if choice is not None else None
    return ChatRequest(
        (*_read_system(document), *_read_turns(document)),
        Options(
            temperature=asked.temperature,
            top_p=asked.top_p,
            stop=tuple(asked.stop_sequences or ()),
            effort=wanted.effort,
            tools=_read_tools(document),
            tool_choice=_CHOICES.get(choice.type, NAMED_TOOL + choice.name) if choice is not None else None,
            parallel_tools=None if disabled is None else not disabled,
            schema=wanted.format.schema if wanted.format is not None else None,
        ),
    )


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidRequest from None


def _read_system(document: dict[str, Any]) -> tuple[Message, ...]:
    if document.get("system") is None:
        return ()
    system = blocks.read("system", _json(document["system"]), blocks.SYSTEM)
    return (Message("system", system if isinstance(system, str) else tuple(block.text for block in system)),)


def _read_turns(document: dict[str, Any]) -> list[Message]:
    turns = blocks.read("messages", _json(document.get("messages")), blocks.TURNS)
    return [message for turn in turns if (message := _read_turn(turn)) is not None]


def _read_turn(turn: Turn) -> Message | None:
    """None for a turn in which only thoughts were."""
    if isinstance(turn.content, str):
        return Message(turn.role, turn.content)
    parts = tuple(part for block in turn.content if (part := _read_block(block)) is not None)
    return Message(turn.role, parts) if parts or not turn.content else None


def _read_block(block: Content) -> Part | None:
    match block:
        case Text():
            return block.text
        case Picture():
            return _read_picture(block)
        case ToolUse():
            return ToolCall(block.id, block.name, bytes(block.input).decode())
        case ToolAnswer():
            return ToolResult(block.tool_use_id, _read_result(block))
        case blocks.SearchResult():
            raise refusal("messages.content")
        case _:
            return None


def _read_picture(picture: Picture) -> Image:
    source = picture.source
    if isinstance(source, Base64):
        return Image(f"data:{source.media_type};base64,{msgspec.json.decode(source.data)}")
    return Image(source.url)


def _read_result(result: ToolAnswer) -> str:
    if result.content is None or isinstance(result.content, str):
        return result.content or ""
    texts = [block.text for block in result.content if isinstance(block, Text)]
    if len(texts) < len(result.content):
        raise refusal("messages.content")
    return "".join(texts)


def _read_tools(document: dict[str, Any]) -> tuple[Tool, ...]:
    if document.get("tools") is None:
        return ()
    tools = blocks.read("tools", _json(document["tools"]), blocks.TOOLS)
    if any(tool.defer_loading or tool.input_examples for tool in tools):
        raise refusal("tools")
    return tuple(Tool(tool.name, tool.description, tool.input_schema, tool.strict) for tool in tools)


def write_request(request: ChatRequest, model: str) -> dict[str, Any]:
    """A request of ours, but for the output limit and the way of delivery.

    Raises UnsupportedParameter for what the wire has no word for, InvalidRequest for a tool call whose arguments are
    no JSON object. Turns of the same side that follow each other become one, with the results of tools first.
    """
    options = request.options
    _refuse_unsayable(options)
    document: dict[str, Any] = {"model": model, "messages": _turns(request.messages)}
    if system := _system(request):
        document["system"] = system
    plain = {"temperature": options.temperature, "top_p": options.top_p, "stop_sequences": list(options.stop) or None}
    document |= {name: value for name, value in plain.items() if value is not None}
    if options.tools:
        document["tools"] = [_tool(tool) for tool in options.tools]
    if choice := _tool_choice(options):
        document["tool_choice"] = choice
    if options.effort == "none":
        document["thinking"] = {"type": "disabled"}
    if wanted := _output_config(options):
        document["output_config"] = wanted
    return document


def _refuse_unsayable(options: Options) -> None:
    if options.temperature is not None and options.temperature > 1:
        raise refusal("temperature")
    if options.seed is not None:
        raise refusal("seed")
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(options, name):
            raise refusal(name)
    if options.effort not in {None, "none", *_EFFORTS}:
        raise refusal("reasoning_effort")


def _system(request: ChatRequest) -> str | list[dict[str, Any]]:
    said = [message.content for message in request.messages if message.role == "system"]
    if request.options.json and request.options.schema is None:
        said.append(JSON_ONLY)
    if len(said) == 1 and isinstance(said[0], str):
        return said[0]
    parts = [part for content in said for part in ((content,) if isinstance(content, str) else content)]
    if not all(isinstance(part, str) for part in parts):
        raise refusal("messages.content")
    return [{"type": "text", "text": part} for part in parts if part]


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        content = message.content if isinstance(message.content, str) else _blocks(message.content)
        if message.role == "system" or (message.role == "assistant" and not content):
            continue
        if turns and turns[-1]["role"] == message.role:
            content = _as_blocks(turns.pop()["content"]) + _as_blocks(content)
        if isinstance(content, list):
            content.sort(key=lambda block: block["type"] != "tool_result")
        turns.append({"role": message.role, "content": content})
    return turns


def _as_blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return _blocks((content,)) if isinstance(content, str) else content


def _blocks(parts: tuple[Part, ...]) -> list[dict[str, Any]]:
    """Empty texts are left out: the wire does not take them."""
    return [_block(part) for part in parts if part != ""]


def _block(part: Part) -> dict[str, Any]:
    match part:
        case str():
            return {"type": "text", "text": part}
        case Image():
            return {"type": "image", "source": _source(part.url)}
        case ToolCall(custom=True):
            raise refusal("messages.tool_calls")
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part.arguments)}
        case ToolResult():
            return {"type": "tool_result", "tool_use_id": part.call_id, "content": part.content}


def _source(url: str) -> dict[str, str]:
    if url.startswith("https://"):
        return {"type": "url", "url": url}
    found = _PICTURE.match(url)
    if found is None:
        raise refusal("messages.content")
    return {"type": "base64", "media_type": found[1], "data": url[found.end() :]}


def _input(arguments: str) -> dict[str, Any]:
    try:
        given = orjson.loads(arguments or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidRequest("The arguments of a tool call are not a JSON object.", parameter="messages")
    return given


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.custom:
        raise refusal("tools")
    written: dict[str, Any] = {"name": tool.name, "input_schema": tool.parameters or NOTHING_IN}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    return written


def _tool_choice(options: Options) -> dict[str, Any] | None:
    choice = options.tool_choice
    if choice is None and options.parallel_tools is None:
        return None
    if not options.tools and choice in {None, "auto", "none"}:
        return None
    if choice is not None and choice.startswith(NAMED_TOOL):
        written: dict[str, Any] = {"type": "tool", "name": choice.removeprefix(NAMED_TOOL)}
    elif (choice or "auto") in _CHOICES_BACK:
        written = {"type": _CHOICES_BACK[choice or "auto"]}
    else:
        raise refusal("tool_choice")
    if options.parallel_tools is not None and choice != "none":
        written["disable_parallel_tool_use"] = not options.parallel_tools
    return written


def _output_config(options: Options) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if options.effort in _EFFORTS:
        wanted["effort"] = _EFFORTS[options.effort]
    if options.schema is not None:
        wanted["format"] = {"type": "json_schema", "schema": options.schema}
    return wanted
