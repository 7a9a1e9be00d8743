"""Exchanges of the compatible endpoints: the fields for a provider, and the end of a stream that failed."""

from typing import Any

import orjson
import pytest

from tollkeeper.api.compat.anthropic import MESSAGES
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.chat import TextDelta
from tollkeeper.dialects.sse import Splitter, event
from tollkeeper.errors import InputError, ProviderFailed
from tollkeeper.principal import Principal, Role
from tollkeeper.providers.base import StreamChunk

CALLER = Principal(user_id=12, tenant_id=1, role=Role.MEMBER, token_version=0)
HELLO = [{"role": "user", "content": "hello"}]
ON_CHAT, ON_RESPONSES, ON_EMBEDDINGS = {"messages": HELLO}, {"input": "hello"}, {"input": "hello"}
USER_FIELDS = [
    (CHAT_COMPLETIONS, ON_CHAT, "user"),
    (CHAT_COMPLETIONS, ON_CHAT, "safety_identifier"),
    (CHAT_COMPLETIONS, ON_CHAT, "prompt_cache_key"),
    (RESPONSES, ON_RESPONSES, "user"),
    (RESPONSES, ON_RESPONSES, "safety_identifier"),
    (RESPONSES, ON_RESPONSES, "prompt_cache_key"),
    (EMBEDDINGS, ON_EMBEDDINGS, "user"),
]


def parsed(endpoint: MeteredEndpoint, document: dict[str, Any], caller: Principal = CALLER) -> Exchange:
    exchange: Exchange = endpoint.parse(caller, orjson.dumps(document))
    assert not isinstance(exchange, bytes)
    return exchange


async def fields_sent(
    endpoint: MeteredEndpoint, document: dict[str, Any], caller: Principal = CALLER
) -> dict[str, Any]:
    """The fields that a provider of the same wire receives."""
    raw = parsed(endpoint, document, caller).call.input.raw
    assert raw is not None
    return {name: orjson.loads(value) for name, value in raw.fields.items()}


@pytest.mark.parametrize(("endpoint", "document", "name"), USER_FIELDS)
async def test_a_user_identifier_is_replaced_by_a_pseudonym_of_the_caller(
    endpoint: MeteredEndpoint, document: dict[str, Any], name: str
) -> None:
    """Also where the ids read the same when joined: tenant 1, user 12; and tenant 11, user 2."""
    callers = [
        CALLER,
        Principal(2, 11, Role.MEMBER, 0),
        Principal(12, 2, Role.MEMBER, 0),
        Principal(13, 1, Role.MEMBER, 0),
    ]
    one, *others = [(await fields_sent(endpoint, document | {name: "☃/1"}, caller))[name] for caller in callers]
    other_name = (await fields_sent(endpoint, document | {name: "☃/2"}))[name]
    assert (len(one), "☃" in one) == (64, False)
    assert len({one, *others, other_name}) == 5
    assert one == (await fields_sent(endpoint, document | {name: "☃/1"}))[name]


async def test_a_user_id_in_the_metadata_of_a_message_is_replaced_too() -> None:
    document = {"messages": HELLO, "max_tokens": 5, "metadata": {"user_id": "alice"}}
    one = (await fields_sent(MESSAGES, document))["metadata"]
    other = (await fields_sent(MESSAGES, document, Principal(13, 1, Role.MEMBER, 0)))["metadata"]
    assert (one.keys(), len(one["user_id"])) == ({"user_id"}, 64)
    assert one != other


@pytest.mark.parametrize("metadata", [{}, {"user_id": None}])
async def test_a_request_without_a_user_identifier_is_sent_without_one(metadata: dict[str, Any]) -> None:
    assert await fields_sent(CHAT_COMPLETIONS, ON_CHAT | {"user": None}) == ON_CHAT
    assert await fields_sent(RESPONSES, ON_RESPONSES) == ON_RESPONSES
    document = {"messages": HELLO, "metadata": metadata}
    assert await fields_sent(MESSAGES, document | {"max_tokens": 5}) == document


@pytest.mark.parametrize(("endpoint", "document", "name"), USER_FIELDS)
async def test_a_user_identifier_that_is_no_text_is_refused(
    endpoint: MeteredEndpoint, document: dict[str, Any], name: str
) -> None:
    with pytest.raises(InputError) as refused:
        parsed(endpoint, document | {name: ["alice"]})
    assert refused.value.parameter == name


@pytest.mark.parametrize("raw", [True, False])
async def test_the_error_that_ends_a_response_has_the_next_sequence_number(raw: bool) -> None:
    exchange = parsed(RESPONSES, ON_RESPONSES | {"stream": True}).streamed
    assert exchange is not None
    stream = b""
    for number in range(3):
        raw_event = event(orjson.dumps({"type": "response.output_text.delta", "sequence_number": number}))
        stream += exchange.render_chunk(StreamChunk(raw_event if raw else b"", (TextDelta("a"),)))
    events = Splitter().feed(stream + exchange.render_error(ProviderFailed()))
    assert [orjson.loads(one.data)["sequence_number"] for one in events] == list(range(len(events)))
