"""Pages in a browser may call from the origins that the operator allows, and from no others (Fetch standard, CORS)."""

import io
from collections.abc import Callable, Iterator

import pytest

from journeys.support.server import Server
from journeys.support.users import http_client, new_user

HOME, ELSEWHERE = "https://app.example.com", "https://evil.example.com"
PATHS = ("/ai/query", "/ai/stream", "/v1/chat/completions", "/v1/messages", "/v1/models", "/me", "/auth/login")


@pytest.fixture
def server(make_server: Callable[..., Server], sqlite_url: str) -> Iterator[Server]:
    origins = f"https://other.example.com, {HOME}"
    made = make_server(sqlite_url, OPENAI_API_KEY="", TOLLKEEPER_ALLOWED_ORIGINS=origins).start()
    yield made
    made.stop()


def preflight(origin: str) -> dict[str, str]:
    wanted = "authorization,content-type,idempotency-key,x-stainless-lang"
    return {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}


async def test_a_preflight_from_an_allowed_origin_permits_every_route_and_sdk_header(server: Server) -> None:
    async with http_client(server) as http:
        for path in PATHS:
            async with http.options(path, headers=preflight(HOME)) as response:
                assert response.status == 200, path
                assert response.headers["Access-Control-Allow-Origin"] == HOME
                methods = response.headers["Access-Control-Allow-Methods"].split(", ")
                assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= set(methods)
                allowed = response.headers["Access-Control-Allow-Headers"].split(",")
                assert {"authorization", "idempotency-key", "x-stainless-lang"} <= {name.strip() for name in allowed}
                assert "Access-Control-Allow-Credentials" not in response.headers


async def test_an_allowed_origin_may_read_answers_errors_and_streams(server: Server) -> None:
    async with new_user(server) as caller:
        for path, body, status in (
            ("/ai/query", {"prompt": "hello"}, 200),
            ("/ai/stream", {"prompt": "hello"}, 200),
            ("/ai/query", {"prompt": 5}, 422),
            ("/v1/chat/completions", {}, 400),
        ):
            async with caller.http.post(path, json=body, headers=caller.auth_headers | {"Origin": HOME}) as response:
                assert await response.read()
                assert response.status == status
                assert response.headers["Access-Control-Allow-Origin"] == HOME
                assert response.headers["Access-Control-Expose-Headers"] == "*"
                assert "Origin" in response.headers["Vary"]
        too_large = io.BytesIO(b"x" * (2**20 + 1))
        async with caller.http.post(
            "/auth/login", data=too_large, headers={"Origin": HOME, "Content-Type": "application/json"}
        ) as response:
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (413, HOME)
        async with caller.http.get("/me", headers={"Origin": HOME}) as response:
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (401, HOME)


async def test_other_origins_get_no_cors_headers(server: Server) -> None:
    async with new_user(server) as caller:
        async with caller.http.options("/ai/query", headers=preflight(ELSEWHERE)) as response:
            assert response.status == 400
            assert "Access-Control-Allow-Origin" not in response.headers
        headers = caller.auth_headers | {"Origin": ELSEWHERE}
        async with caller.http.post("/ai/query", json={"prompt": "hello"}, headers=headers) as response:
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_without_allowed_origins_no_cors_headers_are_sent(echo_server: Server) -> None:
    async with http_client(echo_server) as http, http.options("/ai/query", headers=preflight(HOME)) as response:
        assert response.status == 405
        assert "Access-Control-Allow-Origin" not in response.headers
