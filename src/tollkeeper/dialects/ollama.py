"""Ollama's own chat wire: requests to the server written, its answers and streams read. Callers do not use it.

Wire format: Ollama API reference, "Generate a chat completion".
"""

import re
from typing import Any

import msgspec

from tollkeeper.chat import (
    TOOL_CHOICE_PREFIX,
    ChatRequest,
    Completion,
    Delta,
    Finish,
    Image,
    Message,
    Options,
    Reasoning,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    UsageReport,
)
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    MalformedAnswer,
    ProviderSentError,
    check_other_event,
    has_error,
    raise_failure,
    token_count,
    usage_report,
)
from tollkeeper.dialects.answer_tool_calls import finish_reason_with, new_call_id, raw_arguments_text
from tollkeeper.dialects.images import HTTPS_PREFIX
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.parameters import unsupported, untranslatable
from tollkeeper.dialects.tool_results import arguments_object, tool_text

EMPTY_SCHEMA = {"type": "object", "properties": {}}
"""The schema of a tool without parameters."""

_DATA_URL_PREFIX = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,")
THINK = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
"""The `think` parameter for each of our efforts."""


def write_request(chat_request: ChatRequest, model: str) -> dict[str, Any]:
    """The request's fields, but for the output limit and the delivery options. The last field is always `options`.

    `strict` of a tool is dropped: the wire format has no field for it. Raises UnsupportedParameter for what it cannot
    express.
    """
    options = chat_request.options
    fields: dict[str, Any] = {"model": model, "messages": _write_messages(chat_request.messages)}
    if tools := _write_tools(options):
        fields["tools"] = tools
    if options.schema is not None:
        fields["format"] = options.schema
    elif options.json:
        fields["format"] = "json"
    if options.effort is not None:
        if options.effort not in THINK:
            raise untranslatable("reasoning_effort")
        fields["think"] = THINK[options.effort]
    sampling = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "seed": options.seed,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "stop": list(options.stop) or None,
    }
    fields["options"] = {name: value for name, value in sampling.items() if value is not None}
    return fields


def _write_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """A tool result names its tool here; a ToolResult has only the id of the call, so the names come from the calls.

    Where ids repeat, a result belongs to the latest call before it.
    """
    tool_names: dict[str, str] = {}
    return [written for message in messages for written in _write_message(message, tool_names)]


