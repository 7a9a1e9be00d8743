"""Clients that disconnect from a stream, or read too slowly: what is charged, and when the provider is read on."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from support.deadlines import TEST_DEADLINE_S
from support.gateway import (
    INPUT_BOUND,
    INPUT_TOKENS,
    GatewayUnderTest,
    RecordingListener,
    Step,
    assert_charged,
    failing_stream,
    final_chunks,
    make_call,
    open_gateway,
    short_pause,
    text_chunk,
)
from tollkeeper import errors
from tollkeeper.chat import Finish, Usage
from tollkeeper.gateway import attempts
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallFailed
from tollkeeper.gateway.streaming import Deadlines, Relay
from tollkeeper.providers.base import StreamChunk
from tollkeeper.telemetry.trace_context import join_trace

WANTED_OUTPUT = 5_000 - INPUT_BOUND
"""The wanted output of a model that thinks: the rest of its context window, in tokens."""
HELD = INPUT_BOUND + WANTED_OUTPUT
NEVER_S = 3600.0


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    """The deadlines are 0.6 s for the first chunk, and 0.2 s between chunks."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER_S, ping_s=NEVER_S)) as opened:
        yield opened


async def test_a_client_that_disconnects_pays_input_and_received_output_and_the_stream_is_closed(
    gateway: GatewayUnderTest,
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("Hel"), text_chunk("lo"), listener.disconnect_soon, asyncio.Event()]]
    result = await gateway.stream(listener)
    assert result.outcome.cut_short
    assert (listener.raw, gateway.provider.unfinished_streams) == (b"Hello", 1)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_a_client_that_disconnects_before_the_first_chunk_pays_the_input(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[listener.disconnect_soon, asyncio.Event()]]
    result = await gateway.stream(listener)
    assert (result.outcome.cut_short, gateway.provider.unfinished_streams, listener.chunks) == (True, 1, [])
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_client_that_disconnected_before_the_call_ends_the_stream_at_once(
    gateway: GatewayUnderTest,
) -> None:
    gateway.provider.streams = [[asyncio.Event()]]
    result = await gateway.stream(RecordingListener(left=True))
    assert result.outcome.cut_short
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 0)


async def test_hidden_output_after_a_disconnect_is_charged_by_the_report_at_the_end(
    gateway: GatewayUnderTest,
) -> None:
    listener, report = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [
        [
            text_chunk("He"),
            listener.disconnect_soon,
            lambda: set_soon(report),
            report,
            text_chunk("llo"),
            *final_chunks(),
        ]
    ]
    result = await gateway.stream(listener)
    assert (result.outcome.cut_short, listener.raw, gateway.provider.unfinished_streams) == (True, b"He", 0)
    assert_charged(await gateway.charge(), "provider", 40, 10)


@pytest.mark.parametrize("begun", [True, False])
async def test_hidden_output_after_a_disconnect_costs_the_hold_if_the_report_is_late(
    gateway: GatewayUnderTest, begun: bool
) -> None:
    """Also while it sends chunks: after a disconnect, `idle_s` limits the whole rest of the stream."""
    listener = RecordingListener()
    gateway.set_model(bills_hidden_output=True)
    endless: list[Step] = [text_chunk("x"), short_pause()] * 100 if begun else [asyncio.Event()]
    gateway.provider.streams = [[listener.disconnect_soon, *endless]]
    _, charge = await failing_stream(gateway, listener)
    assert_charged(charge, "counted", INPUT_BOUND, WANTED_OUTPUT)
    assert (charge.cost_tokens, charge.forgiven_tokens, gateway.provider.unfinished_streams) == (HELD, 0, 1)


async def test_hidden_output_after_a_disconnect_costs_the_hold_if_the_stream_breaks(
    gateway: GatewayUnderTest,
) -> None:
    listener, after_disconnect = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [
        [listener.disconnect_soon, lambda: set_soon(after_disconnect), after_disconnect, errors.ProviderInterrupted()]
    ]
    _, charge = await failing_stream(gateway, listener)
    assert_charged(charge, "counted", INPUT_BOUND, WANTED_OUTPUT)


