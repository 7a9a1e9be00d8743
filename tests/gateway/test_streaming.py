"""However a stream ends, its charge is exact and no hold is left. A character is a token here."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.factories import FakeClock, make_store, set_limit, user_quota
from support.gateway import (
    INPUT_BOUND,
    INPUT_TOKENS,
    USAGE,
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
from tollkeeper.chat import ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.gateway import attempts, streaming
from tollkeeper.gateway.results import CallFailed, CallResult
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.providers.base import CallInput, StreamChunk
from tollkeeper.quota.ledger import Ledger

HELD = INPUT_BOUND + 500
WANTED_OUTPUT = 5_000 - INPUT_BOUND
"""What is wanted of a model that thinks: as much as its window has left."""
NEVER = 3600.0


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    """First 0.6 s, then 0.2 s between pieces."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER, ping_s=NEVER)) as made:
        yield made


async def test_a_whole_stream_costs_what_was_reported_and_its_end_is_held_back_until_that_is_settled(
    gateway: GatewayUnderTest,
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("He"), text_chunk("llo"), *final_chunks(), StreamChunk(b"<done>", (), last=True)]]
    answer = await gateway.stream(listener)
    assert (listener.raw, answer.outcome.tail) == (b"Hello<finish>", b"<usage><done>")
    assert (answer.completion.text, answer.completion.finish_reason, answer.completion.usage) == (
        "Hello",
        "stop",
        USAGE,
    )
    assert (answer.outcome.shortened, answer.outcome.cut_short, gateway.provider.unfinished_streams) == (False, False, 0)
    charge = await gateway.charge()
    assert_charged(charge, "provider", 40, 10)
    assert (answer.charge.cost_tokens, charge.forgiven_tokens, charge.error) == (50, 0, None)
    assert gateway.provider.limits == [charge.granted_output] == [500]


async def test_a_later_report_replaces_an_earlier_one(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[text_chunk("a"), StreamChunk(b"", (Usage(1, 1),)), *final_chunks()]]
    await gateway.stream()
    assert_charged(await gateway.charge(), "provider", 40, 10)


@pytest.mark.parametrize("usage", [None, Usage(5001, 1), Usage(1, 5001), Usage(0, 0)])
async def test_without_a_believable_report_what_came_is_counted(gateway: GatewayUnderTest, usage: Usage | None) -> None:
    said = (ReasoningDelta("12"), RefusalDelta("345"), ToolCallDelta(0, "id", "name", "{}"))
    gateway.provider.streams = [[text_chunk("Hello"), StreamChunk(b"", said), *final_chunks(usage)]]
    await gateway.stream()
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5 + 2 + 3 + 4 + 2)


@pytest.mark.parametrize(
    "error", [errors.ProviderFailed, errors.ProviderInterrupted, errors.ProviderBadResponse, errors.ProviderTimeout]
)
async def test_of_a_stream_that_breaks_what_came_is_paid_and_it_is_never_an_unbilled_failure(
    gateway: GatewayUnderTest, error: type[errors.ProviderError]
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("He"), text_chunk("llo"), error()]]
    cause, charge = await failing_stream(gateway, listener)
    assert isinstance(cause, errors.ProviderError)
    assert cause.billed
    assert listener.raw == b"Hello"
    assert_charged(charge, "counted", INPUT_TOKENS, 5)
    assert charge.error == cause.code


async def test_an_answer_is_whole_though_the_line_breaks_after_it(gateway: GatewayUnderTest) -> None:
    """Some servers close the connection without the last chunk of HTTP's own framing."""
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("Hello"), *final_chunks(), errors.ProviderInterrupted()]]
    answer = await gateway.stream(listener)
    assert (answer.completion.text, answer.outcome.cut_short, answer.outcome.shortened) == ("Hello", False, False)
    assert (listener.raw, answer.outcome.tail) == (b"Hello<finish>", b"<usage>")
    charge = await gateway.charge()
    assert_charged(charge, "provider", 40, 10)
    assert charge.error is None


async def test_a_stream_that_breaks_between_its_report_and_its_end_is_broken(gateway: GatewayUnderTest) -> None:
    """The report proves 10 tokens of output, more than were received."""
    gateway.provider.streams = [[text_chunk("Hello"), StreamChunk(b"", (Usage(40, 10),)), errors.ProviderInterrupted()]]
    _, charge = await failing_stream(gateway)
    assert_charged(charge, "counted", INPUT_TOKENS, 10)


async def test_a_stream_that_breaks_after_a_first_event_without_output_costs_the_input(gateway: GatewayUnderTest) -> None:
    """The connection broke: whether the provider bills what it has done is not known."""
    gateway.provider.streams = [[StreamChunk(b"<hello>", ()), errors.ProviderInterrupted()]]
    cause, charge = await failing_stream(gateway)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 0)
    assert len(gateway.provider.calls) == 1


