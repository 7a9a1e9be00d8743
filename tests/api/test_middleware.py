"""OuterMiddleware: a shutdown waits for the calls in flight."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from tollkeeper.api.middleware import OuterMiddleware
from tollkeeper.telemetry.logging import AccessLog


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_wait_at_shutdown_ends_when_a_cancelled_call_has_settled(kind: str) -> None:
    entered, settled = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await settled.wait()

    middleware = OuterMiddleware(app, AccessLog("error"))
    await middleware.wait_until_idle(60)
    scope = {"type": kind, "method": "GET", "path": "/", "headers": []}
    call = asyncio.create_task(middleware(scope, _receive_nothing, _discard))
    await entered.wait()
    call.cancel()
    await middleware.wait_until_idle(0.01)
    assert not call.done(), "the wait ends after its timeout"
    waiting = asyncio.create_task(middleware.wait_until_idle(60))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    settled.set()
    await waiting
    await call


async def _receive_nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def _discard(_message: Message) -> None:
    pass
