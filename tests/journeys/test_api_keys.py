"""API keys over the wire: made by who has logged in, used wherever a token is, gone with the next request."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from journeys.support.endpoints import DOORS, call
from journeys.support.ledger_checks import assert_books_are_right
from journeys.support.provider_wires import CHAT, EMBEDDINGS
from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.support.websocket import calling, dialled
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

OPENED_BY = {"ai": ("/ai/", "/v1/"), "me": ("/me",)}
USAGE = {"input": 15, "output": 9}


async def revoke(caller: Person, key_id: str) -> int:
    async with caller.http.delete(f"/auth/keys/{key_id}", headers=caller.bearer) as response:
        return response.status


async def key_ids(caller: Person) -> list[str]:
    return [key["id"] for key in (await caller.get("/auth/keys")).body["data"]]


async def test_a_key_is_shown_once_and_then_known_by_its_beginning(server: Server) -> None:
    async with person(server) as caller:
        ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        made = await caller.make_key(name="nightly report", scopes=["me"], expires_at=ends.isoformat())
        assert made.status == 201
        assert made.headers["Cache-Control"] == "no-store"
        key = made.body.pop("key")
        assert (made.body["name"], made.body["scopes"]) == ("nightly report", ["me"])
        assert made.body["expires_at"] == ends.isoformat().replace("+00:00", "Z")
        assert key.startswith(made.body["prefix"])
        listed = await caller.get("/auth/keys")
    assert listed.body == {"data": [made.body]}


async def test_a_key_asks_and_the_users_quota_pays(server: Server, upstream: Upstream) -> None:
    async with person(server, limit=1_000) as caller:
        robot = await caller.with_api_key()
        reply = await robot.ask(scripted(caller.marker, usage=USAGE))
        assert (reply.status, reply.body["cost"], reply.body["quota"]["remaining"]) == (200, 24, 976)
        assert (await robot.quota())["used"] == (await caller.quota())["used"] == 24
        (charge,) = await robot.charges()
        assert charge["id"] == reply.body["query_id"]
        (seen,) = upstream.seen(caller.marker)
        assert robot.token not in str(seen)


async def test_a_key_is_good_in_anthropics_header_too(server: Server) -> None:
    async with person(server) as caller:
        robot = await caller.with_api_key()
        async with robot.http.get("/me", headers={"X-Api-Key": robot.token}) as response:
            assert (response.status, (await response.json())["email"]) == (200, caller.email)


async def test_a_revoked_key_opens_no_door_from_the_next_request_on(doors: Server, own_upstream: Upstream) -> None:
    async with person(doors) as caller:
        robot = await caller.with_api_key()
        for door in DOORS:
            made = await call(robot, door, scripted(caller.marker), CHAT.model if door.writes else EMBEDDINGS.model)
            assert (made.status, made.code) == (200, None), (door, made.raw)
        paid = await caller.charges()
        (key_id,) = await key_ids(caller)
        assert await revoke(caller, key_id) == 204
        for door in (door for door in DOORS if not door.is_socket):
            made = await call(robot, door, scripted(caller.marker), CHAT.model if door.writes else EMBEDDINGS.model)
            assert made.status == 401, (door, made.raw)
        async with dialled(doors) as connection:
            await connection.say("auth", token=robot.token)
            assert await connection.closed_with() == 4401
        for path in ("/me", "/me/quota", "/me/charges", "/ai/models", "/v1/models", "/ai/sessions"):
            assert (await robot.get(path)).status == 401, path
        for path in ("/ai/estimate", "/v1/messages/count_tokens"):
            body = {"model": CHAT.model, "prompt": "x"} if path == "/ai/estimate" else {
                "model": CHAT.model,
                "messages": [{"role": "user", "content": "x"}],
            }  # fmt: skip
            async with robot.http.post(path, json=body, headers=robot.bearer) as response:
                assert response.status == 401, path
        assert await caller.charges() == paid
        assert await revoke(caller, key_id) == 404
        assert (await caller.get("/me")).status == 200


async def test_what_is_in_flight_when_its_key_is_revoked_is_answered_and_settled(
    server: Server, upstream: Upstream
) -> None:
    async with person(server) as caller:
        robot = await caller.with_api_key()
        with upstream.gate(caller.marker):
            asked = asyncio.create_task(robot.ask(scripted(caller.marker, gate=caller.marker, usage=USAGE)))
            async with asyncio.timeout(PATIENCE_S):
                while not upstream.waiting(caller.marker):
                    await asyncio.sleep(0.02)
            assert await revoke(caller, (await key_ids(caller))[0]) == 204
        reply = await asked
        assert (reply.status, reply.body["cost"]) == (200, 24)
        assert (await robot.ask(caller.marker)).status == 401
        (charge,) = await caller.charges()
        assert (charge["state"], charge["cost"]) == ("settled", 24)
    await assert_books_are_right(server.database_url)


async def test_a_socket_opened_with_a_key_closes_at_the_turn_after_its_end(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        robot = await caller.with_api_key()
        async with calling(server, robot) as connection:
            assert (await connection.turn(scripted(caller.marker, usage=USAGE))).last["cost"] == 24
            await revoke(caller, (await key_ids(caller))[0])
            await connection.say("query", prompt=scripted(caller.marker))
            assert await connection.closed_with() == 4401
        assert len(upstream.seen(caller.marker)) == 1


async def test_a_key_ends_when_it_was_said_to(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        ends_at = time.time() + 3
        robot = await caller.with_api_key(expires_at=datetime.fromtimestamp(ends_at, UTC).isoformat())
        assert (await robot.ask(caller.marker)).status == 200
        await asyncio.sleep(max(0.0, ends_at + 0.1 - time.time()))
        assert (await robot.ask(caller.marker)).code == "unauthenticated"
        assert (await robot.get("/me")).code == "unauthenticated"
        assert len(upstream.seen(caller.marker)) == 1


@pytest.mark.parametrize("scope", ["ai", "me"])
async def test_a_key_opens_only_what_its_scopes_say(server: Server, upstream: Upstream, scope: str) -> None:
    """Every route of the document that wants to know who is calling."""
    async with person(server) as caller:
        robot = await caller.with_api_key(scopes=[scope])
        document = (await caller.get("/openapi.json")).body
        opened: set[str] = set()
        shut: set[str] = set()
        for path, operations in document["paths"].items():
            for method in (method for method, operation in operations.items() if "security" in operation):
                filled = re.sub(r"{\w+}", "none", path)
                async with robot.http.request(method, filled, json={}, headers=robot.bearer) as response:
                    (shut if response.status == 403 else opened).add(path)
        assert opened | shut >= {"/me", "/auth/keys", "/ai/query", "/v1/messages", "/ai/sessions/{session_id}"}
        assert {path for path in opened if not path.startswith(OPENED_BY[scope])} == set()
        assert {path for path in shut if path.startswith(OPENED_BY[scope])} == set()
        assert upstream.seen(caller.marker) == []


async def test_a_socket_tells_a_key_that_its_scopes_do_not_open_it(server: Server) -> None:
    async with person(server) as caller:
        robot = await caller.with_api_key(scopes=["me"])
        async with dialled(server) as connection:
            await connection.say("auth", token=robot.token)
            refused = await connection.hear()
            assert (refused["type"], refused["code"]) == ("error", "forbidden")
            assert await connection.closed_with() == 4403
        for _ in range(5):
            async with dialled(server) as connection:
                await connection.say("auth", token=robot.token)
                connection.connection.transport.abort()  # gone before they hear it; the server keeps quiet about it


async def test_a_key_made_after_its_user_has_called_is_good_at_once(server: Server) -> None:
    """What a process remembers of a user does not hide the key."""
    async with person(server) as caller:
        assert (await caller.ask(caller.marker)).status == 200
        robot = await caller.with_api_key()
        assert (await robot.ask(caller.marker)).status == 200


async def test_who_holds_a_revoked_key_cannot_use_up_its_users_rate(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, OPENAI_API_KEY="", TOLLKEEPER_RATE_LIMIT_AI="6/hour").start()
    async with person(server) as caller:
        robot = await caller.with_api_key()
        assert (await robot.ask("hello")).status == 200
        await revoke(caller, (await key_ids(caller))[0])
        assert [(await robot.ask("hello")).status for _ in range(20)] == [401] * 20
        assert (await caller.ask("hello")).status == 200
    server.stop()


async def test_strangers_with_wrong_keys_are_refused_and_hinder_nobody(server: Server) -> None:
    async with person(server) as caller:
        strangers = [replace(caller, token=f"tk-{number:043}") for number in range(150)]
        replies = await asyncio.gather(*(one.get("/me") for one in strangers), caller.get("/me"))
    assert replies[-1].status == 200
    assert {reply.status for reply in replies[:-1]} == {401}


async def test_a_key_manages_no_keys(server: Server) -> None:
    async with person(server) as caller:
        robot = await caller.with_api_key()
        (key_id,) = await key_ids(caller)
        assert (await robot.make_key()).code == (await robot.get("/auth/keys")).code == "forbidden"
        assert await revoke(robot, key_id) == 403
        assert await key_ids(caller) == [key_id]


async def test_nobody_sees_or_revokes_anothers_keys(server: Server) -> None:
    async with person(server) as caller, person(server, tenant_id=caller.principal.tenant_id) as colleague:
        robot = await caller.with_api_key()
        (key_id,) = await key_ids(caller)
        assert await key_ids(colleague) == []
        for nobodys in (key_id, "key_0", "key_%00", "..%2f..%2fkeys", "%C4%85"):
            assert await revoke(colleague, nobodys) == 404
        assert (await robot.get("/me")).body["email"] == caller.email


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"name": ""}, 422, "invalid_request"),
        ({"name": " "}, 422, "invalid_request"),
        ({"name": "x" * 101}, 422, "invalid_request"),
        ({"name": "a\nb"}, 422, "invalid_request"),
        ({"name": "a\x00b"}, 400, "invalid_json"),
        ({"name": 5}, 422, "invalid_request"),
        ({"scopes": []}, 422, "invalid_request"),
        ({"scopes": ["keys"]}, 422, "invalid_request"),
        ({"scopes": ["ai", "me", "ai"]}, 422, "invalid_request"),
        ({"scopes": "ai"}, 422, "invalid_request"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, 422, "invalid_request"),
        ({"expires_at": "0001-01-01T00:00:00Z"}, 422, "invalid_request"),
        ({"expires_at": "2999-01-01T00:00:00"}, 422, "invalid_request"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, 422, "invalid_request"),
        ({"expires_at": "tomorrow"}, 422, "invalid_request"),
        ({"expires_at": 4_000_000_000}, 422, "invalid_request"),
        ({"admin": True}, 422, "invalid_request"),
    ],
)
async def test_what_is_no_wish_for_a_key_makes_none(
    echoing: Server, fields: dict[str, Any], status: int, code: str
) -> None:
    async with person(echoing) as caller:
        refused = await caller.make_key(**fields)
        assert (refused.status, refused.code) == (status, code)
        assert await key_ids(caller) == []


async def test_keys_are_made_as_often_as_one_may_log_in_and_revoked_at_any_time(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, TOLLKEEPER_RATE_LIMIT_LOGIN="3/hour").start()
    async with person(server) as caller, person(server) as other:
        statuses = [(await caller.make_key()).status for _ in range(5)]
        assert statuses == [201, 201, 201, 429, 429]
        assert [await revoke(caller, key_id) for key_id in await key_ids(caller)] == [204] * 3
        assert (await other.make_key()).status == 201
    server.stop()
