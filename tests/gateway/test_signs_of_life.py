"""A provider that sends signs of life is waited for, and the client receives pings meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.gateway import GatewayUnderTest, RecordingListener, assert_charged, final_chunks, open_gateway, text_chunk
from tollkeeper import errors
from tollkeeper.chat import Usage
from tollkeeper.gateway import attempts
from tollkeeper.gateway.streaming import MAX_HELD_BACK_CHUNKS, Deadlines
from tollkeeper.providers.base import SIGN_OF_LIFE, StreamChunk

PAUSE_S = 0.2
EARLY_REPORT = StreamChunk(b"<early>", (Usage(40, 0),))


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    """The signs of life come in a third of the idle timeout."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    deadlines = Deadlines(first_s=3 * PAUSE_S, idle_s=3 * PAUSE_S, total_s=3600.0, ping_s=1.5 * PAUSE_S)
    async with open_gateway(sqlite_url, deadlines) as opened:
        yield opened


async def test_signs_of_life_hold_off_the_timeouts_and_not_the_pings(gateway: GatewayUnderTest) -> None:
    async def alive(times: int) -> AsyncIterator[StreamChunk]:
        for _ in range(times):
            await asyncio.sleep(PAUSE_S)
            yield SIGN_OF_LIFE

    async def stream(*_: object) -> AsyncIterator[StreamChunk]:
        async for chunk in alive(5):
            yield chunk
        yield text_chunk("Hel")
        async for chunk in alive(5):
            yield chunk
        yield text_chunk("lo")
        for chunk in final_chunks():
            yield chunk

    gateway.provider.stream = stream  # type: ignore[assignment, method-assign]
    listener = RecordingListener()
    await gateway.stream(listener)
    assert listener.raw == b"Hello<finish>"
    assert listener.pings >= 2
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_any_number_of_signs_of_life_binds_to_nothing(gateway: GatewayUnderTest) -> None:
    many = [SIGN_OF_LIFE, StreamChunk(b"", ())] * (MAX_HELD_BACK_CHUNKS + 1)
    gateway.provider.streams = [[*many, errors.ProviderFailed()], [*many, text_chunk("yes"), *final_chunks()]]
    listener = RecordingListener()
    await gateway.stream(listener)
    assert (listener.raw, len(gateway.provider.calls)) == (b"yes<finish>", 2)


async def test_an_early_report_of_usage_is_no_beginning(gateway: GatewayUnderTest) -> None:
    """After it the timeout of the first output applies, and the report is kept for the charge."""
    listener = RecordingListener()
    gateway.provider.streams = [[EARLY_REPORT, text_chunk("yes"), *final_chunks()]]
    await gateway.stream(listener)
    assert listener.raw == b"<early>yes<finish>"
    assert_charged(await gateway.charge(), "provider", 40, 10)
