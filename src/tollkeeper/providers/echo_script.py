"""What the echo provider answers, besides its input: tool calls, and JSON by a schema."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tollkeeper.chat import TOOL_CHOICE_PREFIX, ChatRequest, Message, Tool, ToolCall, ToolResult
from tollkeeper.errors import InvalidRequest
from tollkeeper.providers.smallest_instance import smallest_instance
from tollkeeper.worker_thread import pause

PUNCTUATION = ".,:;!?\"'`()[]{}<>*"
"""What may stand around the name of a tool in a message."""
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_PIECE = re.compile(r"\s*\S+")
_NEXT_WORD = re.compile(r"\s{0,65536}+(\S*+)")
"""One match takes limited time, however long the white space is."""


class CallHead(NamedTuple):
    """The id and the name of a tool call, whose arguments are the words of the answer."""

    id: str
    name: str
    custom: bool


class Script(NamedTuple):
    """An answer other than the echo. `pieces` are its words, each with the space before it; None: those of the echo."""

    pieces: tuple[str, ...] | None
    call: CallHead | None = None


def script_of(request: ChatRequest, body: bytes) -> Script | None:
    """The answer to a request that has tools or requires JSON; None if it is the echo.

    Raises InvalidRequest if `tool_choice` names another tool, or for a tool or a schema that this model cannot answer.
    """
    options = request.options
    if options.tools and (tool := _chosen_tool(request)) is not None:
        if not _TOOL_NAME.fullmatch(tool.name):
            raise InvalidRequest("A tool's name must be 1 to 128 letters, digits, _, - or dots.", parameter="tools")
        head = CallHead(f"call_{hashlib.sha256(body).hexdigest()[:24]}", tool.name, tool.custom)
        return Script(None if tool.custom else _pieces(smallest_instance(tool.parameters or {})), head)
    if options.schema is not None:
        return Script(_pieces(smallest_instance(options.schema)))
    return Script(_pieces({})) if options.json else None


def text_of(message: Message) -> str:
    """The text of a message, with its tool calls and the results of tools."""
    if isinstance(message.content, str):
        return message.content
    others = [
        f" {part.name} {part.arguments}" if isinstance(part, ToolCall) else f" {part.content}"
        for part in message.content
        if isinstance(part, ToolCall | ToolResult)
    ]
    return message.text + "".join(others)


def _chosen_tool(request: ChatRequest) -> Tool | None:
    """The tool that is called: the one that `tool_choice` names; else the first that the last message names; else, if
    one is required, the first. None after the result of a tool.
    """
    tools, choice = request.options.tools, request.options.tool_choice
    last = last_message(request)
    if choice == "none" or any(isinstance(part, ToolResult) for part in last.parts):
        return None
    by_name = {tool.name: tool for tool in reversed(tools)}
    if choice is not None and choice.startswith(TOOL_CHOICE_PREFIX):
        named: Tool | None = by_name.get(choice.removeprefix(TOOL_CHOICE_PREFIX))
        if named is None:
            raise InvalidRequest("tool_choice names a tool that is not among the tools.", parameter="tool_choice")
        return named
    return _named_tool(last, by_name) or (tools[0] if choice == "required" else None)


def last_message(request: ChatRequest) -> Message:
    """The last message that is not the system's: some clients end the input with one of those."""
    return next((one for one in reversed(request.messages) if one.role != "system"), Message("user", ""))


def _named_tool(message: Message, by_name: dict[str, Tool]) -> Tool | None:
    """The first tool that a user's message names: a word of the message, without punctuation around it."""
    if message.role != "user":
        return None
    for word in words(message.text):
        if (tool := by_name.get(word.strip(PUNCTUATION))) is not None:
            return tool
    return None


def words(text: str) -> Iterator[str]:
    """The words of a text, in order."""
    end = 0
    while end < len(text) and (match := _NEXT_WORD.match(text, end)) is not None:
        pause()
        if match[1]:
            yield match[1]
        end = match.end()


def _pieces(value: Any) -> tuple[str, ...]:
    """The words of a JSON value."""
    return tuple(_PIECE.findall(json.dumps(value, ensure_ascii=False)))
