"""Reads the tools in a request of a caller, and which of them the model must call."""

from collections.abc import Iterator, Sequence

from tollkeeper.chat import TOOL_CHOICE_PREFIX, Grammar, Tool
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.parameters import malformed, unsupported
from tollkeeper.dialects.responses import content
from tollkeeper.dialects.responses.namespaces import flat_name


def read_tools(
    tools: Sequence[content.ToolDefinition], items: Sequence[content.Item], dropped: Dropped
) -> Iterator[Tool]:
    """The tools, also those of namespaces, and those that items of the input add.

    Raises UnsupportedParameter for a tool that the provider would run, InvalidRequest for a malformed one.
    """
    content.check_tools(tools, "tools")
    if any(tool.type == content.TOOL_SEARCH for tool in tools):
        dropped.add(content.TOOL_SEARCH)
    declared = [tool for each in tools for tool in _read_each(each)]
    yield from declared
    names = {tool.name for tool in declared}
    for tool in (tool for item in items for each in item.tools or () for tool in _read_each(each)):
        if tool.name not in names:
            names.add(tool.name)
            yield tool


def _read_each(tool: content.ToolDefinition) -> Iterator[Tool]:
    """The tool, or the tools of a namespace; none for the search for tools."""
    if tool.type == content.NAMESPACE:
        yield from (_read_tool(tool.name, inner) for inner in tool.tools or ())
    elif tool.type != content.TOOL_SEARCH:
        yield _read_tool(None, tool)


def _read_tool(namespace: str | None, tool: content.ToolDefinition) -> Tool:
    if tool.name is None:
        raise malformed("tools")
    name = flat_name(namespace, tool.name)
    if tool.type == "custom":
        return Tool(name, tool.description, None, custom=True, grammar=_read_grammar(tool.format))
    return Tool(name, tool.description, tool.parameters, tool.strict)


def _read_grammar(tool_format: content.ToolFormat | None) -> Grammar | None:
    if tool_format is None or tool_format.type == "text":
        return None
    if tool_format.type != "grammar" or tool_format.syntax is None or tool_format.definition is None:
        raise unsupported("tools")
    return Grammar(tool_format.syntax, tool_format.definition)


def read_tool_choice(choice: str | content.ToolChoice | None) -> str | None:
    """Our tool choice. Raises UnsupportedParameter for that of a hosted tool, InvalidRequest if it is malformed."""
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice in {"auto", "none", "required"}:
            return choice
        raise malformed("tool_choice")
    if choice.type not in content.TOOL_TYPES:
        raise unsupported("tool_choice")
    if choice.name is None:
        raise malformed("tool_choice")
    return TOOL_CHOICE_PREFIX + choice.name
