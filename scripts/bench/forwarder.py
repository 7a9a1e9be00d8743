"""The baseline: a bare ASGI proxy that forwards bodies to the upstream over keep-alive connections.

It relays a stream block by block and does not parse it.
"""

import os
from typing import Any

import aiohttp

UPSTREAM_VARIABLE = "BENCH_UPSTREAM"
_HEADERS = {"Authorization": "Bearer bench", "Content-Type": "application/json", "Accept-Encoding": "identity"}

_session: aiohttp.ClientSession | None = None


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Forward every request to the upstream that the environment names."""
    body = b""
    more_body = True
    while more_body:
        message = await receive()
        body += message.get("body", b"")
        more_body = message.get("more_body", False)
    url = os.environ[UPSTREAM_VARIABLE] + "/chat/completions"
    async with _get_session().post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
        if response.content_length is None:
            await _relay(response, send)
        else:
            await _respond(response.status, await response.read(), send)


async def _respond(status: int, body: bytes, send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _relay(response: aiohttp.ClientResponse, send: Any) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    while block := await response.content.readany():
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _get_session() -> aiohttp.ClientSession:
    global _session
    if _session is None:
        _session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )
    return _session
