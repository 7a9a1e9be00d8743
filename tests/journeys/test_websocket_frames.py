"""WS /ai/ws: who may come in, and what becomes of frames that are not what they must be."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from databases import new_sqlite
from journeys.support.forged_tokens import forge
from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.support.websocket import calling, dialled
from journeys.upstream.handle import Upstream, scripted

USAGE = {"input": 15, "output": 9}
MAX_FRAME = 1024 * 1024
MAX_FIRST_FRAME = 32 * 1024
MAX_BAD_FRAMES = 10
CALLS = 2


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Iterator[Server]:
    """A server with little patience and a small limit on calls."""
    folder: Path = tmp_path_factory.mktemp("strict")
    url = new_sqlite(folder, migrated_file)
    settings = {"OPENAI_BASE_URL": upstream.base_url, "TOLLKEEPER_RATE_LIMIT_AI": f"{CALLS}/hour"}
    server = Server(url, folder, settings)
    try:
        yield server.start(("journeys.support.serve_with_short_auth_timeout", "serve"))
        server.stop()
    finally:
        server.free()


async def test_the_first_frame_says_who_is_calling(shared_sqlite: Server) -> None:
    async with person(shared_sqlite) as caller, dialled(shared_sqlite) as call:
        await call.say("auth", token=caller.token)
        ready = await call.hear()
        response = call.connection.response
    assert response is not None
    assert ready == {"type": "ready", "correlation_id": response.headers["X-Correlation-ID"]}
    assert float(response.headers["X-Process-Time"]) >= 0


async def test_who_says_nothing_is_shut_out_in_time(strict: Server) -> None:
    async with dialled(strict) as call:
        assert await call.closed_with() == 4401


async def test_a_token_in_the_query_string_or_a_header_is_no_token(strict: Server, upstream: Upstream) -> None:
    async with person(strict) as caller:
        path = f"/ai/ws?token={caller.token}&access_token={caller.token}"
        async with dialled(strict, path, additional_headers=caller.bearer) as call:
            assert await call.closed_with() == 4401
        async with dialled(strict, path, additional_headers=caller.bearer) as call:
            await call.say("query", prompt=caller.marker)
            assert await call.closed_with() == 4401
        assert await caller.charges() == upstream.seen(caller.marker) == []


FIRST_FRAMES: dict[str, Callable[[Person], str | bytes]] = {
    "a wrong token": lambda _: json.dumps({"type": "auth", "token": "wrong"}),
    "an expired token": lambda caller: _auth(forge(caller.principal, {"exp": int(time.time()) - 1})),
    "a token of another secret": lambda caller: _auth(forge(caller.principal, secret="x" * 40)),
    "a token too long": lambda caller: _auth(caller.token + "A" * 30_000),
    "a token that is no text": lambda _: json.dumps({"type": "auth", "token": 7}),
    "no token": lambda _: json.dumps({"type": "auth"}),
    "a field too many": lambda caller: json.dumps({"type": "auth", "token": caller.token, "role": "operator"}),
    "a turn": lambda caller: json.dumps({"type": "query", "prompt": caller.marker}),
    "a cancel": lambda _: json.dumps({"type": "cancel"}),
    "no JSON": lambda caller: caller.token,
    "nothing": lambda _: "",
}


@pytest.mark.parametrize("frame", FIRST_FRAMES.values(), ids=FIRST_FRAMES.keys())
async def test_a_first_frame_without_a_good_token_is_the_last(
    shared_sqlite: Server, frame: Callable[[Person], str | bytes]
) -> None:
    async with person(shared_sqlite) as caller, dialled(shared_sqlite) as call:
        await call.connection.send(frame(caller))
        assert await call.closed_with() == 4401
        assert await caller.charges() == []


async def test_a_token_that_expires_shuts_out_before_the_next_turn(shared_sqlite: Server, upstream: Upstream) -> None:
    async with person(shared_sqlite) as caller, dialled(shared_sqlite) as call:
        expires_at = int(time.time()) + 3
        await call.say("auth", token=forge(caller.principal, {"exp": expires_at}))
        await call.hear()
        prompt = scripted(caller.marker, usage=USAGE, delay=max(0.0, expires_at - time.time()) + 0.05)
        heard = await call.turn(prompt)
        await call.say("query", prompt=caller.marker)
        assert await call.closed_with() == 4401
        assert len(upstream.seen(caller.marker)) == len(await caller.charges()) == 1
    assert heard.last["cost"] == 24, "a turn that began in time is not cut"


async def test_who_asks_too_fast_is_told_and_hung_up_on(strict: Server, upstream: Upstream) -> None:
    async with person(strict) as caller, calling(strict, caller) as call:
        turns = [await call.turn(scripted(caller.marker, usage=USAGE), id=str(number)) for number in range(CALLS + 1)]
        assert await call.closed_with() == 4429
        assert len(upstream.seen(caller.marker)) == len(await caller.charges()) == CALLS
    assert [turn.last["type"] for turn in turns] == ["final"] * CALLS + ["error"]
    assert (turns[-1].last["id"], turns[-1].last["code"]) == (str(CALLS), "rate_limited")
    assert 1 <= turns[-1].last["retry_after"] <= 3_600


async def test_every_frame_counts_against_the_limit_and_is_not_read_beyond_it(
    strict: Server, upstream: Upstream
) -> None:
    async with person(strict) as caller, calling(strict, caller) as call:
        for frame, code in (("{", "invalid_json"), ('{"type": "auth", "token": "x"}', "invalid_request")):
            await call.connection.send(frame)
            assert (await call.hear())["code"] == code
        await call.connection.send("{")
        assert (await call.hear())["code"] == "rate_limited"
        assert await call.closed_with() == 4429
        assert await caller.charges() == upstream.seen(caller.marker) == []


async def test_a_turn_that_comes_too_early_counts_too_and_a_cancel_does_not(strict: Server, upstream: Upstream) -> None:
    async with person(strict) as caller, calling(strict, caller) as call:
        for _ in range(CALLS + 1):
            await call.say("cancel")
        with upstream.gate(caller.marker):
            await call.say("query", prompt=scripted(caller.marker, gate_after=[1, caller.marker], chunks=["a ", "b"]))
            await call.hear_deltas(1)
            for code in ("turn_in_progress", "rate_limited"):
                await call.say("query", id=code, prompt="early")
                refused = await call.hear()
                assert (refused["code"], refused["id"]) == (code, code)
            assert await call.closed_with() == 4429
        assert len(upstream.seen(caller.marker)) == len(await caller.charges()) == 1


async def test_who_sends_many_bad_frames_is_hung_up_on(shared_sqlite: Server) -> None:
    async with person(shared_sqlite) as caller, calling(shared_sqlite, caller) as call:
        for _ in range(MAX_BAD_FRAMES):
            await call.connection.send("{")
            assert (await call.hear())["code"] == "invalid_json"
        assert await call.closed_with() == 1008


async def test_a_first_frame_that_no_token_needs_is_not_read(shared_sqlite: Server) -> None:
    async with person(shared_sqlite) as caller, dialled(shared_sqlite) as call:
        frame = _auth(caller.token)
        await call.connection.send(frame + " " * (MAX_FIRST_FRAME - len(frame) + 1))
        assert await call.closed_with() == 1009
    async with person(shared_sqlite) as caller, dialled(shared_sqlite) as call:
        await call.connection.send(_auth(caller.token).ljust(MAX_FIRST_FRAME))
        assert (await call.hear())["type"] == "ready"


async def test_a_frame_may_be_as_large_as_a_body_and_no_larger(shared_sqlite: Server, upstream: Upstream) -> None:
    async with person(shared_sqlite) as caller:
        async with calling(shared_sqlite, caller) as call:
            await call.connection.send(_padded(caller, MAX_FRAME))
            assert (await call.hear_turn()).last["type"] == "final"
            await call.connection.send(_padded(caller, MAX_FRAME + 1))
            assert await call.closed_with() == 1009
        assert len(upstream.seen(caller.marker)) == len(await caller.charges()) == 1


async def test_a_binary_frame_ends_the_connection(shared_sqlite: Server) -> None:
    async with person(shared_sqlite) as caller, calling(shared_sqlite, caller) as call:
        await call.connection.send(json.dumps({"type": "query", "prompt": caller.marker}).encode())
        assert await call.closed_with() == 1003
        assert await caller.charges() == []


BAD_FRAMES: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "invalid_json"),
    "a number that is none": ('{"type": "query", "prompt": "x", "temperature": NaN}', "invalid_json"),
    "a name twice": ('{"type": "query", "prompt": "x", "prompt": "y"}', "invalid_json"),
    "a lone surrogate": ('{"type": "query", "prompt": "\\ud800"}', "invalid_json"),
    "too deep": ("[" * 100 + "]" * 100, "invalid_json"),
    "no object": ("[]", "invalid_request"),
    "no type": ('{"prompt": "x"}', "invalid_request"),
    "an unknown type": ('{"type": "shout"}', "invalid_request"),
    "a type that is no text": ('{"type": 7}', "invalid_request"),
    "an unknown field": ('{"type": "query", "prompt": "x", "role": "operator"}', "invalid_request"),
    "a wrong type": ('{"type": "query", "prompt": "x", "max_tokens": "7"}', "invalid_request"),
    "nothing asked": ('{"type": "query"}', "invalid_request"),
    "an empty prompt": ('{"type": "query", "prompt": ""}', "invalid_request"),
    "asked twice": (
        '{"type": "query", "prompt": "x", "messages": [{"role": "user", "content": "y"}]}',
        "invalid_request",
    ),
    "a prompt and a message": ('{"type": "query", "prompt": "x", "message": "y"}', "invalid_request"),
    "a feature to come": ('{"type": "query", "prompt": "x", "evaluate": true}', "unsupported_parameter"),
    "a session with a bad name": ('{"type": "query", "prompt": "x", "session_id": "a/b"}', "invalid_request"),
    "a key with a space": ('{"type": "query", "prompt": "x", "idempotency_key": "a b"}', "invalid_request"),
    "who one is, again": ('{"type": "auth", "token": "x"}', "invalid_request"),
}


@pytest.mark.parametrize(("frame", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_a_bad_frame_is_refused_and_the_connection_lives(
    shared_sqlite: Server, upstream: Upstream, frame: str, code: str
) -> None:
    async with person(shared_sqlite) as caller, calling(shared_sqlite, caller) as call:
        await call.connection.send(frame)
        refused = await call.hear()
        heard = await call.turn(scripted(caller.marker, usage=USAGE))
        charges = await caller.charges()
    assert (refused["type"], refused["code"]) == ("error", code)
    assert heard.last["cost"] == 24
    assert len(charges) == 1


@pytest.mark.parametrize(
    "rest",
    [
        '"prompt": "x", "prompt": "y"',
        '"prompt": 7',
        '"prompt": "x", "role": "operator"',
        '"prompt": "x", "message": "y"',
    ],
)
async def test_a_turn_that_is_refused_is_named_by_its_id(shared_sqlite: Server, rest: str) -> None:
    async with person(shared_sqlite) as caller, calling(shared_sqlite, caller) as call:
        await call.connection.send(f'{{"type": "query", "id": "wrong", {rest}}}')
        refused = await call.hear()
    assert (refused["type"], refused["id"]) == ("error", "wrong")
    assert not {"query_id", "retry_after"} & refused.keys()


async def test_a_turn_may_bring_all_its_messages(shared_sqlite: Server, upstream: Upstream) -> None:
    async with person(shared_sqlite) as caller, calling(shared_sqlite, caller) as call:
        messages = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": scripted(caller.marker, usage=USAGE)},
        ]
        await call.say("query", messages=messages, temperature=0.5)
        heard = await call.hear_turn()
        (asked,) = upstream.seen(caller.marker)
    assert heard.last["type"] == "final"
    assert (asked["body"]["messages"], asked["body"]["temperature"]) == (messages, 0.5)


def _auth(token: str) -> str:
    return json.dumps({"type": "auth", "token": token})


def _padded(caller: Person, size: int) -> str:
    """A turn of so many bytes. What pads it is space between the words of JSON."""
    frame = json.dumps({"type": "query", "prompt": scripted(caller.marker, usage=USAGE), "max_tokens": 50})
    return frame[:-1] + " " * (size - len(frame)) + "}"