@pytest.mark.parametrize("breaks", [(), (errors.ProviderInterrupted(),)], ids=["complete", "connection breaks"])
async def test_hidden_output_after_a_disconnect_costs_the_hold_if_there_is_no_report(
    gateway: GatewayUnderTest, breaks: tuple[Step, ...]
) -> None:
    listener, after_disconnect = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [
        [
            text_chunk("He"),
            listener.disconnect_soon,
            lambda: set_soon(after_disconnect),
            after_disconnect,
            *final_chunks(None),
            *breaks,
        ]
    ]
    await gateway.stream(listener)
    assert_charged(await gateway.charge(), "counted", INPUT_BOUND, WANTED_OUTPUT)


async def test_hidden_output_after_a_disconnect_costs_nothing_if_the_provider_rejects_the_request(
    gateway: GatewayUnderTest,
) -> None:
    listener, after_disconnect = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [
        [listener.disconnect_soon, lambda: set_soon(after_disconnect), after_disconnect, errors.ProviderRejected()]
    ]
    _, charge = await failing_stream(gateway, listener)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)


async def test_a_client_that_stops_reading_is_treated_as_disconnected(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener(blocked_by=asyncio.Event())
    gateway.provider.streams = [[text_chunk("Hello"), text_chunk("never")]]
    result = await gateway.stream(listener)
    assert (result.outcome.cut_short, listener.raw, gateway.provider.unfinished_streams) == (True, b"Hello", 1)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_hidden_output_costs_the_hold_if_the_client_stops_reading_and_no_report_arrives(
    gateway: GatewayUnderTest,
) -> None:
    gateway.provider.thinks = True
    gateway.provider.streams = [[text_chunk("Hello"), text_chunk("never")]]
    result = await gateway.stream(RecordingListener(blocked_by=asyncio.Event()))
    assert result.outcome.cut_short
    assert_charged(await gateway.charge(), "counted", INPUT_BOUND, WANTED_OUTPUT)


async def test_hidden_output_is_read_to_its_report_if_the_client_stops_reading(
    gateway: GatewayUnderTest,
) -> None:
    gateway.provider.thinks = True
    gateway.provider.streams = [[text_chunk("He"), text_chunk("llo"), short_pause(), *final_chunks()]]
    listener = RecordingListener(blocked_by=asyncio.Event())
    result = await gateway.stream(listener)
    assert (result.outcome.cut_short, listener.raw, gateway.provider.unfinished_streams) == (True, b"He", 0)
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_hidden_output_is_not_read_on_if_the_client_disconnects_and_stops_reading(
    gateway: GatewayUnderTest,
) -> None:
    """As a client that cancels a turn over a WebSocket and stops reading, while the provider sends nothing."""
    listener = RecordingListener(blocked_by=asyncio.Event())
    gateway.provider.thinks = True
    gateway.provider.streams = [
        [lambda: asyncio.get_running_loop().call_later(0.05, listener.on_disconnect), text_chunk("He"), asyncio.Event()]
    ]
    async with asyncio.timeout(TEST_DEADLINE_S):
        _, charge = await failing_stream(gateway, listener)
    assert gateway.provider.unfinished_streams == 1
    assert_charged(charge, "counted", INPUT_BOUND, WANTED_OUTPUT)


@pytest.mark.parametrize("end", ["whole", "interrupted", "refused", "silent"])
async def test_nothing_of_a_call_outlives_it(gateway: GatewayUnderTest, end: str) -> None:
    """Requests may be large, so they must be freed without the garbage collector."""
    call, listener = make_call(), RecordingListener()
    call_reference = weakref.ref(call.input)
    streams: dict[str, list[Step]] = {
        "whole": [text_chunk("Hello"), *final_chunks()],
        "interrupted": [text_chunk("Hello"), lambda: raising(errors.ProviderInterrupted)],
        "refused": [lambda: raising(errors.ProviderRateLimited)],
        "silent": [text_chunk("Hello"), asyncio.Event()],
    }
    gateway.provider.streams = [streams[end]]
    gc.disable()
    try:
        with suppress(CallFailed), gateway.events.record(gateway.caller, "query", join_trace(())) as record:
            await gateway.inner.stream(record, call, listener)
        listener.on_disconnect, listener.reservation = (lambda: None), None
        del call
        await asyncio.sleep(0)
        assert call_reference() is None
    finally:
        gc.enable()


async def test_an_early_report_is_not_charged_when_the_client_disconnects(
    gateway: GatewayUnderTest,
) -> None:
    """Otherwise a client that disconnects would pay for no more than the first chunk."""
    listener = RecordingListener()
    early = StreamChunk(b"", (Usage(40, 1),))
    gateway.provider.streams = [[early, text_chunk("Hello"), listener.disconnect_soon, asyncio.Event()]]
    await gateway.stream(listener)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_an_early_report_is_not_charged_when_the_client_disconnects_before_the_final_report(
    gateway: GatewayUnderTest,
) -> None:
    listener = RecordingListener()
    early, finish = StreamChunk(b"", (Usage(40, 1),)), StreamChunk(b"", (Finish("stop"),))
    gateway.provider.streams = [[early, text_chunk("Hello"), finish, listener.disconnect_soon, asyncio.Event()]]
    await gateway.stream(listener)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_there_is_no_retry_for_a_client_that_has_disconnected_and_nothing_is_charged(
    gateway: GatewayUnderTest,
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [
        [lambda: leave_soon(listener), errors.ProviderFailed()],
        [text_chunk("never"), *final_chunks()],
    ]
    _, charge = await failing_stream(gateway, listener)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)
    assert gateway.provider.calls == [("m", 500)]


async def test_there_is_no_fallback_for_a_client_that_has_disconnected(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.streams = [
        [lambda: leave_soon(listener), errors.ProviderRateLimited()],
        [text_chunk("never"), *final_chunks()],
    ]
    with pytest.raises(CallFailed):
        await gateway.stream(listener)
    assert gateway.provider.calls == [("m", 500)]
    for charge in await gateway.charges():
        assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)


async def test_a_client_that_reads_slowly_receives_the_whole_stream(gateway: GatewayUnderTest) -> None:
    """Each chunk takes half of `idle_s`; all chunks together take longer than `idle_s`."""
    gateway.provider.streams = [[*[text_chunk("x")] * 5, *final_chunks()]]
    result = await gateway.stream(SlowListener())
    assert not result.outcome.cut_short
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_a_client_that_disconnects_after_the_end_changes_nothing(gateway: GatewayUnderTest) -> None:
    call, listener = make_call(), RecordingListener()
    gateway.provider.thinks = True
    model = gateway.models["m"]
    candidate = Candidate(call, model, gateway.provider.prepare(model, call.input, stream=True), 500)
    async with gateway.ledger.reservation(gateway.caller, await candidate.byte_terms()) as reservation:
        relay = Relay(reservation, candidate, listener, Deadlines(idle_s=0.001))
        await relay.run()
        listener.on_disconnect()
        reservation.mark_lost()
        await asyncio.sleep(0.01)
    assert not relay.cut_short
    assert_charged(await gateway.charge(), "provider", 40, 10)


def raising(error: type[errors.ProviderError]) -> None:
    raise error


class SlowListener(RecordingListener):
    """Takes half of `idle_s` for each chunk."""

    async def deliver(self, chunk: StreamChunk) -> None:
        await super().deliver(chunk)
        await asyncio.sleep(0.1)


def set_soon(event: asyncio.Event) -> None:
    """Set the event after the relay has handled the disconnect."""
    asyncio.get_running_loop().call_later(0.02, event.set)


def leave_soon(listener: RecordingListener) -> None:
    """Mark the client as disconnected when the attempt has ended, without a call of `on_disconnect`."""

    def leave() -> None:
        listener.left = True

    asyncio.get_running_loop().call_soon(leave)
