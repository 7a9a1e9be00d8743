"""What earlier turns left in a request: it is read and written in every wire format, and never refused."""

from collections.abc import Callable
from typing import Any

import pytest

from tollkeeper.chat import ChatRequest, Image, Message, Options, ToolCall, ToolResult
from tollkeeper.dialects import chat, completions, messages, ollama, responses
from tollkeeper.dialects.messages.request_writer import JSON_INSTRUCTION
from tollkeeper.errors import InvalidRequest, UnsupportedParameter
from tollkeeper.providers.http_common import input_size_of

PNG = "data:image/png;base64,aGVsbG8="
URL = "https://example.com/a.png"
CALL = Message("assistant", (ToolCall("c1", "look", "{}"), ToolCall("c2", "look", "{}")))
RESULT = ToolResult("c1", "a cat", (Image(PNG),))
RESULTS = (Message("user", (RESULT,)), Message("user", (ToolResult("c2", "", (Image(URL),)),)))


def chat_result(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "tool", "tool_call_id": "c1", "content": list(parts)}]}


def messages_result(*parts: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": list(parts)}]}
        ]
    }


def responses_result(*parts: Any) -> dict[str, Any]:
    return {"input": [{"type": "function_call_output", "call_id": "c1", "output": list(parts)}]}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


CHAT_IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
MESSAGES_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
RESPONSES_IMAGE = {"type": "input_image", "image_url": PNG}


@pytest.mark.parametrize(
    ("read", "request_"),
    [
        (chat.read_request, chat_result(text("a cat"), CHAT_IMAGE)),
        (messages.read_request, messages_result(text("a cat"), MESSAGES_IMAGE)),
        (responses.read_request, responses_result({"type": "output_text", "text": "a cat"}, RESPONSES_IMAGE)),
        (responses.read_request, responses_result(RESPONSES_IMAGE, {"type": "input_text", "text": "a cat"})),
    ],
)
def test_an_image_that_a_tool_returned_is_read_and_counted(
    read: Callable[[dict[str, Any]], ChatRequest], request_: dict[str, Any]
) -> None:
    request = read(request_)
    assert request.messages == (Message("user", (RESULT,)),)
    size = input_size_of(request)
    assert (size.images, size.image_bytes) == (1, len("aGVsbG8="))


@pytest.mark.parametrize("url", ["http://example.com/a.png", "https://127.0.0.1/a.png", "file:///etc/passwd"])
def test_an_image_that_a_tool_returned_is_checked_as_others_are(url: str) -> None:
    with pytest.raises((InvalidRequest, UnsupportedParameter)):
        responses.read_request(responses_result({"type": "input_image", "image_url": url}))


def test_a_model_of_the_messages_wire_gets_the_image_in_the_result() -> None:
    written = messages.write_request(ChatRequest((CALL, *RESULTS)), "m")
    assert [block["content"] for block in written["messages"][1]["content"]] == [
        [text("a cat"), MESSAGES_IMAGE],
        [{"type": "image", "source": {"type": "url", "url": URL}}],
    ]


def test_a_model_of_the_responses_wire_gets_the_image_in_the_output() -> None:
    written = responses.write_request(ChatRequest((CALL, *RESULTS)), "m")
    assert [item["output"] for item in written["input"][2:]] == [
        [{"type": "input_text", "text": "a cat"}, RESPONSES_IMAGE],
        [{"type": "input_image", "image_url": URL}],
    ]


