"""OuterMiddleware: a shutdown waits for the calls in flight."""

import asyncio
from select import PIPE_BUF

import pytest
from starlette.types import Message, Receive, Scope, Send

from tollkeeper.api.middleware import OuterMiddleware, send_response
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


async def test_a_path_of_any_length_makes_a_line_that_a_pipe_takes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A longer one could tear the line of another worker."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_response(404, b"", {}, send)

    access_log = AccessLog("info", worker=1)
    await OuterMiddleware(app, access_log)(
        {"type": "http", "method": "GET", "path": "/" + "\1" * 30_000, "headers": []}, _receive_nothing, _discard
    )
    access_log._flush()
    line = capsys.readouterr().out
    assert line.endswith("\n")
    assert 1_000 < len(line.encode()) <= PIPE_BUF


async def _receive_nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def _discard(_message: Message) -> None:
    pass