async def test_a_provider_that_never_begins_is_given_up_with_an_unknown_outcome(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[asyncio.Event()]]
    cause, charge = await failing_stream(gateway)
    assert isinstance(cause, errors.ProviderTimeout)
    assert (charge.basis, charge.cost_tokens, charge.forgiven_tokens) == ("unknown", INPUT_TOKENS, HELD - INPUT_TOKENS)
    assert (gateway.provider.unfinished_streams, len(gateway.provider.calls)) == (1, 1)


async def test_of_a_provider_that_falls_silent_what_came_is_paid(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[text_chunk("Hello"), asyncio.Event()]]
    cause, charge = await failing_stream(gateway)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 5)
    assert gateway.provider.unfinished_streams == 1


async def test_an_answer_is_whole_though_the_provider_keeps_the_line_open_after_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "CLOSE_S", 0.05)
    async with open_gateway(sqlite_url, Deadlines(first_s=NEVER, idle_s=NEVER, total_s=NEVER)) as gateway:
        gateway.provider.streams = [[text_chunk("Hello"), *final_chunks(), StreamChunk(b"<done>", (), last=True), asyncio.Event()]]
        answer = await gateway.stream()
        assert (answer.completion.text, answer.outcome.tail, answer.outcome.cut_short) == (
            "Hello",
            b"<usage><done>",
            False,
        )
        charge = await gateway.charge()
        assert_charged(charge, "provider", 40, 10)
        assert (charge.error, gateway.provider.unfinished_streams) == (None, 1)


async def test_what_a_provider_says_right_after_its_end_is_waited_for(gateway: GatewayUnderTest) -> None:
    done = StreamChunk(b"<done>", (), last=True)
    gateway.provider.streams = [[text_chunk("Hello"), *final_chunks(), short_pause(), done]]
    assert (await gateway.stream()).outcome.tail == b"<usage><done>"


async def test_a_stream_that_goes_on_and_on_is_ended(sqlite_url: str) -> None:
    async with open_gateway(sqlite_url, Deadlines(first_s=NEVER, idle_s=NEVER, total_s=0.3, ping_s=NEVER)) as gateway:
        lively: list[Step] = [StreamChunk(b"", ()), short_pause()] * 100
        gateway.provider.streams = [[text_chunk("Hello"), *lively]]
        cause, charge = await failing_stream(gateway)
        assert isinstance(cause, errors.ProviderInterrupted)
        assert_charged(charge, "counted", INPUT_TOKENS, 5)


async def test_while_the_provider_is_silent_the_listener_is_pinged(sqlite_url: str) -> None:
    async with open_gateway(sqlite_url, Deadlines(ping_s=0.01)) as gateway:
        pinged = asyncio.Event()

        class Pinged(RecordingListener):
            def ping(self) -> None:
                super().ping()
                if self.pings == 3:
                    pinged.set()

        gateway.provider.streams = [[pinged, text_chunk("yes"), *final_chunks()]]
        listener = Pinged()
        await gateway.stream(listener)
        assert listener.pings >= 3
        assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_what_is_longer_than_was_granted_and_some_more_is_cut(gateway: GatewayUnderTest) -> None:
    """16 tokens are granted, 34 let through: an eighth and 16 more. The report that never came is not waited for."""
    listener = RecordingListener()
    gateway.provider.streams = [[*[text_chunk("0123456789")] * 100, *final_chunks(Usage(40, 1000))]]
    answer = await gateway.stream(listener, max_output=16)
    assert (answer.outcome.shortened, answer.completion.finish_reason, answer.outcome.tail) == (True, "length", b"")
    assert (len(listener.raw), gateway.provider.unfinished_streams) == (40, 1)
    assert answer.completion.text == "0123456789" * 4
    charge = await gateway.charge()
    assert (charge.basis, charge.output_tokens, charge.overrun) == ("counted", 40, False)
    assert charge.cost_tokens == INPUT_TOKENS + 40


async def test_of_an_over_long_answer_a_report_that_came_on_the_way_is_not_the_truth(gateway: GatewayUnderTest) -> None:
    """Some providers report with every chunk, and are behind with it."""
    running = [StreamChunk(b"", (TextDelta("0123456789"), Usage(1, 1)))] * 100
    gateway.provider.streams = [running]
    await gateway.stream(max_output=16)
    charge = await gateway.charge()
    assert (charge.basis, charge.output_tokens) == ("counted", 40)


async def test_an_over_long_answer_costs_at_most_the_hold_when_it_was_counted(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[text_chunk("x" * 5000), *final_chunks(Usage(40, 4000))]]
    answer = await gateway.stream(max_output=16)
    assert answer.outcome.shortened
    charge = await gateway.charge()
    assert (charge.basis, charge.cost_tokens, charge.held_tokens) == ("counted", INPUT_BOUND + 16, INPUT_BOUND + 16)


