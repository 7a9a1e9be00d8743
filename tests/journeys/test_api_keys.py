"""API keys: created with an access token, accepted in its place, refused from the next request after revocation."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from journeys.support.endpoints import ALL_ENDPOINTS, call
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.provider_wires import CHAT, EMBEDDINGS
from journeys.support.raw_http import request
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.websocket import authenticated_websocket, open_websocket
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.database.engine import Database
from tollkeeper.identity import accounts
from tollkeeper.identity.models import User

pytestmark = pytest.mark.prove_only_on_postgres(
    but=(
        "test_a_revoked_key_is_refused_by_every_endpoint_from_the_next_request_on",
        "test_a_key_is_shown_once_and_then_listed_by_its_prefix",
        "test_no_user_sees_or_revokes_the_keys_of_another",
        "test_a_key_is_refused_after_its_expiry",
        "test_a_user_who_is_disabled_while_a_request_for_a_key_arrives_gets_none",
    )
)

PATHS_OF_SCOPE = {"ai": ("/ai/", "/v1/"), "me": ("/me",)}
USAGE = {"input": 15, "output": 9}


async def revoke(caller: ApiUser, key_id: str) -> int:
    async with caller.http.delete(f"/auth/keys/{key_id}", headers=caller.auth_headers) as response:
        return response.status


async def key_ids(caller: ApiUser) -> list[str]:
    return [key["id"] for key in (await caller.get("/auth/keys")).body["data"]]


async def test_a_key_is_shown_once_and_then_listed_by_its_prefix(server: Server) -> None:
    async with new_user(server) as caller:
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


async def test_a_call_with_a_key_is_charged_to_the_quota_of_its_user(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=1_000) as caller:
        key_user = await caller.with_api_key()
        reply = await key_user.query(scripted(caller.marker, usage=USAGE))
        assert (reply.status, reply.body["cost"], reply.body["quota"]["remaining"]) == (200, 24, 976)
        assert (await key_user.quota())["used"] == (await caller.quota())["used"] == 24
        (charge,) = await key_user.charges()
        assert charge["id"] == reply.body["query_id"]
        (request,) = upstream.requests(caller.marker)
        assert key_user.token not in str(request)


async def test_a_key_is_accepted_in_the_x_api_key_header(server: Server) -> None:
    async with new_user(server) as caller:
        key_user = await caller.with_api_key()
        async with key_user.http.get("/me", headers={"X-Api-Key": key_user.token}) as response:
            assert (response.status, (await response.json())["email"]) == (200, caller.email)


async def test_a_revoked_key_is_refused_by_every_endpoint_from_the_next_request_on(
    all_wires_server: Server, own_upstream: Upstream
) -> None:
    async with new_user(all_wires_server) as caller:
        key_user = await caller.with_api_key()
        for endpoint in ALL_ENDPOINTS:
            made = await call(
                key_user, endpoint, scripted(caller.marker), CHAT.model if endpoint.returns_text else EMBEDDINGS.model
            )
            assert (made.status, made.code) == (200, None), (endpoint, made.raw)
        paid = await caller.charges()
        (key_id,) = await key_ids(caller)
        assert await revoke(caller, key_id) == 204
        for endpoint in (endpoint for endpoint in ALL_ENDPOINTS if not endpoint.is_socket):
            made = await call(
                key_user, endpoint, scripted(caller.marker), CHAT.model if endpoint.returns_text else EMBEDDINGS.model
            )
            assert made.status == 401, (endpoint, made.raw)
        async with open_websocket(all_wires_server) as connection:
            await connection.send("auth", token=key_user.token)
            assert await connection.wait_closed() == 4401
        for path in ("/me", "/me/quota", "/me/charges", "/ai/models", "/v1/models", "/ai/sessions"):
            assert (await key_user.get(path)).status == 401, path
        for path in ("/ai/estimate", "/v1/messages/count_tokens"):
            body = {"model": CHAT.model, "prompt": "x"} if path == "/ai/estimate" else {
                "model": CHAT.model,
                "messages": [{"role": "user", "content": "x"}],
            }  # fmt: skip
            async with key_user.http.post(path, json=body, headers=key_user.auth_headers) as response:
                assert response.status == 401, path
        assert await caller.charges() == paid
        assert await revoke(caller, key_id) == 404
        assert (await caller.get("/me")).status == 200


async def test_a_call_in_flight_when_its_key_is_revoked_is_answered_and_settled(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        key_user = await caller.with_api_key()
        with upstream.gate(caller.marker):
            pending = asyncio.create_task(key_user.query(scripted(caller.marker, gate=caller.marker, usage=USAGE)))
            async with asyncio.timeout(TEST_DEADLINE_S):
                while not upstream.waiting(caller.marker):
                    await asyncio.sleep(0.02)
            assert await revoke(caller, (await key_ids(caller))[0]) == 204
        reply = await pending
        assert (reply.status, reply.body["cost"]) == (200, 24)
        assert (await key_user.query(caller.marker)).status == 401
        (charge,) = await caller.charges()
        assert (charge["state"], charge["cost"]) == ("settled", 24)
    await assert_ledger_is_consistent(server.database_url)


async def test_a_websocket_closes_at_the_first_turn_after_its_key_was_revoked(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        key_user = await caller.with_api_key()
        async with authenticated_websocket(server, key_user) as connection:
            assert (await connection.run_turn(scripted(caller.marker, usage=USAGE))).last["cost"] == 24
            await revoke(caller, (await key_ids(caller))[0])
            await connection.send("query", prompt=scripted(caller.marker))
            assert await connection.wait_closed() == 4401
        assert len(upstream.requests(caller.marker)) == 1


async def test_a_key_is_refused_after_its_expiry(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        ends_at = time.time() + 3
        key_user = await caller.with_api_key(expires_at=datetime.fromtimestamp(ends_at, UTC).isoformat())
        assert (await key_user.query(caller.marker)).status == 200
        await asyncio.sleep(max(0.0, ends_at + 0.1 - time.time()))
        assert (await key_user.query(caller.marker)).code == "unauthenticated"
        assert (await key_user.get("/me")).code == "unauthenticated"
        assert len(upstream.requests(caller.marker)) == 1


@pytest.mark.parametrize("scope", ["ai", "me"])
async def test_a_key_is_accepted_only_by_the_routes_of_its_scopes(
    server: Server, upstream: Upstream, scope: str
) -> None:
    """On every route of the OpenAPI document that needs a credential."""
    async with new_user(server) as caller:
        key_user = await caller.with_api_key(scopes=[scope])
        document = (await caller.get("/openapi.json")).body
        accepted: set[str] = set()
        refused: set[str] = set()
        for path, operations in document["paths"].items():
            for method in (
                method for method, operation in operations.items() if {} not in operation.get("security", [{}])
            ):
                filled = re.sub(r"{\w+}", "none", path)
                async with key_user.http.request(method, filled, json={}, headers=key_user.auth_headers) as response:
                    (refused if response.status == 403 else accepted).add(path)
        assert accepted | refused >= {"/me", "/auth/keys", "/ai/query", "/v1/messages", "/ai/sessions/{session_id}"}
        assert {path for path in accepted if not path.startswith(PATHS_OF_SCOPE[scope])} == set()
        assert {path for path in refused if path.startswith(PATHS_OF_SCOPE[scope])} == set()
        assert upstream.requests(caller.marker) == []


async def test_a_websocket_refuses_a_key_without_the_ai_scope(server: Server) -> None:
    async with new_user(server) as caller:
        key_user = await caller.with_api_key(scopes=["me"])
        async with open_websocket(server) as connection:
            await connection.send("auth", token=key_user.token)
            refused = await connection.receive()
            assert (refused["type"], refused["code"]) == ("error", "forbidden")
            assert await connection.wait_closed() == 4403
        for _ in range(5):
            async with open_websocket(server) as connection:
                await connection.send("auth", token=key_user.token)
                connection.raw.transport.abort()  # gone before the refusal arrives: nothing is logged


async def test_a_key_made_after_its_user_has_called_is_accepted_at_once(server: Server) -> None:
    """The server's cache of credentials does not hide the new key."""
    async with new_user(server) as caller:
        assert (await caller.query(caller.marker)).status == 200
        key_user = await caller.with_api_key()
        assert (await key_user.query(caller.marker)).status == 200


