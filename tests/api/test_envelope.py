"""What the application waits for when it is told to stop."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from tollkeeper.api.middleware import OuterMiddleware
from tollkeeper.telemetry.logging import AccessLog


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_call_that_was_cut_is_waited_for_until_it_is_over(kind: str) -> None:
    entered, settled = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await settled.wait()

    envelope = OuterMiddleware(app, AccessLog("error"))
    await envelope.wait_until_idle(60)
    scope = {"type": kind, "method": "GET", "path": "/", "headers": []}
    call = asyncio.create_task(envelope(scope, _nothing, _nowhere))
    await entered.wait()
    call.cancel()
    await envelope.wait_until_idle(0.01)
    assert not call.done(), "it is not waited for longer"
    waiting = asyncio.create_task(envelope.wait_until_idle(60))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    settled.set()
    await waiting
    await call


async def _nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def _nowhere(_message: Message) -> None:
    pass