async def test_an_over_long_answer_that_came_whole_is_paid_as_reported(gateway: GatewayUnderTest) -> None:
    """Within what is let through: what it cost above the hold is booked, and said to be an overrun."""
    await set_limit(gateway.ledger, user_quota(gateway.caller), INPUT_TOKENS + 8 + 64 + 16)
    gateway.provider.streams = [[text_chunk("x" * 34), *final_chunks(Usage(INPUT_TOKENS + 80, 34))]]
    answer = await gateway.stream()
    assert not answer.outcome.shortened
    charge = await gateway.charge()
    assert_charged(charge, "provider", INPUT_TOKENS + 80, 34)
    assert charge.overrun


async def test_bytes_that_are_no_tokens_cut_nothing(gateway: GatewayUnderTest) -> None:
    """They are more than was granted, so they are counted: once each."""
    counted: list[str] = []

    async def count_output(text: str) -> int:
        counted.append(text)
        return len(text.split())

    gateway.provider.count_output = count_output  # type: ignore[method-assign]
    words = [text_chunk("internationalisation ")] * 16
    gateway.provider.streams = [[*words, *final_chunks()]]
    answer = await gateway.stream(max_output=16)
    assert not answer.outcome.shortened
    assert len(counted) > 1
    assert ("internationalisation " * 16).startswith("".join(counted))
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_each_of_several_choices_may_be_as_long_as_its_share(gateway: GatewayUnderTest) -> None:
    request = make_call().input.chat_request
    gateway.provider.streams = [[text_chunk("x" * 60), *final_chunks(Usage(40, 60))]]
    answer = await gateway.stream(input=CallInput(lambda: request, choices=3), max_output=20)
    charge = await gateway.charge()
    assert (gateway.provider.limits, charge.granted_output, answer.outcome.shortened) == ([20], 60, False)
    assert_charged(charge, "provider", 40, 60)


async def test_a_stream_whose_hold_was_swept_up_is_cut_and_its_truth_booked(sqlite_url: str) -> None:
    """By the sweep of another process, after this one was away for longer than its lease."""
    clock, listener = FakeClock(), RecordingListener()
    async with open_gateway(sqlite_url, clock=clock) as gateway:
        said = asyncio.Event()
        gateway.provider.streams = [[text_chunk("Hello"), said.set, asyncio.Event()]]
        call = asyncio.create_task(gateway.stream(listener))
        await said.wait()
        clock.step(61)
        other = Ledger(make_store(sqlite_url, clock), lease_seconds=60)
        other.start()
        assert await other.sweep() == 1
        await other.stop()
        await gateway.ledger.renew()
        with pytest.raises(CallFailed) as raised:
            await call
        assert isinstance(raised.value.cause, errors.LeaseLost)
        charge = await gateway.charge()
        assert (charge.closed_by, charge.adjusted, gateway.provider.unfinished_streams) == ("expire", True, 1)
        assert_charged(charge, "counted", INPUT_TOKENS, 5)
        assert charge.forgiven_tokens == HELD - INPUT_BOUND, "what the sweep did not know"


@pytest.mark.parametrize(("thinks", "input_tokens", "output_tokens"), [(False, INPUT_TOKENS, 5), (True, INPUT_BOUND, WANTED_OUTPUT)])
async def test_a_stream_that_is_cancelled_from_outside_is_settled_before_it_is_gone(
    gateway: GatewayUnderTest, thinks: bool, input_tokens: int, output_tokens: int
) -> None:
    """As on shutdown: nobody waits for a report."""
    said = asyncio.Event()
    gateway.provider.thinks = thinks
    gateway.provider.streams = [[text_chunk("Hello"), said.set, asyncio.Event()]]
    call = asyncio.create_task(gateway.stream())
    await said.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    charge = await gateway.charge()
    assert_charged(charge, "counted", input_tokens, output_tokens)
    assert (charge.error, gateway.provider.unfinished_streams) == ("CancelledError", 1)


async def test_a_stream_that_is_cancelled_before_its_first_piece_costs_its_input(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[asyncio.Event()]]
    call = asyncio.create_task(gateway.stream())
    await gateway.provider.called.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_renewal_measures_what_came_so_far(gateway: GatewayUnderTest) -> None:
    listener, said, going_on = RecordingListener(), asyncio.Event(), asyncio.Event()
    gateway.provider.streams = [[text_chunk("Hello"), said.set, going_on, *final_chunks()]]
    call = asyncio.create_task(gateway.stream(listener))
    await said.wait()
    assert listener.reservation is not None
    assert listener.reservation.checkpoint == (INPUT_BOUND, 0)
    await gateway.ledger.renew()
    await gateway.ledger.renew()
    assert listener.reservation.checkpoint == (INPUT_TOKENS, 5)
    going_on.set()
    await call


async def test_between_two_attempts_the_listener_hears_nothing_of_the_first(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[errors.ProviderFailed()], [text_chunk("yes"), *final_chunks()]]
    listener = RecordingListener()
    answer: CallResult = await gateway.stream(listener)
    assert (listener.raw, answer.completion.text, listener.attached) == (b"yes<finish>", "yes", 2)
    assert_charged(await gateway.charge(), "provider", 40, 10)
