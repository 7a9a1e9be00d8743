"""Whoever listens to a stream goes away, or does not keep up: what is paid, and whom the provider goes on for."""

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
    RecordingListener,
    GatewayUnderTest,
    Step,
    assert_charged,
    final_chunks,
    failing_stream,
    make_call,
    short_pause,
    open_gateway,
    text_chunk,
)
from tollkeeper import errors
from tollkeeper.chat import Finish, Usage
from tollkeeper.gateway import attempts
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallFailed
from tollkeeper.gateway.streaming import Deadlines, Relay
from tollkeeper.providers.base import StreamChunk

WANTED_OUTPUT = 5_000 - INPUT_BOUND
"""What is wanted of a model that thinks: as much as its window has left."""
HELD = INPUT_BOUND + WANTED_OUTPUT
NEVER = 3600.0


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    """First 0.6 s, then 0.2 s between pieces."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER, ping_s=NEVER)) as made:
        yield made


async def test_a_caller_who_hangs_up_pays_the_input_and_what_came_and_the_provider_is_hung_up_on(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("Hel"), text_chunk("lo"), listener.disconnect_soon, asyncio.Event()]]
    answer = await gateway.stream(listener)
    assert answer.outcome.cut_short
    assert (listener.raw, gateway.provider.unfinished_streams) == (b"Hello", 1)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_a_caller_who_hangs_up_before_the_first_piece_pays_the_input(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[listener.disconnect_soon, asyncio.Event()]]
    answer = await gateway.stream(listener)
    assert (answer.outcome.cut_short, gateway.provider.unfinished_streams, listener.chunks) == (True, 1, [])
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_caller_who_was_gone_before_the_provider_was_asked_is_waited_for_by_nobody(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[asyncio.Event()]]
    answer = await gateway.stream(RecordingListener(left=True))
    assert answer.outcome.cut_short
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_model_that_bills_unseen_is_heard_out_for_its_report_though_the_caller_is_gone(gateway: GatewayUnderTest) -> None:
    listener, report = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [[text_chunk("He"), listener.disconnect_soon, lambda: later(report), report, text_chunk("llo"), *final_chunks()]]
    answer = await gateway.stream(listener)
    assert (answer.outcome.cut_short, listener.raw, gateway.provider.unfinished_streams) == (True, b"He", 0)
    assert_charged(await gateway.charge(), "provider", 40, 10)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_model_that_bills_unseen_and_does_not_report_in_time_costs_the_hold(gateway: GatewayUnderTest, begun: bool) -> None:
    """However lively it is: `idle_s` is for all that is still to come."""
    listener = RecordingListener()
    gateway.model(bills_hidden_output=True)
    endless: list[Step] = [text_chunk("x"), short_pause()] * 100 if begun else [asyncio.Event()]
    gateway.provider.streams = [[listener.disconnect_soon, *endless]]
    _, charge = await failing_stream(gateway, listener)
    assert_charged(charge, "counted", INPUT_BOUND, WANTED_OUTPUT)
    assert (charge.cost_tokens, charge.forgiven_tokens, gateway.provider.unfinished_streams) == (HELD, 0, 1)


async def test_a_model_that_bills_unseen_and_breaks_after_the_caller_has_gone_costs_the_hold(gateway: GatewayUnderTest) -> None:
    listener, gone = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [[listener.disconnect_soon, lambda: later(gone), gone, errors.ProviderInterrupted()]]
    _, charge = await failing_stream(gateway, listener)
    assert_charged(charge, "counted", INPUT_BOUND, WANTED_OUTPUT)


@pytest.mark.parametrize("breaks", [(), (errors.ProviderInterrupted(),)], ids=["ends well", "line breaks"])
async def test_a_model_that_bills_unseen_and_ends_without_a_report_after_the_caller_has_gone_costs_the_hold(
    gateway: GatewayUnderTest, breaks: tuple[Step, ...]
) -> None:
    listener, gone = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [[text_chunk("He"), listener.disconnect_soon, lambda: later(gone), gone, *final_chunks(None), *breaks]]
    await gateway.stream(listener)
    assert_charged(await gateway.charge(), "counted", INPUT_BOUND, WANTED_OUTPUT)


async def test_a_refusal_that_comes_after_the_caller_has_gone_costs_nothing_even_with_a_model_that_bills_unseen(
    gateway: GatewayUnderTest,
) -> None:
    listener, gone = RecordingListener(), asyncio.Event()
    gateway.provider.thinks = True
    gateway.provider.streams = [[listener.disconnect_soon, lambda: later(gone), gone, errors.ProviderRejected()]]
    _, charge = await failing_stream(gateway, listener)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)


async def test_a_caller_who_stops_reading_is_given_up_as_if_they_had_gone(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener(blocked_by=asyncio.Event())
    gateway.provider.streams = [[text_chunk("Hello"), text_chunk("never")]]
    answer = await gateway.stream(listener)
    assert (answer.outcome.cut_short, listener.raw, gateway.provider.unfinished_streams) == (True, b"Hello", 1)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_a_caller_who_stops_reading_what_bills_unseen_pays_the_hold(gateway: GatewayUnderTest) -> None:
    gateway.provider.thinks = True
    gateway.provider.streams = [[text_chunk("Hello"), text_chunk("never")]]
    answer = await gateway.stream(RecordingListener(blocked_by=asyncio.Event()))
    assert answer.outcome.cut_short
    assert_charged(await gateway.charge(), "counted", INPUT_BOUND, WANTED_OUTPUT)


async def test_for_a_caller_who_stops_reading_what_bills_unseen_it_is_read_on_to_the_report(gateway: GatewayUnderTest) -> None:
    gateway.provider.thinks = True
    gateway.provider.streams = [[text_chunk("He"), text_chunk("llo"), short_pause(), *final_chunks()]]
    listener = RecordingListener(blocked_by=asyncio.Event())
    answer = await gateway.stream(listener)
    assert (answer.outcome.cut_short, listener.raw, gateway.provider.unfinished_streams) == (True, b"He", 0)
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_whoever_hangs_up_on_what_bills_unseen_and_still_stops_reading_is_waited_for_no_longer(
    gateway: GatewayUnderTest,
) -> None:
    """As one who cancels a turn over a WebSocket, and reads nothing more; while the provider says nothing either."""
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
    """Requests may be large: they are not to wait for the garbage collector."""
    ask, listener = make_call(), RecordingListener()
    question = weakref.ref(ask.input)
    streams: dict[str, list[Step]] = {
        "whole": [text_chunk("Hello"), *final_chunks()],
        "interrupted": [text_chunk("Hello"), lambda: raising(errors.ProviderInterrupted)],
        "refused": [lambda: raising(errors.ProviderRateLimited)],
        "silent": [text_chunk("Hello"), asyncio.Event()],
    }
    gateway.provider.streams = [streams[end]]
    gc.disable()
    try:
        with suppress(CallFailed):
            await gateway.inner.stream(gateway.caller, ask, listener)
        listener.on_disconnect, listener.reservation = (lambda: None), None
        del ask
        await asyncio.sleep(0)
        assert question() is None
    finally:
        gc.enable()


async def test_what_a_provider_tells_of_usage_on_the_way_is_no_report_when_the_caller_hangs_up(gateway: GatewayUnderTest) -> None:
    """Else whoever hangs up would pay for no more than the first chunk."""
    listener = RecordingListener()
    early = StreamChunk(b"", (Usage(40, 1),))
    gateway.provider.streams = [[early, text_chunk("Hello"), listener.disconnect_soon, asyncio.Event()]]
    await gateway.stream(listener)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_nor_when_they_hang_up_between_the_end_of_the_answer_and_its_report(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    early, finish = StreamChunk(b"", (Usage(40, 1),)), StreamChunk(b"", (Finish("stop"),))
    gateway.provider.streams = [[early, text_chunk("Hello"), finish, listener.disconnect_soon, asyncio.Event()]]
    await gateway.stream(listener)
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5)


async def test_a_caller_who_leaves_before_the_second_try_is_asked_for_no_more_and_pays_nothing(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[lambda: leaving(listener), errors.ProviderFailed()], [text_chunk("never"), *final_chunks()]]
    _, charge = await failing_stream(gateway, listener)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)
    assert gateway.provider.calls == [("m", 500)]


async def test_nor_is_a_fallback_asked_for_a_caller_who_has_left(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.model(fallbacks=("second",))
    gateway.model("second", fallbacks=())
    gateway.provider.streams = [[lambda: leaving(listener), errors.ProviderRateLimited()], [text_chunk("never"), *final_chunks()]]
    with pytest.raises(CallFailed):
        await gateway.stream(listener)
    assert gateway.provider.calls == [("m", 500)]
    for charge in await gateway.charges():
        assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)


async def test_a_caller_who_reads_slowly_is_waited_for(gateway: GatewayUnderTest) -> None:
    """Each piece takes half of the time; all of them together take more than it."""
    gateway.provider.streams = [[*[text_chunk("x")] * 5, *final_chunks()]]
    answer = await gateway.stream(Slow())
    assert not answer.outcome.cut_short
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_whoever_hangs_up_after_the_end_changes_nothing(gateway: GatewayUnderTest) -> None:
    ask, listener = make_call(), RecordingListener()
    gateway.provider.thinks = True
    model = gateway.models["m"]
    candidate = Candidate(ask, model, gateway.provider.prepare(model, ask.input, stream=True), 500)
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


class Slow(RecordingListener):
    """Takes half of the time that there is, for each piece."""

    async def deliver(self, piece: StreamChunk) -> None:
        await super().deliver(piece)
        await asyncio.sleep(0.1)


def later(event: asyncio.Event) -> None:
    """When those who wait have been told that the listener is gone."""
    asyncio.get_running_loop().call_later(0.02, event.set)


def leaving(listener: RecordingListener) -> None:
    """They leave when nobody waits for the provider any more."""

    def leave() -> None:
        listener.left = True

    asyncio.get_running_loop().call_soon(leave)