async def test_calls_with_a_revoked_key_do_not_use_up_the_rate_limit_of_its_user(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, OPENAI_API_KEY="", TOLLKEEPER_RATE_LIMIT_AI="6/hour").start()
    async with new_user(server) as caller:
        key_user = await caller.with_api_key()
        assert (await key_user.query("hello")).status == 200
        await revoke(caller, (await key_ids(caller))[0])
        assert [(await key_user.query("hello")).status for _ in range(20)] == [401] * 20
        assert (await caller.query("hello")).status == 200
    server.stop()


async def test_many_wrong_keys_are_refused_and_block_no_other_user(server: Server) -> None:
    async with new_user(server) as caller:
        unknown_callers = [replace(caller, token=f"tk-{number:043}") for number in range(150)]
        replies = await asyncio.gather(*(one.get("/me") for one in unknown_callers), caller.get("/me"))
    assert replies[-1].status == 200
    assert {reply.status for reply in replies[:-1]} == {401}


async def test_a_key_cannot_create_list_or_revoke_keys(server: Server) -> None:
    async with new_user(server) as caller:
        key_user = await caller.with_api_key()
        (key_id,) = await key_ids(caller)
        assert (await key_user.make_key()).code == (await key_user.get("/auth/keys")).code == "forbidden"
        assert await revoke(key_user, key_id) == 403
        assert await key_ids(caller) == [key_id]


