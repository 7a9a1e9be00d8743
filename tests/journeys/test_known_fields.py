"""What is looked into before it goes out: objects of which every field is known, and where pictures are."""

import json
from typing import Any

import pytest

from journeys.many_wires import CHAT, MESSAGES, OLLAMA, RESPONSES, Wire
from journeys.people import Reply, person
from journeys.posting import CHAT_DOOR, MESSAGES_DOOR, RESPONSES_DOOR, asked, assert_refused, post
from journeys.server import Server
from journeys.upstream import Upstream

PICTURE = "http://example.com/picture.png"
INNER = "http://169.254.169.254/latest/meta-data"
LARGEST_PICTURE = 16_384
"""Tokens of one, for a model of which nothing is known."""


@pytest.mark.parametrize("wire", [CHAT, RESPONSES], ids=["chat", "responses"])
async def test_a_picture_may_be_linked_by_plain_http_and_is_priced_apart(
    doors: Server, upstream: Upstream, wire: Wire
) -> None:
    async with person(doors) as caller:

        async def ask(path: str, url: str | None) -> Reply:
            text = {"type": "text" if path == CHAT_DOOR else "input_text", "text": caller.marker}
            linked: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
            if path == RESPONSES_DOOR:
                linked = {"type": "input_image", "image_url": url}
            content = [text] if url is None else [text, linked]
            name = "messages" if path == CHAT_DOOR else "input"
            return await post(caller, path, model=wire.model, **{name: [{"role": "user", "content": content}]})

        for path, place in ((CHAT_DOOR, "messages.content"), (RESPONSES_DOOR, "input")):
            assert (await ask(path, PICTURE)).status == (await ask(path, None)).status == 200
            plain, pictured, *_ = await caller.charges()
            assert LARGEST_PICTURE <= pictured["held"] - plain["held"] <= LARGEST_PICTURE + 200
            assert PICTURE in json.dumps(upstream.seen(caller.marker)[-2]["body"])
            assert_refused(await ask(path, INNER), place)
        assert len(await caller.charges()) == 4


async def test_a_picture_by_plain_http_is_refused_where_the_provider_takes_none(doors: Server) -> None:
    """Anthropic fetches by `https:` alone, Ollama fetches nothing."""
    parts = [{"type": "image_url", "image_url": {"url": PICTURE}}]
    async with person(doors) as caller:
        for wire in (MESSAGES, OLLAMA):
            messages = [{"role": "user", "content": parts}]
            reply = await post(caller, CHAT_DOOR, model=wire.model, messages=messages)
            assert_refused(reply, "messages.content")
        assert await caller.charges() == []


UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    (CHAT_DOOR, {"stream_options": {"include_usage": True, "foo": 1}}, "stream_options.foo"),
    (CHAT_DOOR, {"response_format": {"type": "text", "foo": {}}}, "response_format.foo"),
    (
        CHAT_DOOR,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "foo": 1}}},
        "response_format.json_schema.foo",
    ),
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
