"""What a stranger sends to the running server costs it a refusal, and no more."""

import pytest

from journeys.support.raw_http import exchange, request
from journeys.support.server import Server

pytestmark = pytest.mark.prove_only_on_postgres

JSON = {"Content-Type": "application/json"}
HEAD = b"Host: here\r\n"


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; charset=punycode; boundary=x", "text/plain; charset=idna"]
)
async def test_a_login_in_another_format_is_refused_before_it_is_decoded(server: Server, content_type: str) -> None:
    """560 KB in multipart with charset=punycode froze the process for 14 s."""
    refused = await exchange(
        server.port, request("POST", "/auth/login", b"a" * 560_000, {"Content-Type": content_type})
    )
    assert (refused.status, refused.problem["code"]) == (415, "unsupported_media_type")


async def test_a_login_of_more_than_16_kib_is_refused(server: Server) -> None:
    refused = await exchange(server.port, request("POST", "/auth/login", b"a" * 17_000, JSON))
    assert (refused.status, refused.problem["code"]) == (413, "body_too_large")


async def test_a_body_on_an_unknown_path_is_not_read(server: Server) -> None:
    answer = await exchange(server.port, b"POST /nothing HTTP/1.1\r\n" + HEAD + b"Content-Length: 20000000\r\n\r\n{")
    assert (answer.status, answer.problem["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\n" + HEAD + b"X: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /health/live HTTP/1.1\r\n" + HEAD + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /health/live HTTP/1.1\r\n" + HEAD + HEAD + b"\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
        (b"GET /me HTTP/1.1\r\n" + HEAD + b"Authorization: Bearer " + b"A" * 100_000 + b"\r\n\r\n", 431),
        (b"POST /ai/query HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 401),
    ],
)
async def test_a_head_outside_the_limits_is_refused(server: Server, data: bytes, status: int) -> None:
    assert (await exchange(server.port, data)).status == status


async def test_an_authorization_in_a_trailer_opens_nothing(server: Server) -> None:
    data = (
        b"POST /ai/query HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        b"0\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    )
    assert (await exchange(server.port, data)).status == 401
