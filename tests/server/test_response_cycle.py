"""What our cycle writes is what uvicorn's writes, in fewer pieces."""

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from support.depth import examples
from tollkeeper.server.response_cycle import ResponseCycle


class FakeTransport:
    """Records what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if data:
            self.written.append(data)

    def close(self) -> None:
        self.closed = True


class FakeFlow:
    """A client that reads at once."""

    write_paused = False


def run(
    kind: type[RequestResponseCycle], messages: list[dict[str, Any]], *, method: str = "GET", keep_alive: bool = True
) -> tuple[list[bytes], bool, bool, str]:
    """Send the messages. Returns what was written, whether the connection was closed, whether the response is complete,
    and the class of an error.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(dict(message))

    async def main() -> tuple[list[bytes], bool, bool, str]:
        transport: Any = FakeTransport()
        flow: Any = FakeFlow()
        scope: Any = {"type": "http", "method": method}
        cycle = kind(
            scope,
            transport,
            flow,
            logging.getLogger("none"),
            logging.getLogger("none"),
            False,
            [(b"server", b"x")],
            asyncio.Event(),
            False,
            keep_alive,
            lambda: None,
        )
        error = ""
        try:
            await app(scope, cycle.receive, cycle.send)
        except RuntimeError as raised:
            error = type(raised).__name__
        return transport.written, transport.closed, cycle.response_complete, error

    return asyncio.run(main())


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


HEADERS = st.lists(
    st.sampled_from(
        [
            (b"content-type", b"text/plain"),
            (b"X-Upper", b"\xe9\t"),
            (b"content-length", b"5"),
            (b"content-length", b"0"),
            (b"transfer-encoding", b"chunked"),
            (b"connection", b"close"),
            (b"connection", b"keep-alive"),
            (b"x bad", b"1"),
            (b"x-bad", b"1\r\nx: y"),
            (b"x-bad", b"\x00"),
        ]
    ),
    max_size=3,
    unique_by=lambda header: header[0].lower(),
)
BODIES = st.lists(st.sampled_from([b"", b"hello", b"he", b"llo"]), min_size=1, max_size=3)


@given(
    st.sampled_from([200, 204, 304, 404, 500]), HEADERS, BODIES, st.sampled_from(["GET", "POST", "HEAD"]), st.booleans()
)
@settings(max_examples=examples(400), deadline=None)
def test_the_bytes_are_those_of_uvicorn(
    status: int, headers: list[tuple[bytes, bytes]], contents: list[bytes], method: str, keep_alive: bool
) -> None:
    bodies = [body(content, more=place < len(contents) - 1) for place, content in enumerate(contents)]
    messages = [start(status, *headers), *bodies]
    ours = run(ResponseCycle, messages, method=method, keep_alive=keep_alive)
    theirs = run(RequestResponseCycle, messages, method=method, keep_alive=keep_alive)
    assert ours[1:] == theirs[1:]
    if not ours[3]:
        assert b"".join(ours[0]) == b"".join(theirs[0])


def test_the_head_is_written_with_the_first_part_of_the_body() -> None:
    messages = [start(200, (b"content-length", b"5")), body(b"hello")]
    written, *_ = run(ResponseCycle, messages)
    assert written == [b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 5\r\n\r\nhello"]
    written, *_ = run(ResponseCycle, [start(), body(b"one", more=True), body(b"two")])
    assert len(written) == 2


@pytest.mark.parametrize(
    "messages", [[body(b"x")], [start(), start()], [start(), body(b"x"), body(b"y")]], ids=["body", "heads", "end"]
)
def test_messages_in_a_wrong_order_are_refused(messages: list[dict[str, Any]]) -> None:
    assert run(ResponseCycle, messages)[3] == "RuntimeError"
