"""What the doors for others' wires make of a call, before and after any model."""

from typing import Any, cast

import orjson
import pytest

from tollkeeper.api.compat.anthropic import MESSAGES
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES
from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import Exchange, MeteredEndpoint
from tollkeeper.chat import TextDelta
from tollkeeper.dialects.sse import Splitter, event
from tollkeeper.errors import InputError, ProviderFailed
from tollkeeper.principal import Principal, Role
from tollkeeper.providers.base import StreamChunk

NOBODY = cast("Services", None)
CALLER = Principal(user_id=12, tenant_id=1, role=Role.MEMBER, token_version=0)
HELLO = [{"role": "user", "content": "hello"}]
ON_CHAT, ON_RESPONSES, ON_EMBEDDINGS = {"messages": HELLO}, {"input": "hello"}, {"input": "hello"}
NAMES = [
    (CHAT_COMPLETIONS, ON_CHAT, "user"),
    (CHAT_COMPLETIONS, ON_CHAT, "safety_identifier"),
    (CHAT_COMPLETIONS, ON_CHAT, "prompt_cache_key"),
    (RESPONSES, ON_RESPONSES, "user"),
    (RESPONSES, ON_RESPONSES, "safety_identifier"),
    (RESPONSES, ON_RESPONSES, "prompt_cache_key"),
    (EMBEDDINGS, ON_EMBEDDINGS, "user"),
]


async def opened(door: MeteredEndpoint, document: dict[str, Any], caller: Principal = CALLER) -> Exchange:
    visit = await door.parse(NOBODY, caller, orjson.dumps(document))
    assert not isinstance(visit, bytes)
    return visit


async def sent(door: MeteredEndpoint, document: dict[str, Any], caller: Principal = CALLER) -> dict[str, Any]:
    """What goes out of it, where the provider speaks the wire."""
    raw = (await opened(door, document, caller)).call.input.raw
    assert raw is not None
    return {name: orjson.loads(value) for name, value in raw.fields.items()}


@pytest.mark.parametrize(("door", "document", "name"), NAMES)
async def test_a_name_goes_out_as_one_that_is_the_callers_alone(
    door: MeteredEndpoint, document: dict[str, Any], name: str
) -> None:
    """Also where the numbers and the name, put together, read the same."""
    callers = [
        CALLER,
        Principal(2, 11, Role.MEMBER, 0),
        Principal(12, 2, Role.MEMBER, 0),
        Principal(13, 1, Role.MEMBER, 0),
    ]
    one, *others = [(await sent(door, document | {name: "☃/1"}, caller))[name] for caller in callers]
    other_name = (await sent(door, document | {name: "☃/2"}))[name]
    assert (len(one), "☃" in one) == (64, False)
    assert len({one, *others, other_name}) == 5
    assert one == (await sent(door, document | {name: "☃/1"}))[name]


async def test_a_name_in_the_metadata_of_a_message_is_the_callers_alone_too() -> None:
    document = {"messages": HELLO, "max_tokens": 5, "metadata": {"user_id": "alice"}}
    one = (await sent(MESSAGES, document))["metadata"]
    other = (await sent(MESSAGES, document, Principal(13, 1, Role.MEMBER, 0)))["metadata"]
    assert (one.keys(), len(one["user_id"])) == ({"user_id"}, 64)
    assert one != other


@pytest.mark.parametrize("metadata", [{}, {"user_id": None}])
async def test_who_gives_no_name_has_none(metadata: dict[str, Any]) -> None:
    assert await sent(CHAT_COMPLETIONS, ON_CHAT | {"user": None}) == ON_CHAT
    assert await sent(RESPONSES, ON_RESPONSES) == ON_RESPONSES
    document = {"messages": HELLO, "metadata": metadata}
    assert await sent(MESSAGES, document | {"max_tokens": 5}) == document


@pytest.mark.parametrize(("door", "document", "name"), NAMES)
async def test_a_name_that_is_no_text_is_refused(door: MeteredEndpoint, document: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError) as refused:
        await opened(door, document | {name: ["alice"]})
    assert refused.value.parameter == name


@pytest.mark.parametrize("raw", [True, False])
async def test_the_error_that_ends_a_response_has_the_next_number(raw: bool) -> None:
    visit = (await opened(RESPONSES, ON_RESPONSES | {"stream": True})).streamed
    assert visit is not None
    told = b""
    for number in range(3):
        said = event(orjson.dumps({"type": "response.output_text.delta", "sequence_number": number}))
        told += visit.render_chunk(StreamChunk(said if raw else b"", (TextDelta("a"),)))
    events = Splitter().feed(told + visit.render_error(ProviderFailed()))
    assert [orjson.loads(one.data)["sequence_number"] for one in events] == list(range(len(events)))