async def test_no_user_sees_or_revokes_the_keys_of_another(server: Server) -> None:
    async with new_user(server) as caller, new_user(server, tenant_id=caller.principal.tenant_id) as colleague:
        key_user = await caller.with_api_key()
        (key_id,) = await key_ids(caller)
        assert await key_ids(colleague) == []
        for unknown_id in (key_id, "key_0", "key_%00", "..%2f..%2fkeys", "%C4%85"):
            assert await revoke(colleague, unknown_id) == 404
        assert (await key_user.get("/me")).body["email"] == caller.email


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
async def test_an_invalid_request_creates_no_key(
    echo_server: Server, fields: dict[str, Any], status: int, code: str
) -> None:
    async with new_user(echo_server) as caller:
        refused = await caller.make_key(**fields)
        assert (refused.status, refused.code) == (status, code)
        assert await key_ids(caller) == []


async def test_creating_keys_is_limited_like_logins_and_revoking_is_not(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, TOLLKEEPER_RATE_LIMIT_LOGIN="3/hour").start()
    async with new_user(server) as caller, new_user(server) as other:
        statuses = [(await caller.make_key()).status for _ in range(5)]
        assert statuses == [201, 201, 201, 429, 429]
        assert [await revoke(caller, key_id) for key_id in await key_ids(caller)] == [204] * 3
        assert (await other.make_key()).status == 201
    server.stop()


async def test_a_user_who_is_disabled_while_a_request_for_a_key_arrives_gets_none(server: Server) -> None:
    """The account is read again after the body, since no transaction is open while the client sends it."""
    database = Database(server.database_url)
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        head, body = request("POST", "/auth/keys", b'{"name": "robot"}', caller.auth_headers).split(b"\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.5)
        async with database.session() as session:
            accounts.disable(await session.get_one(User, caller.principal.user_id), 0)
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()
    await database.close()
