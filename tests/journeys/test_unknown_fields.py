"""Fields that are checked before a request is passed on: fields of known objects, and the URLs of pictures."""

from typing import Any

import pytest

from journeys.support.compat_requests import (
    CHAT_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
    assert_refused,
    events,
    post,
    user_messages,
)
from journeys.support.provider_wires import CHAT, MESSAGES, RESPONSES
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.prove_only_on_postgres

PICTURE = "http://example.com/picture.png"


async def test_a_picture_by_plain_http_is_refused(all_wires_server: Server) -> None:
    """A provider that fetches it may run in the operator's network, where servers seldom have a certificate."""
    async with new_user(all_wires_server) as caller:
        for wire in (CHAT, RESPONSES, MESSAGES):
            parts = [{"type": "image_url", "image_url": {"url": PICTURE}}]
            messages = [{"role": "user", "content": parts}]
            assert_refused(await post(caller, CHAT_PATH, model=wire.model, messages=messages), "messages.content")
            parts = [{"type": "input_image", "image_url": PICTURE}]
            items = [{"role": "user", "content": parts}]
            assert_refused(await post(caller, RESPONSES_PATH, model=wire.model, input=items), "input")
        assert await caller.charges() == []


@pytest.mark.parametrize("address", ["https://169.254.169.254/latest", "https://me:secret@example.com/a.png"])
async def test_a_picture_at_an_address_that_is_not_public_is_refused(all_wires_server: Server, address: str) -> None:
    chat = {"type": "image_url", "image_url": {"url": address}}
    messages = {"type": "image", "source": {"type": "url", "url": address}}
    requests: list[tuple[str, dict[str, Any], str]] = [
        (CHAT_PATH, {"messages": [{"role": "user", "content": [chat]}]}, "messages.content"),
        (
            RESPONSES_PATH,
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]},
            "input",
        ),
        (
            MESSAGES_PATH,
            {"messages": [{"role": "user", "content": [messages]}], "max_tokens": 9},
            "messages[0].content[0].source.url",
        ),
    ]
    async with new_user(all_wires_server) as caller:
        for wire in (CHAT, RESPONSES, MESSAGES):
            for path, document, place in requests:
                reply = await post(caller, path, model=wire.model, **document)
                assert (reply.status, reply.headers["X-Error-Code"]) == (400, "invalid_request"), reply
                assert place in reply.body["error"]["message"]
                assert address not in str(reply.body)
        assert await caller.charges() == []


UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    (CHAT_PATH, {"tool_choice": {"type": "function", "function": {"name": "f", "foo": 1}}}, "tool_choice.function.foo"),
    (RESPONSES_PATH, {"text": {"verbosity": "low", "foo": 1}}, "text.foo"),
    (RESPONSES_PATH, {"text": {"format": {"type": "text", "foo": 1}}}, "text.format.foo"),
    (RESPONSES_PATH, {"reasoning": {"effort": "low", "foo": 1}}, "reasoning.foo"),
    (RESPONSES_PATH, {"stream_options": {"foo": False}}, "stream_options.foo"),
    (MESSAGES_PATH, {"thinking": {"type": "disabled", "foo": 1}}, "thinking.foo"),
    (MESSAGES_PATH, {"tool_choice": {"type": "auto", "foo": 1}}, "tool_choice.foo"),
]


@pytest.mark.parametrize(("path", "more", "place"), UNKNOWN, ids=[f"{path} {place}" for path, _, place in UNKNOWN])
async def test_an_unknown_field_of_a_known_object_is_refused_like_an_unknown_parameter(
    all_wires_server: Server, upstream: Upstream, path: str, more: dict[str, Any], place: str
) -> None:
    wire = {CHAT_PATH: CHAT, RESPONSES_PATH: RESPONSES, MESSAGES_PATH: MESSAGES}[path]
    async with new_user(all_wires_server) as caller:
        content = {"input": caller.marker} if path == RESPONSES_PATH else user_messages(caller.marker)
        limit = {"max_tokens": 100} if path == MESSAGES_PATH else {}
        for streaming in (False, True):
            reply = await post(caller, path, model=wire.model, stream=streaming, **content, **limit, **more)
            unknown = await post(caller, path, model=wire.model, stream=streaming, **content, **limit, foo=1)
            assert reply.status == unknown.status == 400
            assert reply.headers["X-Error-Code"] == unknown.headers["X-Error-Code"] == "unsupported_parameter"
            assert reply.body["error"] | {"message": "", "param": ""} == unknown.body["error"] | {
                "message": "",
                "param": "",
            }
            assert place in reply.body["error"]["message"]
        assert (await caller.charges(), upstream.requests(caller.marker)) == ([], [])


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        {"response_format": {"type": "grammar", "grammar": "root ::= [a-z]"}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ],
)
async def test_extensions_of_compatible_servers_are_accepted(all_wires_server: Server, more: dict[str, Any]) -> None:
    async with new_user(all_wires_server) as caller:
        if "stream_options" in more:
            assert await events(caller, CHAT_PATH, model=CHAT.model, **user_messages("hi"), **more)
        else:
            assert (await post(caller, CHAT_PATH, model=CHAT.model, **user_messages("hi"), **more)).status == 200


async def test_unknown_fields_inside_messages_schemas_and_metadata_are_passed_on(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with new_user(all_wires_server) as caller:
        messages = [{"role": "user", "content": caller.marker, "foo": {"bar": 1}}]
        schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"foo": {"bar": 1}}}}
        reply = await post(caller, CHAT_PATH, model=CHAT.model, messages=messages, response_format=schema)
        assert reply.status == 200
        items = [{"role": "user", "content": caller.marker, "foo": {"bar": 1}}]
        reply = await post(caller, RESPONSES_PATH, model=RESPONSES.model, input=items, metadata={"foo": "bar"})
        assert reply.status == 200
        first, second = (request["body"] for request in upstream.requests(caller.marker))
        assert (first["messages"], first["response_format"]) == (messages, schema)
        assert (second["input"], second["metadata"]) == (items, {"foo": "bar"})
