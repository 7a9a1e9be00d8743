"""Tool calls and results of earlier turns, for wire formats that take less in them than others."""

from typing import Any

import orjson

from tollkeeper.chat import ToolResult

IMAGE_NOTE = "The tool returned an image."
"""The text of a result that has only images, where the wire format puts these elsewhere."""


def tool_text(result: ToolResult) -> str:
    """The text of a result whose images are not in it."""
    return result.content or (IMAGE_NOTE if result.images else "")


def arguments_object(arguments: str) -> dict[str, Any]:
    """The arguments of a tool call as an object; an empty one if they are none, as in an answer that was cut."""
    try:
        value = orjson.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
