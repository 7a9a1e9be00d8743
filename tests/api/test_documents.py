"""The OpenAPI document is made once, in a thread, so that the event loop goes on."""

import asyncio
import threading
import time

from fastapi import FastAPI
from starlette.requests import Request

from tollkeeper.api.documents import OpenApiDocument


async def test_the_document_is_made_once_and_in_a_thread() -> None:
    app, threads = FastAPI(), []

    def make() -> dict[str, str]:
        threads.append(threading.current_thread())
        time.sleep(0.05)
        return {"openapi": "3.1.0"}

    app.openapi = make  # type: ignore[method-assign]
    document, request = OpenApiDocument(app), Request({"type": "http"})
    first = asyncio.create_task(document.respond(request))
    others = [asyncio.create_task(document.respond(request)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    bodies = {bytes(response.body) for response in await asyncio.gather(*others)}
    bodies.add(bytes((await document.respond(request)).body))
    assert bodies == {b'{"openapi":"3.1.0"}'}
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
