"""The yardstick, the least that a Python proxy does: body in, sent on over kept connections, answer out. Bare ASGI.

A stream goes through as it comes, as bytes that nobody looks at.
"""

import os
from typing import Any

import aiohttp

UPSTREAM_VARIABLE = "BENCH_UPSTREAM"
_HEADERS = {"Authorization": "Bearer bench", "Content-Type": "application/json", "Accept-Encoding": "identity"}

_session: aiohttp.ClientSession | None = None


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Forward every request to the upstream named by the environment."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    url = os.environ[UPSTREAM_VARIABLE] + "/chat/completions"
    async with _open().post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
        if response.content_length is None:
            await _pass_on(response, send)
        else:
            await _answer(response.status, await response.read(), send)


async def _answer(status: int, answer: bytes, send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _pass_on(response: aiohttp.ClientResponse, send: Any) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    while block := await response.content.readany():
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _open() -> aiohttp.ClientSession:
    global _session
    if _session is None:
        _session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )
    return _session
