"""HTTP over a plain socket: sends any bytes, and parses the response."""

import asyncio
import json
from typing import Any, NamedTuple

from support.deadlines import TEST_DEADLINE_S


class RawResponse(NamedTuple):
    """A response as it came over the socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body of an error: a problem document (RFC 9457) with the correlation id of the request."""
        assert self.headers["content-type"] == "application/problem+json", self
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        assert document["correlation_id"] == self.headers["x-correlation-id"]
        return document


def request(
    method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, *, raw_headers: bytes = b""
) -> bytes:
    """The bytes of a request. Content-Length and the JSON content type are set unless `headers` replace them."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}".encode() + raw_headers + b"\r\n" + body


def chunked(method: str, path: str, headers: dict[str, str], body: bytes, size: int = 65_536) -> bytes:
    """The bytes of a request with a chunked body."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Transfer-Encoding": "chunked"} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + chunks + b"0\r\n\r\n"


async def exchange(port: int, data: bytes) -> RawResponse:
    """Send bytes on a new connection, and read the response, even if it comes before all bytes were sent."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        sending = asyncio.create_task(_send(writer, data))
        try:
            return await _read(reader, bodiless=data.startswith(b"HEAD "))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _read(reader: asyncio.StreamReader, *, bodiless: bool) -> RawResponse:
    line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    body = b"" if bodiless else await reader.readexactly(int(headers.get("content-length", 0)))
    return RawResponse(int(line.split(" ")[1]), headers, body)