def _write_message(message: Message, tool_names: dict[str, str]) -> list[dict[str, Any]]:
    """The messages on the wire: each tool result is one of its own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    messages: list[dict[str, Any]] = []
    written: dict[str, Any] = {"role": message.role, "content": message.text}
    for part in message.content:
        match part:
            case ToolResult(call_id):
                result: dict[str, Any] = {"role": "tool", "content": tool_text(part), "tool_call_id": call_id}
                if inline := [image.url for image in part.images if not image.url.startswith(HTTPS_PREFIX)]:
                    result["images"] = [_image_data(url) for url in inline]
                messages.append(result | ({"tool_name": tool_names[call_id]} if call_id in tool_names else {}))
            case ToolCall(custom=True):
                raise unsupported("messages.tool_calls")
            case ToolCall(call_id, name, arguments):
                tool_names[call_id] = name
                call = {"id": call_id, "function": {"name": name, "arguments": arguments_object(arguments)}}
                written.setdefault("tool_calls", []).append(call)
            case Reasoning(text):
                written["thinking"] = written.get("thinking", "") + text
            case Image(url):
                written.setdefault("images", []).append(_image_data(url))
    if written["content"] or len(written) > 2 or not messages:
        messages.append(written)
    return messages


def _image_data(url: str) -> str:
    """The base64 data of a `data:` URL. Raises UnsupportedParameter for other URLs: the server fetches nothing."""
    prefix = _DATA_URL_PREFIX.match(url)
    if prefix is None:
        raise unsupported("messages.content")
    return url[prefix.end() :]


def _write_tools(options: Options) -> list[dict[str, Any]]:
    """The tools to offer. The wire format has no field for the tool choice, nor for parallel calls.

    For a named tool only that tool is offered; for `none`, no tool. `required`, and one call at a time, are ignored, as
    by the server's own OpenAI-compatible endpoint: clients that always send them could not use these models otherwise.
    """
    if any(tool.custom for tool in options.tools):
        raise unsupported("tools")
    choice, offered = options.tool_choice or "auto", options.tools
    if choice.startswith(TOOL_CHOICE_PREFIX):
        offered = tuple(tool for tool in offered if TOOL_CHOICE_PREFIX + tool.name == choice)
        if options.tools and not offered:
            raise unsupported("tool_choice")
    return [] if choice == "none" else [{"type": "function", "function": _write_function(tool)} for tool in offered]


def _write_function(tool: Tool) -> dict[str, Any]:
    description = {} if tool.description is None else {"description": tool.description}
    return {"name": tool.name, **description, "parameters": tool.parameters or EMPTY_SCHEMA}


class _FunctionCall(msgspec.Struct):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _ToolCall(msgspec.Struct):
    function: _FunctionCall | None = None
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Answer(msgspec.Struct):
    """The fields of a whole answer, or of one line of a stream, that metering, a Completion and the deltas need."""

    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_answer(body: bytes) -> Completion:
    """Read a whole answer.

    Raises MalformedAnswer if it is malformed or unfinished, ProviderSentError if it is an error.
    """
    answer = _decode_answer(body)
    if has_error(answer.error, has_answer=answer.message is not None):
        raise_failure(_usage(answer), has_output=answer.message is not None)
    message = answer.message
    if message is None or not answer.done:
        raise MalformedAnswer
    calls = tuple([_read_tool_call(call, call.function) for call in message.tool_calls or () if call.function])
    reason = finish_reason_with(answer.done_reason or "stop", called=bool(calls))
    return Completion(message.content or "", reason, _usage(answer), calls, reasoning=message.thinking or None)


def _decode_answer(data: bytes) -> _Answer:
    try:
        return _decode(data)
    except DECODE_ERRORS:
        return decode_leniently(data, _Answer)


def _read_tool_call(call: _ToolCall, function: _FunctionCall) -> ToolCall:
    """The tool call. Older servers send no id."""
    return ToolCall(call.id or new_call_id(), function.name, raw_arguments_text(function.arguments) or "{}")


def _usage(answer: _Answer) -> UsageReport | None:
    """The reported usage. The server omits a count that is 0, and that of a cached prompt."""
    return usage_report(token_count(answer.prompt_eval_count), token_count(answer.eval_count))


class StreamReader:
    """Reads the lines of one stream into deltas.

    `last`: the latest line ends the answer. `finished`: the answer is whole. `alone` is not used.
    """

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self.alone = False
        self._call_count = 0

    def read(self, line: bytes) -> list[Delta]:
        """The deltas of one line. Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error."""
        answer = _decode_answer(line)
        if has_error(answer.error, has_answer=answer.message is not None or answer.done):
            raise ProviderSentError(_usage(answer))
        if answer.message is None and not answer.done:
            check_other_event(line)
        deltas = self._read_message(answer.message or _Message())
        self.last = answer.done
        if answer.done:
            self.finished = True
            deltas.append(Finish(finish_reason_with(answer.done_reason or "stop", called=self._call_count > 0)))
            if usage := _usage(answer):
                deltas.append(usage)
        return deltas

    def _read_message(self, message: _Message) -> list[Delta]:
        deltas: list[Delta] = []
        if message.thinking:
            deltas.append(ReasoningDelta(message.thinking))
        if message.content:
            deltas.append(TextDelta(message.content))
        for call in message.tool_calls or ():
            if call.function is not None:
                deltas.append(ToolCallDelta(self._call_count, *_read_tool_call(call, call.function)[:4]))
                self._call_count += 1
        return deltas