CHAT_RESULTS = [
    {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    {"role": "tool", "tool_call_id": "c2", "content": "The tool returned an image."},
]
CHAT_IMAGES = [CHAT_IMAGE, {"type": "image_url", "image_url": {"url": URL}}]


@pytest.mark.parametrize(
    ("following", "expected"),
    [
        ([], [{"role": "user", "content": CHAT_IMAGES}]),
        ([Message("user", "so?")], [{"role": "user", "content": [*CHAT_IMAGES, text("so?")]}]),
        (
            [Message("user", ("so?", Image(PNG)))],
            [{"role": "user", "content": [*CHAT_IMAGES, text("so?"), CHAT_IMAGE]}],
        ),
        (
            [Message("assistant", "A cat."), Message("user", "so?")],
            [
                {"role": "user", "content": CHAT_IMAGES},
                {"role": "assistant", "content": "A cat."},
                {"role": "user", "content": "so?"},
            ],
        ),
    ],
)
def test_a_model_of_the_chat_wire_gets_the_images_after_all_results_of_the_turn(
    following: list[Message], expected: list[dict[str, Any]]
) -> None:
    written = chat.write_request(ChatRequest((CALL, *RESULTS, *following)), "m")
    assert written["messages"][1:] == [*CHAT_RESULTS, *expected]


def test_ollama_gets_inline_images_beside_the_result_and_no_urls() -> None:
    written = ollama.write_request(ChatRequest((CALL, *RESULTS)), "m")
    named = {"role": "tool", "tool_name": "look"}
    assert written["messages"][1:] == [
        {**named, "content": "a cat", "tool_call_id": "c1", "images": ["aGVsbG8="]},
        {**named, "content": "The tool returned an image.", "tool_call_id": "c2"},
    ]


@pytest.mark.parametrize("arguments", ['{"city":"Os', "", "[1]", "null", "7", '{"a":1}{'])
def test_arguments_that_are_no_object_are_written_as_an_empty_one(arguments: str) -> None:
    request = ChatRequest((Message("user", "go"), Message("assistant", (ToolCall("c1", "look", arguments),))))
    [block] = messages.write_request(request, "m")["messages"][1]["content"]
    [call] = ollama.write_request(request, "m")["messages"][1]["tool_calls"]
    assert (block["input"], call["function"]["arguments"]) == ({}, {})


@pytest.mark.parametrize(
    "request_",
    [
        messages.read_request(
            {"system": [text("A."), text("B.")], "messages": [{"role": "user", "content": [text("A."), text("B.")]}]}
        ),
        chat.read_request({"messages": [{"role": r, "content": [text("A."), text("B.")]} for r in ("system", "user")]}),
        responses.read_request(
            {
                "input": [
                    {"role": role, "content": [{"type": "input_text", "text": one} for one in ("A.", "B.")]}
                    for role in ("system", "user")
                ]
            }
        ),
    ],
    ids=["messages", "chat", "responses"],
)
def test_text_blocks_are_not_glued_where_a_wire_takes_one_text(request_: ChatRequest) -> None:
    for write in (chat.write_request, ollama.write_request):
        assert [message["content"] for message in write(request_, "m")["messages"]] == ["A.\nB.", "A.\nB."]


@pytest.mark.parametrize(
    ("read", "request_"),
    [
        (chat.read_request, chat_result(text("A."), text("B."))),
        (messages.read_request, messages_result(text("A."), text("B."))),
        (responses.read_request, responses_result(*({"type": "input_text", "text": one} for one in ("A.", "B.")))),
    ],
)
def test_the_texts_of_a_tool_result_are_not_glued(
    read: Callable[[dict[str, Any]], ChatRequest], request_: dict[str, Any]
) -> None:
    assert read(request_).messages == (Message("user", (ToolResult("c1", "A.\nB."),)),)


HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("read", "request_"),
    [
        (chat.read_request, {"messages": HELLO, "stop": ""}),
        (chat.read_request, {"messages": HELLO, "stop": [""]}),
        (messages.read_request, {"messages": HELLO, "stop_sequences": [""]}),
        (completions.read_request, {"prompt": "hello", "stop": ""}),
    ],
)
def test_an_empty_stop_sequence_is_none(
    read: Callable[[dict[str, Any]], ChatRequest], request_: dict[str, Any]
) -> None:
    assert read(request_).options.stop == ()


@pytest.mark.parametrize(
    ("read", "request_"),
    [
        (chat.read_request, {"messages": HELLO}),
        (messages.read_request, {"messages": HELLO}),
        (responses.read_request, {"input": "hello"}),
        (completions.read_request, {"prompt": "hello"}),
    ],
)
def test_the_error_for_a_number_that_is_sent_as_text_names_the_parameter(
    read: Callable[[dict[str, Any]], ChatRequest], request_: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match=r"^temperature ") as refused:
        read(request_ | {"temperature": "0.5"})
    assert refused.value.parameter == "temperature"


@pytest.mark.parametrize(
    ("request_", "content"),
    [
        (ChatRequest((Message("system", "be kind"),)), "be kind"),
        (ChatRequest((Message("system", ("be", "kind")), Message("assistant", ""))), [text("be"), text("kind")]),
        (ChatRequest((), Options(json=True)), JSON_INSTRUCTION),
    ],
)
def test_on_the_messages_wire_a_system_message_alone_is_sent_by_the_user(request_: ChatRequest, content: Any) -> None:
    """The API requires a message."""
    written = messages.write_request(request_, "m")
    assert written == {"model": "m", "messages": [{"role": "user", "content": content}]}
