"""Ollama's own chat wire, towards the server (Ollama API reference, "Generate a chat completion")."""

import re
from typing import Any

import msgspec
import orjson

from tollkeeper.chat import (
    NAMED_TOOL,
    ChatRequest,
    Completion,
    Delta,
    Finish,
    Image,
    Message,
    Options,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from tollkeeper.dialects.parameters import refusal, unsayable
from tollkeeper.dialects.reading import BadAnswer, ProviderSaidError, count
from tollkeeper.errors import InvalidRequest

NOTHING_IN = {"type": "object", "properties": {}}
"""The schema of a tool that takes nothing."""

_PICTURE = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,")
_THINK = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}


def write_request(request: ChatRequest, model: str) -> dict[str, Any]:
    """A request of ours, but for the output limit and the way of delivery. Its last field is `options`, always there.

    Raises UnsupportedParameter for what the wire has no word for, InvalidRequest for a tool call whose arguments are
    no JSON object. Whether a tool's schema binds strictly cannot be said, and is left out.
    """
    options = request.options
    document: dict[str, Any] = {"model": model, "messages": _messages(request.messages)}
    if tools := _tools(options):
        document["tools"] = tools
    if options.schema is not None:
        document["format"] = options.schema
    elif options.json:
        document["format"] = "json"
    if options.effort is not None:
        if options.effort not in _THINK:
            raise unsayable("reasoning_effort")
        document["think"] = _THINK[options.effort]
    sampling = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "seed": options.seed,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "stop": list(options.stop) or None,
    }
    document["options"] = {name: value for name, value in sampling.items() if value is not None}
    return document


def _messages(turns: tuple[Message, ...]) -> list[dict[str, Any]]:
    """A tool's result names the tool, which in our nouns only its call does."""
    names = {part.id: part.name for turn in turns for part in turn.parts if isinstance(part, ToolCall)}
    return [message for turn in turns for message in _written(turn, names)]


def _written(turn: Message, names: dict[str, str]) -> list[dict[str, Any]]:
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    messages: list[dict[str, Any]] = []
    message: dict[str, Any] = {"role": turn.role, "content": turn.text}
    for part in turn.content:
        match part:
            case ToolResult(call_id, content):
                result = {"role": "tool", "content": content, "tool_call_id": call_id}
                messages.append(result | ({"tool_name": names[call_id]} if call_id in names else {}))
            case ToolCall(custom=True):
                raise refusal("messages.tool_calls")
            case ToolCall(call_id, name, arguments):
                call = {"id": call_id, "function": {"name": name, "arguments": _arguments(arguments)}}
                message.setdefault("tool_calls", []).append(call)
            case Image(url):
                message.setdefault("images", []).append(_picture(url))
    if message["content"] or len(message) > 2 or not messages:
        messages.append(message)
    return messages


def _picture(url: str) -> str:
    """Only the data: the server fetches nothing."""
    found = _PICTURE.match(url)
    if found is None:
        raise refusal("messages.content")
    return url[found.end() :]


def _arguments(arguments: str) -> dict[str, Any]:
    try:
        given = orjson.loads(arguments or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidRequest("The arguments of a tool call are not a JSON object.", parameter="messages")
    return given


def _tools(options: Options) -> list[dict[str, Any]]:
    """Those that are offered. The wire has functions alone, and no field for which of them to call, or how many.

    A choice is followed as far as an offer can: of one tool, it alone is offered; of none, none is. That some tool must
    be called, and no two at once, is left to the model, as the server's own OpenAI-compatible endpoint leaves it:
    refused, whole clients that always ask for it could not use these models.
    """
    if any(tool.custom for tool in options.tools):
        raise refusal("tools")
    choice, offered = options.tool_choice or "auto", options.tools
    if choice.startswith(NAMED_TOOL):
        offered = tuple(tool for tool in offered if NAMED_TOOL + tool.name == choice)
        if options.tools and not offered:
            raise refusal("tool_choice")
    return [] if choice == "none" else [{"type": "function", "function": _function(tool)} for tool in offered]


def _function(tool: Tool) -> dict[str, Any]:
    described = {} if tool.description is None else {"description": tool.description}
    return {"name": tool.name, **described, "parameters": tool.parameters or NOTHING_IN}


class _Function(msgspec.Struct):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Line(msgspec.Struct):
    """What we need of a line, or of a whole answer; everything else is skipped unread."""

    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Line).decode


def read_answer(body: bytes) -> Completion:
    """A whole answer. Raises BadAnswer."""
    try:
        answer = _decode(body)
        message = answer.message
        if message is None or not answer.done:
            raise BadAnswer
        calls = tuple(_call(call, number) for number, call in enumerate(message.tool_calls or ()))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer from error
    reason = _finish_reason(answer, called=bool(calls))
    return Completion(message.content or "", reason, _usage(answer), calls, reasoning=message.thinking or None)


def _call(call: _Call, number: int) -> ToolCall:
    """Older servers give a call no id."""
    arguments = bytes(call.function.arguments).decode()
    return ToolCall(call.id or f"call_{number}", call.function.name, arguments if arguments != "null" else "{}")


def _finish_reason(line: _Line, *, called: bool) -> str:
    reason = line.done_reason or "stop"
    return "tool_calls" if called and reason == "stop" else reason


def _usage(line: _Line) -> Usage | None:
    """The server leaves out a count of nothing, and that of a prompt it had in memory: then there is no report."""
    sent, received = count(line.prompt_eval_count), count(line.eval_count)
    return None if sent is None or received is None else Usage(sent, received)


class LineReader:
    """Reads the lines of one stream. `last` says of the line just read that it ends the answer."""

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self._calls = 0

    def read(self, line: bytes) -> list[Delta]:
        """What the line brings. Raises BadAnswer, ProviderSaidError."""
        try:
            read = _decode(line)
            if read.error is not None:
                raise ProviderSaidError
            if read.message is None and not read.done:
                raise BadAnswer
            deltas = self._said(read.message or _Message())
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadAnswer from error
        self.last = read.done
        if read.done:
            self.finished = True
            deltas.append(Finish(_finish_reason(read, called=self._calls > 0)))
            if usage := _usage(read):
                deltas.append(usage)
        return deltas

    def _said(self, message: _Message) -> list[Delta]:
        deltas: list[Delta] = []
        if message.thinking:
            deltas.append(ReasoningDelta(message.thinking))
        if message.content:
            deltas.append(TextDelta(message.content))
        for call in message.tool_calls or ():
            deltas.append(ToolCallDelta(self._calls, *_call(call, self._calls)))
            self._calls += 1
        return deltas
