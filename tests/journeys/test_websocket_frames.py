"""WS /ai/ws: authentication by the first frame, rate and size limits, and the handling of invalid frames."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from journeys.support.forged_tokens import forge
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.websocket import authenticated_websocket, open_websocket
from journeys.upstream.handle import Upstream, scripted
from support.databases import new_sqlite

USAGE = {"input": 15, "output": 9}
MAX_FRAME = 1024 * 1024
MAX_FIRST_FRAME = 32 * 1024
MAX_BAD_FRAMES = 10
CALLS = 2


@pytest.fixture(scope="module")
def strict_server(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    """A server with a short timeout for the first frame and a low rate limit."""
    folder: Path = tmp_path_factory.mktemp("strict_server")
    url = new_sqlite(folder, migrated_file)
    settings = {"OPENAI_BASE_URL": upstream.base_url, "TOLLKEEPER_RATE_LIMIT_AI": f"{CALLS}/hour"}
    server = Server(url, folder, settings)
    try:
        yield server.start(("journeys.support.serve_with_short_auth_timeout", "serve"))
        server.stop()
    finally:
        server.free()


async def test_the_first_frame_authenticates_the_caller(shared_sqlite: Server) -> None:
    async with new_user(shared_sqlite) as caller, open_websocket(shared_sqlite) as connection:
        await connection.send("auth", token=caller.token)
        ready = await connection.receive()
        response = connection.raw.response
    assert response is not None
    assert ready == {"type": "ready", "correlation_id": response.headers["X-Correlation-ID"]}
    assert float(response.headers["X-Process-Time"]) >= 0


async def test_a_client_that_sends_no_first_frame_is_disconnected(strict_server: Server) -> None:
    async with open_websocket(strict_server) as connection:
        assert await connection.wait_closed() == 4408


async def test_a_token_in_the_query_string_is_ignored(strict_server: Server, upstream: Upstream) -> None:
    async with new_user(strict_server) as caller:
        path = f"/ai/ws?token={caller.token}&access_token={caller.token}"
        async with open_websocket(strict_server, path) as connection:
            assert await connection.wait_closed() == 4408
        async with open_websocket(strict_server, path) as connection:
            await connection.send("query", prompt=caller.marker)
            assert await connection.wait_closed() == 4401
        assert await caller.charges() == upstream.requests(caller.marker) == []


FIRST_FRAMES: dict[str, Callable[[ApiUser], str | bytes]] = {
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
async def test_a_first_frame_without_a_valid_token_ends_the_connection(
    shared_sqlite: Server, frame: Callable[[ApiUser], str | bytes]
) -> None:
    async with new_user(shared_sqlite) as caller, open_websocket(shared_sqlite) as connection:
        await connection.raw.send(frame(caller))
        assert await connection.wait_closed() == 4401
        assert await caller.charges() == []


async def test_a_client_is_disconnected_at_the_first_turn_after_its_token_expires(
    shared_sqlite: Server, upstream: Upstream
) -> None:
    async with new_user(shared_sqlite) as caller, open_websocket(shared_sqlite) as connection:
        expires_at = int(time.time()) + 3
        await connection.send("auth", token=forge(caller.principal, {"exp": expires_at}))
        await connection.receive()
        prompt = scripted(caller.marker, usage=USAGE, delay=max(0.0, expires_at - time.time()) + 0.05)
        turn = await connection.run_turn(prompt)
        await connection.send("query", prompt=caller.marker)
        assert await connection.wait_closed() == 4401
        assert len(upstream.requests(caller.marker)) == len(await caller.charges()) == 1
    assert turn.last["cost"] == 24, "a turn that began before the expiry is not cut"


async def test_a_client_beyond_the_rate_limit_gets_an_error_and_is_disconnected(
    strict_server: Server, upstream: Upstream
) -> None:
    async with new_user(strict_server) as caller, authenticated_websocket(strict_server, caller) as connection:
        turns = [
            await connection.run_turn(scripted(caller.marker, usage=USAGE), id=str(number))
            for number in range(CALLS + 1)
        ]
        assert await connection.wait_closed() == 4429
        assert len(upstream.requests(caller.marker)) == len(await caller.charges()) == CALLS
    assert [one.last["type"] for one in turns] == ["final"] * CALLS + ["error"]
    assert (turns[-1].last["id"], turns[-1].last["code"]) == (str(CALLS), "rate_limited")
    assert 1 <= turns[-1].last["retry_after"] <= 3_660


async def test_invalid_frames_count_against_the_rate_limit_too(strict_server: Server, upstream: Upstream) -> None:
    async with new_user(strict_server) as caller, authenticated_websocket(strict_server, caller) as connection:
        for frame, code in (("{", "invalid_json"), ('{"type": "auth", "token": "x"}', "invalid_request")):
            await connection.raw.send(frame)
            assert (await connection.receive())["code"] == code
        await connection.raw.send("{")
        assert (await connection.receive())["code"] == "rate_limited"
        assert await connection.wait_closed() == 4429
        assert await caller.charges() == upstream.requests(caller.marker) == []


async def test_a_turn_sent_too_early_counts_against_the_rate_limit_and_a_cancel_does_not(
    strict_server: Server, upstream: Upstream
) -> None:
    async with new_user(strict_server) as caller, authenticated_websocket(strict_server, caller) as connection:
        for _ in range(CALLS + 1):
            await connection.send("cancel")
        with upstream.gate(caller.marker):
            await connection.send(
                "query", prompt=scripted(caller.marker, gate_after=[1, caller.marker], chunks=["a ", "b"])
            )
            await connection.receive_words(1)
            for code in ("turn_in_progress", "rate_limited"):
                await connection.send("query", id=code, prompt="early")
                refused = await connection.receive()
                assert (refused["code"], refused["id"]) == (code, code)
            assert await connection.wait_closed() == 4429
        assert len(upstream.requests(caller.marker)) == len(await caller.charges()) == 1


async def test_a_client_that_sends_many_invalid_frames_is_disconnected(shared_sqlite: Server) -> None:
    async with new_user(shared_sqlite) as caller, authenticated_websocket(shared_sqlite, caller) as connection:
        for _ in range(MAX_BAD_FRAMES):
            await connection.raw.send("{")
            assert (await connection.receive())["code"] == "invalid_json"
        assert await connection.wait_closed() == 1008


async def test_a_first_frame_larger_than_any_token_needs_is_refused(shared_sqlite: Server) -> None:
    async with new_user(shared_sqlite) as caller, open_websocket(shared_sqlite) as connection:
        frame = _auth(caller.token)
        await connection.raw.send(frame + " " * (MAX_FIRST_FRAME - len(frame) + 1))
        assert await connection.wait_closed() == 1009
    async with new_user(shared_sqlite) as caller, open_websocket(shared_sqlite) as connection:
        await connection.raw.send(_auth(caller.token).ljust(MAX_FIRST_FRAME))
        assert (await connection.receive())["type"] == "ready"


async def test_a_frame_may_be_as_large_as_a_body_and_no_larger(shared_sqlite: Server, upstream: Upstream) -> None:
    async with new_user(shared_sqlite) as caller:
        async with authenticated_websocket(shared_sqlite, caller) as connection:
            await connection.raw.send(_padded(caller, MAX_FRAME))
            assert (await connection.receive_turn()).last["type"] == "final"
            await connection.raw.send(_padded(caller, MAX_FRAME + 1))
            assert await connection.wait_closed() == 1009
        assert len(upstream.requests(caller.marker)) == len(await caller.charges()) == 1


async def test_a_binary_frame_ends_the_connection(shared_sqlite: Server) -> None:
    async with new_user(shared_sqlite) as caller, authenticated_websocket(shared_sqlite, caller) as connection:
        await connection.raw.send(json.dumps({"type": "query", "prompt": caller.marker}).encode())
        assert await connection.wait_closed() == 1003
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
    "no prompt": ('{"type": "query"}', "invalid_request"),
    "an empty prompt": ('{"type": "query", "prompt": ""}', "invalid_request"),
    "a prompt and messages": (
        '{"type": "query", "prompt": "x", "messages": [{"role": "user", "content": "y"}]}',
        "invalid_request",
    ),
    "a prompt and a message": ('{"type": "query", "prompt": "x", "message": "y"}', "invalid_request"),
    "a feature that is not supported yet": (
        '{"type": "query", "prompt": "x", "evaluate": true}',
        "unsupported_parameter",
    ),
    "a session with a bad name": ('{"type": "query", "prompt": "x", "session_id": "a/b"}', "invalid_request"),
    "a key with a space": ('{"type": "query", "prompt": "x", "idempotency_key": "a b"}', "invalid_request"),
    "a second auth frame": ('{"type": "auth", "token": "x"}', "invalid_request"),
}


@pytest.mark.parametrize(("frame", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_an_invalid_frame_is_refused_and_the_connection_stays_open(
    shared_sqlite: Server, upstream: Upstream, frame: str, code: str
) -> None:
    async with new_user(shared_sqlite) as caller, authenticated_websocket(shared_sqlite, caller) as connection:
        await connection.raw.send(frame)
        refused = await connection.receive()
        turn = await connection.run_turn(scripted(caller.marker, usage=USAGE))
        charges = await caller.charges()
    assert (refused["type"], refused["code"]) == ("error", code)
    assert turn.last["cost"] == 24
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
async def test_the_refusal_of_an_invalid_turn_has_its_id(shared_sqlite: Server, rest: str) -> None:
    async with new_user(shared_sqlite) as caller, authenticated_websocket(shared_sqlite, caller) as connection:
        await connection.raw.send(f'{{"type": "query", "id": "wrong", {rest}}}')
        refused = await connection.receive()
    assert (refused["type"], refused["id"]) == ("error", "wrong")
    assert not {"query_id", "retry_after"} & refused.keys()


async def test_a_turn_may_contain_all_its_messages(shared_sqlite: Server, upstream: Upstream) -> None:
    async with new_user(shared_sqlite) as caller, authenticated_websocket(shared_sqlite, caller) as connection:
        messages = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": scripted(caller.marker, usage=USAGE)},
        ]
        await connection.send("query", messages=messages, temperature=0.5)
        turn = await connection.receive_turn()
        (requested,) = upstream.requests(caller.marker)
    assert turn.last["type"] == "final"
    assert (requested["body"]["messages"], requested["body"]["temperature"]) == (messages, 0.5)


def _auth(token: str) -> str:
    return json.dumps({"type": "auth", "token": token})


def _padded(caller: ApiUser, size: int) -> str:
    """A query frame of `size` bytes, padded with blanks between JSON tokens."""
    frame = json.dumps({"type": "query", "prompt": scripted(caller.marker, usage=USAGE), "max_tokens": 50})
    return frame[:-1] + " " * (size - len(frame)) + "}"


async def test_an_idle_connection_is_closed_when_its_credential_is_revoked(strict_server: Server) -> None:
    async with new_user(strict_server) as caller:
        key_user = await caller.with_api_key()
        async with authenticated_websocket(strict_server, key_user) as connection:
            [key] = (await caller.get("/auth/keys")).body["data"]
            async with caller.http.delete(f"/auth/keys/{key['id']}", headers=caller.auth_headers) as response:
                assert response.status == 204
            assert await connection.wait_closed() == 4401


async def test_a_flood_of_pings_closes_the_connection_before_authentication(shared_sqlite: Server) -> None:
    """1.2 MB of pings a second kept the server busy for 15 s."""
    async with open_websocket(shared_sqlite, ping_interval=None) as connection:
        with suppress(ConnectionClosed):
            for _ in range(100_000):
                await connection.raw.ping()
                await asyncio.sleep(0)
        assert await connection.wait_closed() == 4429
