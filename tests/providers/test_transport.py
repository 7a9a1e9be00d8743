"""HTTP to a provider over a real socket: a response is an answer or raises a documented error."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace

import pytest

from support.deadlines import TEST_DEADLINE_S
from tollkeeper import errors
from tollkeeper.providers import transport as transport_module
from tollkeeper.providers.http.choice import HttpOptions
from tollkeeper.providers.transport import ResponseStream, Transport, status_error
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.trace_context import outgoing_traceparent

CLIENTS = {"builtin": HttpOptions(), "aiohttp": HttpOptions(use_aiohttp=True)}
STREAM = b"data: one\n\n: ping\n\ndata: two\n\n"


def answer(body: bytes, status: str = "200 OK", *fields: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(*parts: bytes, fields: Sequence[str] = (), whole: bool = True) -> bytes:
    head = "\r\n".join(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *fields]).encode() + b"\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if whole else b"")


@dataclass
class Server:
    """Sends the next of `answers` to each request, and the last one to all later requests.

    If `closes`, it closes the connection after an answer. `disconnected` is set when the client closes a connection.
    """

    url: str = ""
    answers: list[bytes] = field(default_factory=list)
    closes: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                await writer.drain()
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.disconnected.set()
        finally:
            writer.close()


@pytest.fixture(params=list(CLIENTS.values()), ids=list(CLIENTS), autouse=True)
def http(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HttpOptions:
    """The options of every transport in these tests: each test runs with both clients."""
    options: HttpOptions = request.param
    monkeypatch.setattr(transport_module, "HttpOptions", lambda: options)
    return options


@asynccontextmanager
async def serving(
    *answers: bytes, closes: bool = False, timeout_s: float = 5.0
) -> AsyncIterator[tuple[Server, Transport]]:
    served = Server(answers=list(answers), closes=closes)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    transport = Transport(f"{served.url}/v1/", {"X-Key": "secret"}, timeout_s=timeout_s)
    try:
        async with asyncio.timeout(TEST_DEADLINE_S):
            yield served, transport
    finally:
        await transport.close()
        server.close()


async def stream(transport: Transport) -> list[bytes]:
    with closing(transport.stream("/stream", b"{}")) as answer:
        return [block async for block in blocks(answer)]


async def blocks(answer: ResponseStream) -> AsyncIterator[bytes]:
    while block := await answer.read():
        yield block


async def post(transport: Transport) -> bytes:
    return await transport.post("/path", b"{}")


Call = Callable[[Transport], Awaitable[object]]
CALLS: dict[str, Call] = {"post": post, "stream": stream}
post_and_stream = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


async def test_a_request_is_sent_once_with_its_headers_and_the_body_is_returned_unchanged() -> None:
    async with serving(answer(b"hello")) as (server, transport):
        assert await transport.post("/path", b'{"a":1}') == b"hello"
    [request] = server.requests
    assert request.startswith(b"POST /v1/path HTTP/1.1\r\n")
    assert request.endswith(b'\r\n\r\n{"a":1}')
    for header in (b"X-Key: secret", b"Content-Type: application/json", b"Accept-Encoding: identity"):
        assert header in request


@post_and_stream
@pytest.mark.parametrize("header", ["X-Client-Request-Id", "X-Request-ID", None])
async def test_a_request_names_its_call_and_its_span(
    call: Call, header: str | None, http: HttpOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "HttpOptions", lambda: replace(http, correlation_header=header))
    async with serving(answer(b"hello")) as (server, transport):
        await call(transport)
        correlation_id.set("c-1")
        outgoing_traceparent.set("00-1-2-01")
        await call(transport)
    outside, within = ({line.lower() for line in request.splitlines()} for request in server.requests)
    added = {b"traceparent: 00-1-2-01"} | ({f"{header}: c-1".lower().encode()} if header is not None else set())
    assert within - outside == added


@post_and_stream
async def test_a_connection_is_reused_for_the_next_call(call: Call) -> None:
    async with serving(chunked(b"data: x\n\n")) as (server, transport):
        for _ in range(3):
            await call(transport)
    assert (server.connections, len(server.requests)) == (1, 3)


@post_and_stream
@pytest.mark.parametrize(
    ("status", "kind", "billed"),
    [
        ("204 No Content", errors.ProviderBadResponse, True),
        ("206 Partial Content", errors.ProviderBadResponse, True),
        ("302 Found", errors.ProviderFailed, False),
        ("400 Bad Request", errors.ProviderRejected, False),
        ("401 Unauthorized", errors.ProviderAuthFailed, False),
        ("404 Not Found", errors.ProviderLacksModel, False),
        ("408 Request Timeout", errors.ProviderTimeout, True),
        ("500 Internal Server Error", errors.ProviderFailed, False),
    ],
)
async def test_an_error_status_raises_its_error_and_is_neither_followed_nor_retried(
    call: Call, status: str, kind: type[errors.ProviderError], billed: bool
) -> None:
    body = b"" if status.startswith("204") else b"SECRET"
    async with serving(answer(body, status, "Location: /elsewhere")) as (server, transport):
        with pytest.raises(kind) as raised:
            await call(transport)
    assert (raised.value.billed, len(server.requests)) == (billed, 1)
    assert "SECRET" not in str(raised.value)


@post_and_stream
async def test_a_rate_limit_has_the_retry_after_of_the_provider(call: Call) -> None:
    async with serving(answer(b"", "429 Too Many Requests", "Retry-After: 7")) as (_, transport):
        with pytest.raises(errors.ProviderRateLimited) as raised:
            await call(transport)
    assert raised.value.retry_after_s == 7


BROKEN = {
    "nothing": (b"", errors.ProviderInterrupted),
    "no HTTP": (b"\x00\x01 hello\r\n\r\n", errors.ProviderBadResponse),
    "half of the headers": (b"HTTP/1.1 200 OK\r\nContent-Le", errors.ProviderInterrupted),
    "half of the body": (answer(b"data: x\n", length=400), errors.ProviderInterrupted),
    "no last chunk": (chunked(b"data: x\n", whole=False), errors.ProviderInterrupted),
    "encoded": (chunked(b"data: x\n\n", fields=["Content-Encoding: gzip"]), errors.ProviderBadResponse),
}


@post_and_stream
@pytest.mark.parametrize(("sent", "kind"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_response_counts_as_billed(call: Call, sent: bytes, kind: type[errors.ProviderError]) -> None:
    async with serving(sent, closes=True) as (server, transport):
        with pytest.raises(kind) as raised:
            await call(transport)
    assert (raised.value.billed, len(server.requests)) == (True, 1)


@pytest.mark.parametrize("sent", [answer(b"x" * 101), chunked(*[b"x"] * 101)], ids=["content-length", "chunked"])
async def test_a_body_above_the_maximum_size_is_a_bad_response(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "MAX_ANSWER_BYTES", 100)
    async with serving(sent) as (_, transport):
        with pytest.raises(errors.ProviderBadResponse):
            await post(transport)


async def test_a_body_of_the_maximum_size_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "MAX_ANSWER_BYTES", 100)
    async with serving(answer(b"x" * 100), chunked(b"x" * 50, b"x" * 50)) as (_, transport):
        assert [await post(transport), await post(transport)] == [b"x" * 100] * 2


async def test_a_call_that_is_not_streamed_has_a_timeout() -> None:
    async with serving(answer(b"half", length=400), timeout_s=0.2) as (_, transport):
        with pytest.raises(errors.ProviderTimeout):
            await post(transport)


@post_and_stream
async def test_an_unreachable_server_is_unavailable_and_not_billed(call: Call) -> None:
    for url in ("http://127.0.0.1:1/v1", "not a url", "http://"):
        transport = Transport(url, {}, timeout_s=5)
        with pytest.raises(errors.ProviderUnavailable) as raised:
            await call(transport)
        await transport.close()
        assert not raised.value.billed


@post_and_stream
@pytest.mark.parametrize("sent", [b"this is not TLS\n", b""], ids=["no TLS", "nothing"])
async def test_a_failed_tls_handshake_is_unavailable_and_not_billed(call: Call, sent: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        with suppress(ConnectionError):
            await reader.read(-1)
        writer.close()
        disconnected.set()

    disconnected = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    transport = Transport(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", {}, timeout_s=0.4)
    async with asyncio.timeout(TEST_DEADLINE_S):
        with pytest.raises(errors.ProviderUnavailable) as raised:
            await call(transport)
        await disconnected.wait()
    await transport.close()
    server.close()
    assert not raised.value.billed


async def test_a_stream_in_one_byte_chunks_is_read_completely() -> None:
    async with serving(chunked(*[bytes([one]) for one in STREAM])) as (_, transport):
        assert b"".join(await stream(transport)) == STREAM


async def test_a_stream_that_breaks_returns_what_was_received_before() -> None:
    async with serving(chunked(STREAM, whole=False), closes=True) as (_, transport):
        with closing(transport.stream("/stream", b"{}")) as answer:
            assert await answer.read() == STREAM
            with pytest.raises(errors.ProviderInterrupted):
                await answer.read()


async def test_closing_a_stream_early_closes_the_connection() -> None:
    async with serving(chunked(STREAM, whole=False)) as (server, transport):
        with closing(transport.stream("/stream", b"{}")) as answer:
            assert await answer.read()
            assert not server.disconnected.is_set()
        await server.disconnected.wait()


@pytest.mark.parametrize(
    "sent", [b"", chunked(STREAM, whole=False)], ids=["before the response", "within the response"]
)
async def test_cancelling_a_stream_closes_the_connection(sent: bytes) -> None:
    async with serving(sent) as (server, transport):
        task = asyncio.create_task(stream(transport))
        while not server.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.disconnected.wait()


async def test_a_stream_has_no_timeout_of_its_own() -> None:
    async with serving(chunked(STREAM, whole=False), timeout_s=0.1) as (_, transport):
        with closing(transport.stream("/stream", b"{}")) as answer:
            await answer.read()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(answer.read(), 0.3)


async def test_an_unused_stream_and_transport_can_be_closed() -> None:
    Transport("http://127.0.0.1:1", {}, timeout_s=5).stream("/stream", b"{}").close()
    await Transport("http://127.0.0.1:1", {}, timeout_s=5).close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.ProviderAuthFailed),
        (402, errors.ProviderAuthFailed),
        (403, errors.ProviderAuthFailed),
        (429, errors.ProviderRateLimited),
        (404, errors.ProviderLacksModel),
        (405, errors.ProviderLacksModel),
        (410, errors.ProviderLacksModel),
        (400, errors.ProviderRejected),
        (413, errors.RequestTooLarge),
        (415, errors.ProviderRejected),
        (422, errors.ProviderRejected),
        (499, errors.ProviderRejected),
        (302, errors.ProviderFailed),
        (409, errors.ProviderFailed),
        (425, errors.ProviderFailed),
        (498, errors.ProviderFailed),
        (500, errors.ProviderFailed),
        (503, errors.ProviderFailed),
    ],
)
def test_each_status_has_its_error_and_none_counts_as_billed(status: int, kind: type[errors.ProviderError]) -> None:
    error = status_error(status)
    assert type(error) is kind
    assert not error.billed


def test_an_unexpected_2xx_status_counts_as_billed() -> None:
    assert status_error(204).billed


def test_a_timeout_reported_by_the_provider_counts_as_billed() -> None:
    error = status_error(408)
    assert type(error) is errors.ProviderTimeout
    assert error.billed


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 0), (None, None), ("soon", None), ("-5", None), ("99999999", 3600), ("²", None)],
)
def test_retry_after_is_used_only_if_it_is_a_number_and_limited_to_an_hour(
    header: str | None, seconds: int | None
) -> None:
    assert status_error(429, header).retry_after_s == seconds


OVERFLOW = b'{"error":{"message":"prompt is too long: 9 tokens > 8 maximum SECRET","code":"context_length_exceeded"}}'


@post_and_stream
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (OVERFLOW, errors.ContextOverflow),
        (b'{"error":{"message":"SECRET","code":"content_filter"}}', errors.ContentFiltered),
        (b'{"error":{"message":"SECRET","param":"SECRET"}}', errors.ProviderRejected),
    ],
)
async def test_the_body_of_an_error_decides_its_class_and_none_of_its_text_is_told(
    call: Call, body: bytes, kind: type[errors.ProviderError]
) -> None:
    async with serving(answer(body, "400 Bad Request")) as (_, transport):
        with pytest.raises(errors.ProviderRejected) as raised:
            await call(transport)
    assert (type(raised.value), raised.value.billed) == (kind, False)
    assert "SECRET" not in str(raised.value) + raised.value.detail
    assert raised.value.upstream is not None
    assert (raised.value.upstream.status, "SECRET" in raised.value.upstream.text) == (400, True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.ContextOverflow),
        (422, errors.ContextOverflow),
        (500, errors.ContextOverflow),
        (413, errors.RequestTooLarge),
        (401, errors.ProviderAuthFailed),
        (404, errors.ProviderLacksModel),
        (408, errors.ProviderTimeout),
        (429, errors.ProviderRateLimited),
        (503, errors.ProviderFailed),
    ],
)
def test_a_status_with_a_meaning_of_its_own_decides_over_the_body(
    status: int, kind: type[errors.ProviderError]
) -> None:
    assert type(status_error(status, None, OVERFLOW)) is kind


def test_a_field_is_only_at_fault_where_the_status_is_that_of_a_wrong_request() -> None:
    body, sent = b'{"error":{"param":"tools"}}', b'{"tools":[]}'
    rejected = status_error(400, None, body, sent)
    assert isinstance(rejected, errors.ProviderRejected)
    assert rejected.parameter == "tools"
    assert type(status_error(500, None, body, sent)) is errors.ProviderFailed


async def test_of_a_long_error_only_the_begin_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "MAX_ERROR_BYTES", 10)
    async with serving(answer(b"0123456789" * 10_000, "400 Bad Request")) as (_, transport):
        with pytest.raises(errors.ProviderRejected) as raised:
            await post(transport)
    assert raised.value.upstream == errors.UpstreamError(400, "", "0123456789")


@post_and_stream
async def test_an_error_whose_body_does_not_come_is_known_by_its_status(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "ERROR_BODY_S", 0.05)
    async with serving(answer(b"{", "429 Too Many Requests", "Retry-After: 7", length=400)) as (_, transport):
        with pytest.raises(errors.ProviderRateLimited) as raised:
            await call(transport)
    assert raised.value.retry_after_s == 7
