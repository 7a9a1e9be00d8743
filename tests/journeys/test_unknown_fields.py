"""What is looked into before it goes out: objects of which every field is known, and where pictures are."""

from typing import Any

import pytest

from journeys.support.compat_requests import (
    CHAT_DOOR,
    MESSAGES_DOOR,
    RESPONSES_DOOR,
    asked,
    assert_refused,
    events,
    post,
)
from journeys.support.provider_wires import CHAT, MESSAGES, RESPONSES
from journeys.support.server import Server
from journeys.support.users import person
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.exhaustive_on_postgres

PICTURE = "http://example.com/picture.png"


async def test_a_picture_by_plain_http_is_refused(doors: Server) -> None:
    """Whoever fetches it may be a server in the house, and what is inside seldom has a certificate."""
    async with person(doors) as caller:
        for wire in (CHAT, RESPONSES, MESSAGES):
            parts = [{"type": "image_url", "image_url": {"url": PICTURE}}]
            messages = [{"role": "user", "content": parts}]
            assert_refused(await post(caller, CHAT_DOOR, model=wire.model, messages=messages), "messages.content")
            parts = [{"type": "input_image", "image_url": PICTURE}]
            items = [{"role": "user", "content": parts}]
            assert_refused(await post(caller, RESPONSES_DOOR, model=wire.model, input=items), "input")
        assert await caller.charges() == []


UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    (CHAT_DOOR, {"tool_choice": {"type": "function", "function": {"name": "f", "foo": 1}}}, "tool_choice.function.foo"),
    (RESPONSES_DOOR, {"text": {"verbosity": "low", "foo": 1}}, "text.foo"),
    (RESPONSES_DOOR, {"text": {"format": {"type": "text", "foo": 1}}}, "text.format.foo"),
    (RESPONSES_DOOR, {"reasoning": {"effort": "low", "foo": 1}}, "reasoning.foo"),
    (RESPONSES_DOOR, {"stream_options": {"foo": False}}, "stream_options.foo"),
    (MESSAGES_DOOR, {"thinking": {"type": "disabled", "foo": 1}}, "thinking.foo"),
    (MESSAGES_DOOR, {"tool_choice": {"type": "auto", "foo": 1}}, "tool_choice.foo"),
]


@pytest.mark.parametrize(("path", "more", "place"), UNKNOWN, ids=[f"{path} {place}" for path, _, place in UNKNOWN])
async def test_an_unknown_field_of_a_known_object_is_refused_as_an_unknown_parameter_is(
    doors: Server, upstream: Upstream, path: str, more: dict[str, Any], place: str
) -> None:
    wire = {CHAT_DOOR: CHAT, RESPONSES_DOOR: RESPONSES, MESSAGES_DOOR: MESSAGES}[path]
    async with person(doors) as caller:
        question = {"input": caller.marker} if path == RESPONSES_DOOR else asked(caller.marker)
        limit = {"max_tokens": 100} if path == MESSAGES_DOOR else {}
        for streaming in (False, True):
            reply = await post(caller, path, model=wire.model, stream=streaming, **question, **limit, **more)
            unknown = await post(caller, path, model=wire.model, stream=streaming, **question, **limit, foo=1)
            assert reply.status == unknown.status == 400
            assert reply.headers["X-Error-Code"] == unknown.headers["X-Error-Code"] == "unsupported_parameter"
            assert reply.body["error"] | {"message": "", "param": ""} == unknown.body["error"] | {
                "message": "",
                "param": "",
            }
            assert place in reply.body["error"]["message"]
        assert (await caller.charges(), upstream.seen(caller.marker)) == ([], [])


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        {"response_format": {"type": "grammar", "grammar": "root ::= [a-z]"}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ],
)
async def test_what_compatible_servers_take_beyond_openai_does_no_harm(doors: Server, more: dict[str, Any]) -> None:
    async with person(doors) as caller:
        if "stream_options" in more:
            assert await events(caller, CHAT_DOOR, model=CHAT.model, **asked("hi"), **more)
        else:
            assert (await post(caller, CHAT_DOOR, model=CHAT.model, **asked("hi"), **more)).status == 200


async def test_what_callers_write_themselves_is_passed_on_whatever_is_in_it(doors: Server, upstream: Upstream) -> None:
    async with person(doors) as caller:
        messages = [{"role": "user", "content": caller.marker, "foo": {"bar": 1}}]
        schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"foo": {"bar": 1}}}}
        reply = await post(caller, CHAT_DOOR, model=CHAT.model, messages=messages, response_format=schema)
        assert reply.status == 200
        items = [{"role": "user", "content": caller.marker, "foo": {"bar": 1}}]
        reply = await post(caller, RESPONSES_DOOR, model=RESPONSES.model, input=items, metadata={"foo": "bar"})
        assert reply.status == 200
        first, second = (seen["body"] for seen in upstream.seen(caller.marker))
        assert (first["messages"], first["response_format"]) == (messages, schema)
        assert (second["input"], second["metadata"]) == (items, {"foo": "bar"})
