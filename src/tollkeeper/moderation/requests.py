"""The texts of requests and answers, and both with their texts changed."""

from collections.abc import Callable
from typing import Any

from tollkeeper.chat import ChatRequest, Completion, Message, Options, Part, Reasoning, Tool, ToolCall, ToolResult
from tollkeeper.moderation.scan import map_json, texts_in_json

Change = Callable[[str], str]
_NOT_PROSE = frozenset({"$id", "$ref", "$schema", "format", "pattern", "required", "type"})
"""Fields of a JSON Schema whose texts only name things of the schema."""


def change_texts(request: ChatRequest, change: Change) -> ChatRequest:
    """The request with all texts of its messages changed, and those of its tools and of its schema, but for names.

    A block of reasoning that changes loses its signature, which does not belong to the new text.
    """
    messages = tuple(_change_message(message, change) for message in request.messages)
    return ChatRequest(messages, _change_options(request.options, change))


def _change_message(message: Message, change: Change) -> Message:
    if isinstance(message.content, str):
        return message._replace(content=change(message.content))
    return message._replace(content=tuple(_change_part(part, change) for part in message.content))


def _change_part(part: Part, change: Change) -> Part:
    match part:
        case str():
            return change(part)
        case Reasoning(text):
            changed = change(text)
            return part if changed == text else Reasoning(changed)
        case ToolCall():
            arguments = change(part.arguments) if part.custom else map_json(part.arguments, change)
            return part._replace(arguments=arguments)
        case ToolResult():
            return part._replace(content=change(part.content))
        case _:
            return part


def _change_options(options: Options, change: Change) -> Options:
    return options._replace(
        tools=tuple(_change_tool(tool, change) for tool in options.tools),
        schema=_change_schema(options.schema, change),
        schema_description=change(options.schema_description) if options.schema_description else None,
    )


def _change_tool(tool: Tool, change: Change) -> Tool:
    return tool._replace(
        description=change(tool.description) if tool.description else tool.description,
        parameters=_change_schema(tool.parameters, change),
        grammar=tool.grammar._replace(definition=change(tool.grammar.definition)) if tool.grammar else None,
    )


def _change_schema(value: Any, change: Change) -> Any:
    """A JSON Schema, or a part of one, with its texts changed. The names of properties stay."""
    match value:
        case str():
            return change(value)
        case list():
            return [_change_schema(one, change) for one in value]
        case dict():
            return {key: one if key in _NOT_PROSE else _change_schema(one, change) for key, one in value.items()}
        case _:
            return value


def change_answer(completion: Completion, change: Change) -> Completion:
    """The answer with all its texts changed. A block of reasoning that changes loses its signature, as above."""
    blocks = tuple(
        block if (text := change(block.text)) == block.text else Reasoning(text)
        for block in completion.signed_reasoning
    )
    calls = tuple(
        call._replace(arguments=change(call.arguments) if call.custom else map_json(call.arguments, change))
        for call in completion.tool_calls
    )
    return completion._replace(
        text=change(completion.text),
        refusal=change(completion.refusal) if completion.refusal is not None else None,
        reasoning=change(completion.reasoning) if completion.reasoning is not None else None,
        signed_reasoning=blocks,
        tool_calls=calls,
        raw=None,
    )


def answer_texts(completion: Completion) -> list[str]:
    """All texts of an answer, the arguments of its tool calls decoded."""
    texts = [completion.text, completion.reasoning or "", completion.refusal or ""]
    for call in completion.tool_calls:
        texts += [call.name, *([call.arguments] if call.custom else texts_in_json(call.arguments))]
    return list(filter(None, texts))
