"""Invalid requests with a valid body or none: too large, to an unknown path, malformed, or with a wrong method."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from journeys.support.raw_http import RawResponse, chunked, exchange, request
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.prove_only_on_postgres

CANARY = "tell-nobody"
MIB = 1024 * 1024
DOCUMENT = b'{"prompt": "tell-nobody"}'


@pytest.fixture
async def caller(server: Server, upstream: Upstream) -> AsyncIterator[ApiUser]:
    """A user. After the test, the user has no charge, and the upstream has received no request with CANARY."""
    requests_before = len(upstream.requests(CANARY))
    async with new_user(server) as user:
        yield user
        assert await user.charges() == []
        quota = await user.quota()
        assert (quota["used"], quota["reserved"]) == (0, 0)
    assert len(upstream.requests(CANARY)) == requests_before


async def test_a_body_over_1_mib_is_refused_by_its_announced_length(server: Server, caller: ApiUser) -> None:
    head = request("POST", "/ai/query", b"", caller.auth_headers | {"Content-Length": str(MIB + 1)})
    _assert_refused(await exchange(server.port, head), 413, "body_too_large")


async def test_a_body_over_1_mib_is_refused_while_it_is_received(server: Server, caller: ApiUser) -> None:
    body = b'{"prompt": "' + b"x" * 3 * MIB + b'"}'
    _assert_refused(await _post(server, caller, body), 413, "body_too_large")
    data = chunked("POST", "/ai/query", caller.auth_headers, body)
    _assert_refused(await exchange(server.port, data), 413, "body_too_large")


async def test_a_body_is_limited_before_authentication_and_not_read_on_unknown_paths(server: Server) -> None:
    for path, status, code in (("/auth/login", 413, "body_too_large"), ("/nowhere", 404, "not_found")):
        data = chunked("POST", path, {}, b"x" * (MIB + 1))
        _assert_refused(await exchange(server.port, data), status, code)


async def test_a_metered_endpoint_authenticates_before_it_reads_the_body(server: Server) -> None:
    head = request("POST", "/ai/query", b"", {"Content-Length": str(100 * MIB)})
    _assert_refused(await exchange(server.port, head), 401, "unauthenticated")


async def test_an_invalid_content_length_is_a_client_error(server: Server, caller: ApiUser) -> None:
    for length in ("-1", "abc", "1e3", "0x10", "9" * 30, "٣"):
        data = request("POST", "/ai/query", DOCUMENT, caller.auth_headers | {"Content-Length": length})
        assert 400 <= (await exchange(server.port, data)).status < 500


async def test_a_body_that_never_arrives_does_not_block_other_requests(server: Server, caller: ApiUser) -> None:
    head = request("POST", "/ai/query", b'{"prompt"', caller.auth_headers | {"Content-Length": "100"})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    await writer.drain()
    assert (await caller.get("/me")).status == 200
    writer.transport.abort()
    assert await reader.read() == b""


async def test_a_client_that_disconnects_within_a_body_makes_no_call_and_is_logged(
    server: Server, caller: ApiUser
) -> None:
    """Even if the bytes received so far are a complete JSON document."""
    name = f"left-{caller.marker}"
    length = {"Content-Length": "1000", "X-Correlation-ID": name}
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("POST", "/ai/query", DOCUMENT, caller.auth_headers | length))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while len(lines := [line for line in server.program.output.splitlines() if name in line]) < 3:
            await asyncio.sleep(0.02)
    _, call, line = map(json.loads, lines)
    assert (call["event"], call["data"]["status"], call["data"]["attempts"]) == ("ai.response", "refused", [])
    assert call["data"]["error"]["code"] == "ClientDisconnect"
    assert (line["event"], line["path"], line["status"]) == ("http.request", "/ai/query", 0)


async def test_a_model_that_does_not_exist_here_is_not_found(echo_server: Server) -> None:
    async with new_user(echo_server) as caller:
        _assert_refused(
            await _post(echo_server, caller, b'{"prompt": "tell-nobody", "model": "gpt-nine-tell-nobody"}'),
            404,
            "not_found",
        )
        assert await caller.charges() == []


async def test_a_model_whose_name_is_not_printable_is_not_found(server: Server, caller: ApiUser) -> None:
    """The provider serves any other name."""
    for character in ("\x1b[31m", "\u202e", "\u2066"):
        body = json.dumps({"prompt": "tell-nobody", "model": f"gpt-4o{character}tell-nobody"}).encode()
        _assert_refused(await _post(server, caller, body), 404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
async def test_a_metered_endpoint_accepts_only_post(server: Server, caller: ApiUser, method: str) -> None:
    raw = await exchange(server.port, request(method, "/ai/query", b"", caller.auth_headers))
    assert raw.status == 405
    if method != "HEAD":
        assert raw.problem["code"] == "method_not_allowed"
    assert raw.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/auth/login", "POST"),
        ("/auth/keys", "GET, POST"),
        ("/auth/keys/key_1", "DELETE"),
        ("/me", "GET"),
        ("/ai/sessions", "GET"),
        ("/ai/sessions/x", "GET, DELETE"),
        ("/v1/models/some/model", "GET"),
        ("/docs", "GET, HEAD"),
    ],
)
async def test_a_refused_method_gets_the_list_of_allowed_methods(
    server: Server, caller: ApiUser, path: str, methods: str
) -> None:
    for method in ("PUT", "PATCH", "TRACE"):
        raw = await exchange(server.port, request(method, path, b"", caller.auth_headers))
        assert (raw.status, raw.headers["allow"]) == (405, methods)


PATHS = (
    "/nowhere",
    "/ai/query/",
    "//ai/query",
    "/AI/QUERY",
    "/ai/query/../query",
    "/ai/%71uery%00",
    "/%",
    "/%zz",
    "/%ff%fe",
    "/me/charges/%00",
    "/me/charges/%ff",
    "/me/charges/..%2f..%2fetc%2fpasswd",
    "/me/charges/" + "x" * 5_000,
    "/me/charges?limit=0",
    "/me/charges?limit=101",
    "/me/charges?limit=abc",
    "/me/charges?limit=99999999999999999999999",
    "/me/charges?cursor=%00",
    "/me/charges?cursor=chg_zz",
    "/me/charges?cursor='%20OR%201=1--",
    "/me/quota/%F0%9F%98%80",
    "/docs/..",
    "*",
    "http://elsewhere.example/ai/query",
)


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_causes_a_server_error(server: Server, caller: ApiUser, path: str) -> None:
    raw = await exchange(server.port, request("GET", path, b"", caller.auth_headers))
    assert 400 <= raw.status < 500 or raw.status == 307
    assert b"Traceback" not in raw.body


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a header of 100 KB": request("POST", "/ai/query", b"", {"X-Large": "x" * 100_000}),
    "10,000 headers": request("GET", "/me", raw_headers=b"X-A: b\r\n" * 10_000),
    "a header without a name": request("GET", "/me", raw_headers=b": value\r\n"),
    "a header with a control character": request("GET", "/me", raw_headers=b"X-A: \x01\x02\r\n"),
    "two lengths": request("POST", "/ai/query", b"{}", raw_headers=b"Content-Length: 50\r\n"),
    "length and chunks": request("POST", "/ai/query", b"{}", raw_headers=b"Transfer-Encoding: chunked\r\n"),
    "a chunk size that is none": request(
        "POST", "/ai/query", b"zz\r\n", {"Content-Length": "", "Transfer-Encoding": "chunked"}
    ),
    "a method that is none": request("BREW", "/ai/query"),
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_no_malformed_request_causes_a_server_error(server: Server, data: bytes) -> None:
    """It gets a 4xx status, or the connection is closed; and the next request is served."""
    try:
        raw = await exchange(server.port, data)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    else:
        assert 400 <= raw.status < 500
    assert (await exchange(server.port, request("GET", "/health"))).status == 200


async def _post(server: Server, caller: ApiUser, body: bytes) -> RawResponse:
    return await exchange(server.port, request("POST", "/ai/query", body, caller.auth_headers))


def _assert_refused(raw: RawResponse, status: int, code: str) -> None:
    assert (raw.status, raw.problem["code"]) == (status, code), raw
    assert CANARY.encode() not in raw.body
    assert CANARY not in str(raw.headers)
    assert len(raw.body) < 1_000
