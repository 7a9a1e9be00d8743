"""Login, its refusals, and the end of access from the next request on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
from sqlmodel import col, select

from journeys.support.raw_http import RawResponse, exchange, request
from journeys.support.server import Server
from journeys.support.users import PASSWORD, ApiUser, http_client, login, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.identity import accounts
from tollkeeper.identity.models import Tenant, User

pytestmark = pytest.mark.prove_only_on_postgres(
    but=(
        "test_a_disabled_user_is_refused_from_the_next_request_on",
        "test_no_character_in_a_login_causes_a_server_error",
        "test_a_form_and_json_are_both_accepted",
    )
)

CORRELATION = {"X-Correlation-ID": "the-same-for-all"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def test_a_form_and_json_are_both_accepted(server: Server) -> None:
    async with new_user(server) as caller, http_client(server) as http:
        as_json = await login(http, caller.email, PASSWORD)
        form = {"grant_type": "password", "username": caller.email, "password": PASSWORD, "scope": ""}
        async with http.post("/auth/login", data=form) as response:
            as_form = await response.json()
            assert response.status == 200
            assert response.headers["Cache-Control"] == "no-store"
        assert as_json.body.keys() == as_form.keys() >= {"access_token", "token_type", "expires_in"}
        for token in (as_json.body["access_token"], as_form["access_token"]):
            async with http.get("/me", headers={"Authorization": f"Bearer {token}"}) as response:
                assert (await response.json())["email"] == caller.email


async def test_an_error_of_a_form_has_the_members_of_oauth(server: Server) -> None:
    """RFC 6749, 5.2, beside those of a problem."""
    forms: list[tuple[str, dict[str, str], int, str]] = [
        ("login", {"username": "nobody@example.com", "password": PASSWORD}, 401, "invalid_grant"),
        ("login", {"username": "nobody@example.com"}, 422, "invalid_request"),
        ("refresh", {"grant_type": "refresh_token", "refresh_token": "tk-refresh-0"}, 401, "invalid_grant"),
        ("refresh", {"grant_type": "password"}, 422, "invalid_request"),
    ]
    async with http_client(server) as http:
        for path, form, status, error in forms:
            async with http.post(f"/auth/{path}", data=form) as response:
                body = await response.json(content_type="application/problem+json")
            assert (response.status, body["status"], body["error"]) == (status, status, error), form
            assert body["error_description"].isascii()
            assert '"' not in body["error_description"]
            assert body["code"]
        async with http.post("/auth/refresh", json={"refresh_token": "tk-refresh-0"}) as response:
            assert "error" not in await response.json(content_type="application/problem+json")


async def test_an_unknown_user_a_wrong_password_and_a_disabled_user_get_the_same_response(server: Server) -> None:
    async with new_user(server) as caller, new_user(server) as other:
        async with _rows_of(server, other) as (user, _):
            accounts.disable(user, SystemClock().now_ms())
        answers = [
            await _log_in(server, username, password)
            for username, password in (
                (caller.email, PASSWORD + "x"),
                (caller.email, PASSWORD[:-1]),
                (caller.email, "x"),
                (caller.email, "x" * 4_000),
                ("nobody@example.com", PASSWORD),
                ("no e-mail address", PASSWORD),
                ("' OR 1=1 --", PASSWORD),
                ("ą" * 100, "ą" * 600),
                (other.email, PASSWORD),
            )
        ]
    assert {raw.status for raw in answers} == {401}
    assert answers[0].problem["code"] == "invalid_credentials"
    assert len({raw.body for raw in answers}) == 1
    assert len({tuple(raw.headers) for raw in answers}) == 1


SHAPES = {
    "nothing": ("application/json", b""),
    "no JSON": ("application/json", b"username=a&password=b"),
    "a list": ("application/json", b"[]"),
    "no password": ("application/json", b'{"username": "tell-nobody"}'),
    "an empty password": ("application/json", b'{"username": "tell-nobody", "password": ""}'),
    "a password that is a number": ("application/json", b'{"username": "a", "password": 12345678}'),
    "an unknown field": ("application/json", b'{"username": "a", "password": "tell-nobody", "role": "operator"}'),
    "a username of 5,000": ("application/json", b'{"username": "%b", "password": "b"}' % (b"tell-nobody" * 500)),
    "a form without a password": ("application/x-www-form-urlencoded", b"username=tell-nobody"),
    "a form with an unknown field": ("application/x-www-form-urlencoded", b"username=a&password=tell-nobody&role=x"),
    "an empty form": ("application/x-www-form-urlencoded", b""),
    "a form of many fields": ("application/x-www-form-urlencoded", b"&".join([b"f=tell-nobody"] * 50)),
    "a multipart form that is none": ("multipart/form-data", b"tell-nobody"),
    "a multipart form cut off": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; nam"),
    "a file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="username"; filename="f"\r\n\r\ntell-nobody\r\n--x--\r\n',
    ),
    "plain text": ("text/plain", b'{"username": "a", "password": "tell-nobody"}'),
    "no type": ("", b'{"username": "a", "password": "tell-nobody"}'),
    "a broken charset": ("application/x-www-form-urlencoded; charset=tell-nobody", b"username=%ff&password=%ff"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), SHAPES.values(), ids=SHAPES.keys())
async def test_a_login_of_another_shape_is_refused_and_not_echoed(server: Server, kind: str, body: bytes) -> None:
    raw = await exchange(server.port, request("POST", "/auth/login", body, {"Content-Type": kind}))
    assert 400 <= raw.status < 429, raw
    assert ("error" in raw.problem) == kind.startswith("application/x-www-form-urlencoded")
    assert raw.problem["code"] in {"invalid_json", "invalid_request", "invalid_credentials", "unsupported_media_type"}
    assert b"tell-nobody" not in raw.body
    server.assert_no_traceback()


async def test_no_character_in_a_login_causes_a_server_error(server: Server) -> None:
    for text in ("\0", "a\0@example.com", "\ud7ff", "\uffff", "\U0010ffff", "\u202e", "%", "\r\n", "'\";--"):
        body = f"username={quote(text)}&password={quote(text)}".encode()
        assert (await exchange(server.port, request("POST", "/auth/login", body, FORM))).status in {401, 422}
    for raw_bytes in (b"username=%ff%fe&password=%c0%80", b"username=\xff&password=\xff"):
        assert (await exchange(server.port, request("POST", "/auth/login", raw_bytes, FORM))).status in {401, 422}
    server.assert_no_traceback()


async def test_a_disabled_user_is_refused_from_the_next_request_on(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        assert (await caller.query(caller.marker)).status == 200
        async with _rows_of(server, caller) as (user, _):
            accounts.disable(user, SystemClock().now_ms())
        await _assert_refused(caller, upstream)
        async with _rows_of(server, caller) as (user, _):
            accounts.enable(user)
        await _assert_refused(caller, upstream)
        assert (await login(caller.http, caller.email, PASSWORD)).status == 200


async def test_the_users_of_a_disabled_tenant_are_refused_from_the_next_request_on(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        assert (await caller.query(caller.marker)).status == 200
        async with _rows_of(server, caller) as (_, tenant):
            accounts.disable(tenant, SystemClock().now_ms())
        await _assert_refused(caller, upstream)
        assert (await login(caller.http, caller.email, PASSWORD)).status == 401
        async with _rows_of(server, caller) as (_, tenant):
            accounts.enable(tenant)
        assert (await caller.query(caller.marker)).status == 200


async def test_a_new_password_invalidates_every_older_token(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller, new_user(server) as other:
        assert (await caller.query(caller.marker)).status == 200
        async with _rows_of(server, other) as (user, _):
            anothers_hash = user.password_hash
        async with _rows_of(server, caller) as (user, _):
            accounts.change_password(user, anothers_hash)
        await _assert_refused(caller, upstream)
        assert (await login(caller.http, caller.email, PASSWORD)).status == 200


async def test_a_call_in_flight_when_its_user_is_disabled_is_settled(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        call = asyncio.create_task(caller.query(scripted(caller.marker, gate=caller.marker)))
        with upstream.gate(caller.marker):
            async with asyncio.timeout(TEST_DEADLINE_S):
                while not upstream.waiting(caller.marker):
                    await asyncio.sleep(0.02)
            async with _rows_of(server, caller) as (user, _):
                accounts.disable(user, SystemClock().now_ms())
        reply = await call
        assert (reply.status, reply.body["cost"]) == (200, 14)
        assert (await caller.query(caller.marker)).status == 401


async def _log_in(server: Server, username: str, password: str) -> RawResponse:
    body = json.dumps({"username": username, "password": password}).encode()
    return await exchange(server.port, request("POST", "/auth/login", body, CORRELATION))


@asynccontextmanager
async def _rows_of(server: Server, caller: ApiUser) -> AsyncIterator[tuple[User, Tenant]]:
    """The rows of a user and its tenant, in a transaction of this process."""
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            query = select(User, Tenant).join(Tenant, col(Tenant.id) == User.tenant_id)
            user, tenant = (await session.exec(query.where(User.id == caller.principal.user_id))).one()
            yield user, tenant
    finally:
        await database.close()


async def _assert_refused(caller: ApiUser, upstream: Upstream) -> None:
    """The token is refused by every route, and no request goes upstream."""
    requests_before = len(upstream.requests(caller.marker))
    replies = [await caller.get("/me"), await caller.get("/me/quota"), await caller.query(caller.marker)]
    assert [(reply.status, reply.code) for reply in replies] == [(401, "unauthenticated")] * 3
    assert len(upstream.requests(caller.marker)) == requests_before
