"""WS /ai/ws: a client that can set headers authenticates in the handshake, and needs no first frame for it."""

from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.websocket import Connection, open_websocket
from tollkeeper.identity.keys import PREFIX

NOT_AUTHENTICATED, TOO_FAST = 4401, 4429
WRONG_KEY = f"{PREFIX}{'x' * 43}"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def refusal_of(server: Server, headers: dict[str, str]) -> Any:
    """The response to a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with open_websocket(server, additional_headers=headers):
            pass
    return refused.value.response


async def assert_turn_is_charged(connection: Connection, caller: ApiUser) -> None:
    turn = await connection.run_turn("one two")
    assert (turn.text, turn.last["type"]) == ("one two", "final")
    assert [charge["id"] for charge in await caller.charges()] == [turn.last["query_id"]]


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
@pytest.mark.parametrize("credential", ["token", "API key"])
async def test_a_credential_in_the_handshake_is_accepted(echo_server: Server, header: str, credential: str) -> None:
    async with new_user(echo_server) as caller:
        token = caller.token if credential == "token" else (await caller.with_api_key()).token
        headers = bearer(token) if header == "Authorization" else {header: token}
        async with open_websocket(echo_server, additional_headers=headers) as connection:
            assert (await connection.receive())["type"] == "ready"
            await assert_turn_is_charged(connection, caller)


async def test_a_first_frame_may_repeat_the_authentication(echo_server: Server) -> None:
    async with new_user(echo_server) as caller:
        key = (await caller.with_api_key()).token
        async with open_websocket(echo_server, additional_headers=bearer(caller.token)) as connection:
            assert (await connection.receive())["type"] == "ready"
            await connection.send("auth", token=key)
            await assert_turn_is_charged(connection, caller)
            await connection.send("auth", token=key)
            assert (await connection.receive())["code"] == "invalid_request"


@pytest.mark.parametrize("frame", ["another user", "nobody"])
async def test_a_first_frame_of_somebody_else_closes_the_connection(echo_server: Server, frame: str) -> None:
    async with (
        new_user(echo_server) as caller,
        new_user(echo_server) as other,
        open_websocket(echo_server, additional_headers=bearer(caller.token)) as connection,
    ):
        assert (await connection.receive())["type"] == "ready"
        await connection.send("auth", token=other.token if frame == "another user" else "nobody")
        assert await connection.wait_closed() == NOT_AUTHENTICATED


@pytest.mark.parametrize("token", ["", "nobody", WRONG_KEY])
async def test_a_wrong_credential_in_the_handshake_is_answered_with_401(echo_server: Server, token: str) -> None:
    response = await refusal_of(echo_server, bearer(token) if token else {"x-api-key": token})
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert b'"code":"unauthenticated"' in response.body
    assert response.headers["X-Correlation-ID"]


async def test_two_credentials_of_one_user_are_accepted_and_of_two_users_refused(echo_server: Server) -> None:
    async with new_user(echo_server) as caller, new_user(echo_server) as other:
        key = (await caller.with_api_key()).token
        for second in (key, "anything"):
            both = bearer(caller.token) | {"x-api-key": second}
            async with open_websocket(echo_server, additional_headers=both) as connection:
                assert (await connection.receive())["type"] == "ready"
        refused = await refusal_of(echo_server, bearer(caller.token) | {"x-api-key": other.token})
        assert refused.status_code == 401
        async with open_websocket(echo_server, additional_headers={"x-api-key": key} | bearer("nobody")) as connection:
            assert (await connection.receive())["type"] == "ready"
            await assert_turn_is_charged(connection, caller)


async def test_the_credentials_of_a_proxy_leave_the_authentication_to_the_first_frame(echo_server: Server) -> None:
    """A browser sends them in the handshake, where a page cannot set headers."""
    async with (
        new_user(echo_server) as caller,
        open_websocket(echo_server, additional_headers={"Authorization": "Basic YTpi"}) as connection,
    ):
        await connection.send("auth", token=caller.token)
        assert (await connection.receive())["type"] == "ready"
        await assert_turn_is_charged(connection, caller)


async def test_a_connection_ends_when_the_key_of_its_handshake_is_revoked(echo_server: Server) -> None:
    async with new_user(echo_server) as caller:
        made = (await caller.make_key()).body
        async with open_websocket(echo_server, additional_headers=bearer(made["key"])) as connection:
            assert (await connection.receive())["type"] == "ready"
            async with caller.http.delete(f"/auth/keys/{made['id']}", headers=caller.auth_headers) as response:
                assert response.status == 204
            await connection.send("query", prompt="one")
            assert await connection.wait_closed() == NOT_AUTHENTICATED


async def test_guesses_are_limited_in_the_handshake_and_in_the_first_frame(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, TOLLKEEPER_RATE_LIMIT_LOGIN="3/hour").start()
    async with new_user(server) as caller:
        statuses = [(await refusal_of(server, bearer(WRONG_KEY))).status_code for _ in range(2)]
        codes = []
        for _ in range(2):
            async with open_websocket(server) as connection:
                await connection.send("auth", token=WRONG_KEY)
                codes.append(await connection.wait_closed())
        statuses.append((await refusal_of(server, bearer(WRONG_KEY))).status_code)
        assert (statuses, codes) == ([401, 401, 429], [NOT_AUTHENTICATED, TOO_FAST])
        async with open_websocket(server, additional_headers=bearer(caller.token)) as connection:
            assert (await connection.receive())["type"] == "ready"
    server.stop()
