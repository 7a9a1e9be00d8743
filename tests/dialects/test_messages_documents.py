"""Documents, deferred tools and longer caches in the messages format: what they cost, and how they are translated."""

import base64
from typing import Any

import msgspec
import orjson
import pytest

from tollkeeper.chat import Message, ToolResult
from tollkeeper.dialects import messages
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.messages.documents import BYTES_PER_PAGE, MAX_PAGES
from tollkeeper.errors import UnsupportedParameter

HOUR = {"type": "ephemeral", "ttl": "1h"}
TOOL = {"name": "weather", "input_schema": {"type": "object"}}


def pdf(content: bytes) -> dict[str, Any]:
    data = base64.b64encode(content).decode()
    return {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}


def text_document(**fields: Any) -> dict[str, Any]:
    source = {"type": "text", "media_type": "text/plain", "data": "The sky."}
    return {"type": "document", "source": source, **fields}


def size_of(*blocks: dict[str, Any], **fields: Any) -> InputSize:
    document = {"messages": [{"role": "user", "content": list(blocks) or "hello"}], **fields}
    return messages.input_size_of(msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw]))


@pytest.mark.parametrize(
    ("content", "pages"),
    [
        (b"<< /Type /Pages >> << /Type /Page >> << /Type/Page/Parent 1 0 R >>", 2),
        (b"x", 1),
        (b"x" * 3 * BYTES_PER_PAGE, 4),
    ],
)
def test_only_the_context_window_bounds_a_pdf_and_its_pages_are_estimated(content: bytes, pages: int) -> None:
    in_result = {"type": "tool_result", "tool_use_id": "t", "content": [pdf(content)]}
    for block in (pdf(content), in_result):
        assert size_of(block) == InputSize(1, pdf_pages=pages, unbounded=True)


def test_a_pdf_that_is_no_base64_has_a_page() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "a"}
    assert size_of({"type": "document", "source": source}).pdf_pages == 1


def test_the_bytes_bound_a_document_of_text_but_not_with_citations() -> None:
    assert size_of(text_document(title="A", context="B")) == InputSize(1)
    assert size_of(text_document(citations={"enabled": False})) == InputSize(1)
    assert size_of(text_document(citations={"enabled": True})) == InputSize(1, unbounded=True)


def test_pictures_in_documents_are_counted() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    content = [{"type": "text", "text": "a"}, picture]
    size = size_of({"type": "document", "source": {"type": "content", "content": content}})
    assert size == InputSize(1, images=1, image_bytes=8)


@pytest.mark.parametrize(
    "place",
    [
        {"cache_control": HOUR},
        {"system": [{"type": "text", "text": "a", "cache_control": HOUR}]},
        {"tools": [TOOL | {"cache_control": HOUR}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": HOUR}]}]},
        {"messages": [{"role": "user", "content": [text_document(cache_control=HOUR)]}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [{"type": "text", "text": "a", "cache_control": HOUR}],
                        }
                    ],
                }
            ]
        },
    ],
)
def test_a_cache_for_an_hour_is_found_wherever_it_is_requested(place: dict[str, Any]) -> None:
    assert size_of(**place).hour_cache
    assert not size_of(**orjson.loads(orjson.dumps(place).replace(b'"1h"', b'"5m"'))).hour_cache
    escaped = orjson.dumps({"messages": [{"role": "user", "content": "a"}], **place}).replace(b'"1h"', b'"\\u0031h"')
    assert messages.input_size_of(msgspec.json.decode(escaped, type=dict[str, msgspec.Raw])).hour_cache


def test_each_reference_to_a_deferred_tool_may_insert_its_definition() -> None:
    tool = TOOL | {"defer_loading": True}
    references = [{"type": "tool_reference", "tool_name": name} for name in ("weather", "weather", "unknown")]
    result = {"type": "tool_result", "tool_use_id": "t", "content": references}
    assert size_of(result, tools=[tool]).repeated_bytes == 2 * len(orjson.dumps(tool))
    assert size_of(result).repeated_bytes == 0


def test_a_deferred_tool_needs_no_schema() -> None:
    assert size_of(tools=[{"name": "weather", "defer_loading": True}]).tools


def read(*blocks: dict[str, Any], dropped: Dropped | None = None, **fields: Any) -> Any:
    return messages.read_request({"messages": [{"role": "user", "content": list(blocks)}], **fields}, dropped)


def test_documents_of_text_and_tool_references_become_text() -> None:
    content = {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "tool_reference", "tool_name": "weather"}, text_document()],
    }
    request = read(text_document(title="Title"), {"type": "document", "source": content}, result)
    assert request.messages == (
        Message("user", ("Title\nThe sky.", "a\nb", ToolResult("t", "The tool weather is available.\nThe sky."))),
    )


def test_a_pdf_is_refused_where_the_providers_format_has_none() -> None:
    with pytest.raises(UnsupportedParameter):
        read(pdf(b"x"))


def test_deferred_tools_are_loaded_and_examples_are_left_out_where_the_providers_format_has_none() -> None:
    dropped = Dropped()
    tools = [TOOL | {"defer_loading": True, "input_examples": [{"city": "Ulm"}]}, {"name": "x", "defer_loading": True}]
    request = read({"type": "text", "text": "a"}, tools=tools, dropped=dropped)
    assert [tool.name for tool in request.options.tools] == ["weather"]
    assert dropped.names == ("input_examples",)


def test_the_pages_of_any_pdf_are_limited() -> None:
    assert size_of(pdf(b"/Type/Page " * 20_000)).pdf_pages == MAX_PAGES
