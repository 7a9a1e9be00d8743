"""Every end of a stream leaves an exact charge and no hold. One character is one token here."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.factories import FakeClock, make_store, set_limit, user_quota
from support.gateway import (
    INPUT_BOUND,
    INPUT_TOKENS,
    USAGE,
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
from tollkeeper.chat import (
    InconsistentUsage,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from tollkeeper.gateway import attempts, streaming
from tollkeeper.gateway.results import CallFailed, CallResult
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.providers.base import CallInput, StreamChunk
from tollkeeper.quota import reservation
from tollkeeper.quota.ledger import Ledger

HELD = INPUT_BOUND + 500
WANTED_OUTPUT = 5_000 - INPUT_BOUND
"""The wanted output of a model that thinks: the rest of its context window, in tokens."""
NEVER_S = 3600.0


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    """The deadlines are 0.6 s for the first chunk, and 0.2 s between chunks."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER_S, ping_s=NEVER_S)) as opened:
        yield opened


async def test_a_complete_stream_costs_the_reported_usage_and_its_end_is_held_back_until_the_settle(
    gateway: GatewayUnderTest,
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [
        [text_chunk("He"), text_chunk("llo"), *final_chunks(), StreamChunk(b"<done>", (), last=True)]
    ]
    result = await gateway.stream(listener)
    assert (listener.raw, result.outcome.tail) == (b"Hello<finish>", b"<usage><done>")
    assert (result.completion.text, result.completion.finish_reason, result.completion.usage) == (
        "Hello",
        "stop",
        USAGE,
    )
    assert (result.outcome.shortened, result.outcome.cut_short, gateway.provider.unfinished_streams) == (
        False,
        False,
        0,
    )
    charge = await gateway.charge()
    assert_charged(charge, "provider", 40, 10)
    assert (result.charge.cost_tokens, charge.forgiven_tokens, charge.error) == (50, 0, None)
    assert gateway.provider.limits == [charge.granted_output] == [500]


@pytest.mark.parametrize(
    ("early", "late"),
    [(Usage(1, 1), USAGE), (USAGE, Usage(0, 0)), (Usage(40, 0), InconsistentUsage(None, 10)), (USAGE, Usage(10**9, 9))],
)
async def test_of_several_reports_the_largest_counts_are_charged(
    gateway: GatewayUnderTest, early: UsageReport, late: UsageReport
) -> None:
    gateway.provider.streams = [[text_chunk("a"), StreamChunk(b"", (early,)), *final_chunks(late)]]
    await gateway.stream()
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_an_early_report_is_not_charged_as_the_whole_because_a_late_one_is_empty(
    gateway: GatewayUnderTest,
) -> None:
    early = StreamChunk(b"", (Usage(40, 1),))
    gateway.provider.streams = [[text_chunk("He"), early, text_chunk("llo"), *final_chunks(Usage(0, 0))]]
    await gateway.stream()
    assert_charged(await gateway.charge(), "counted", max(40, INPUT_TOKENS), 5)


@pytest.mark.parametrize("usage", [None, Usage(5001, 1), Usage(1, 5001), Usage(0, 0)])
async def test_without_a_possible_report_the_received_output_is_counted(
    gateway: GatewayUnderTest, usage: Usage | None
) -> None:
    delivered = (ReasoningDelta("12"), RefusalDelta("345"), ToolCallDelta(0, "id", "name", "{}"))
    gateway.provider.streams = [[text_chunk("Hello"), StreamChunk(b"", delivered), *final_chunks(usage)]]
    await gateway.stream()
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 5 + 2 + 3 + 4 + 2)


@pytest.mark.parametrize(
    "error", [errors.ProviderFailed, errors.ProviderInterrupted, errors.ProviderBadResponse, errors.ProviderTimeout]
)
async def test_a_stream_that_breaks_costs_the_received_output_and_is_a_billed_failure(
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


async def test_an_answer_is_complete_if_the_connection_breaks_after_it(gateway: GatewayUnderTest) -> None:
    """Some servers close the connection without the last chunk of the HTTP framing."""
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("Hello"), *final_chunks(), errors.ProviderInterrupted()]]
    result = await gateway.stream(listener)
    assert (result.completion.text, result.outcome.cut_short, result.outcome.shortened) == ("Hello", False, False)
    assert (listener.raw, result.outcome.tail) == (b"Hello<finish>", b"<usage>")
    charge = await gateway.charge()
    assert_charged(charge, "provider", 40, 10)
    assert charge.error is None


@pytest.mark.parametrize("reported", [True, False])
async def test_the_last_chunk_ends_an_answer_without_a_finish_reason(gateway: GatewayUnderTest, reported: bool) -> None:
    listener = RecordingListener()
    report = [StreamChunk(b"<usage>", (USAGE,))] if reported else []
    done = StreamChunk(b"<done>", (), last=True)
    gateway.provider.streams = [[text_chunk("Hello"), *report, done, errors.ProviderInterrupted()]]
    result = await gateway.stream(listener)
    assert (result.completion.text, result.completion.finish_reason, result.outcome.tail) == (
        "Hello",
        "stop",
        b"<done>",
    )
    charge = await gateway.charge()
    assert charge.error is None
    assert charge.basis == ("provider" if reported else "counted")


async def test_the_last_chunk_is_no_end_of_an_answer_without_output(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[StreamChunk(b"<done>", (), last=True), errors.ProviderInterrupted()]]
    _, charge = await failing_stream(gateway)
    assert charge.error == errors.ProviderInterrupted.code


async def test_a_stream_that_breaks_between_its_report_and_its_end_is_a_failure(gateway: GatewayUnderTest) -> None:
    """The report proves 10 tokens of output, more than were received."""
    gateway.provider.streams = [[text_chunk("Hello"), StreamChunk(b"", (Usage(40, 10),)), errors.ProviderInterrupted()]]
    _, charge = await failing_stream(gateway)
    assert_charged(charge, "counted", INPUT_TOKENS, 10)


async def test_a_stream_that_breaks_after_a_first_event_without_output_costs_the_input(
    gateway: GatewayUnderTest,
) -> None:
    """It is not known whether the provider bills its work after the connection breaks."""
    gateway.provider.streams = [[StreamChunk(b"<hello>", ()), errors.ProviderInterrupted()]]
    cause, charge = await failing_stream(gateway)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 0)
    assert len(gateway.provider.calls) == 1


async def test_a_provider_that_sends_nothing_times_out_with_an_unknown_outcome(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[asyncio.Event()]]
    cause, charge = await failing_stream(gateway)
    assert isinstance(cause, errors.ProviderTimeout)
    assert (charge.basis, charge.cost_tokens, charge.forgiven_tokens) == ("unknown", INPUT_TOKENS, HELD - INPUT_TOKENS)
    assert (gateway.provider.unfinished_streams, len(gateway.provider.calls)) == (1, 1)


async def test_a_provider_that_stalls_is_paid_for_the_received_output(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[text_chunk("Hello"), asyncio.Event()]]
    cause, charge = await failing_stream(gateway)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 5)
    assert gateway.provider.unfinished_streams == 1


async def test_an_answer_is_complete_if_the_provider_keeps_the_connection_open_after_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "CLOSE_S", 0.05)
    async with open_gateway(sqlite_url, Deadlines(first_s=NEVER_S, idle_s=NEVER_S, total_s=NEVER_S)) as gateway:
        gateway.provider.streams = [
            [text_chunk("Hello"), *final_chunks(), StreamChunk(b"<done>", (), last=True), asyncio.Event()]
        ]
        result = await gateway.stream()
        assert (result.completion.text, result.outcome.tail, result.outcome.cut_short) == (
            "Hello",
            b"<usage><done>",
            False,
        )
        charge = await gateway.charge()
        assert_charged(charge, "provider", 40, 10)
        assert (charge.error, gateway.provider.unfinished_streams) == (None, 1)


async def test_chunks_shortly_after_the_end_are_part_of_the_tail(gateway: GatewayUnderTest) -> None:
    done = StreamChunk(b"<done>", (), last=True)
    gateway.provider.streams = [[text_chunk("Hello"), *final_chunks(), short_pause(), done]]
    assert (await gateway.stream()).outcome.tail == b"<usage><done>"


async def test_a_stream_that_exceeds_its_total_time_is_interrupted(sqlite_url: str) -> None:
    async with open_gateway(
        sqlite_url, Deadlines(first_s=NEVER_S, idle_s=NEVER_S, total_s=0.3, ping_s=NEVER_S)
    ) as gateway:
        pings: list[Step] = [StreamChunk(b"", ()), short_pause()] * 100
        gateway.provider.streams = [[text_chunk("Hello"), *pings]]
        cause, charge = await failing_stream(gateway)
        assert isinstance(cause, errors.ProviderInterrupted)
        assert_charged(charge, "counted", INPUT_TOKENS, 5)


async def test_the_listener_is_pinged_while_the_provider_sends_nothing(sqlite_url: str) -> None:
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


async def test_output_beyond_the_grant_and_its_tolerance_is_cut(gateway: GatewayUnderTest) -> None:
    """16 tokens are granted and 34 delivered: an eighth and 16 more. The cut stream has no report to wait for."""
    listener = RecordingListener()
    gateway.provider.streams = [[*[text_chunk("0123456789")] * 100, *final_chunks(Usage(40, 1000))]]
    result = await gateway.stream(listener, max_output=16)
    assert (result.outcome.shortened, result.completion.finish_reason, result.outcome.tail) == (True, "length", b"")
    assert (len(listener.raw), gateway.provider.unfinished_streams) == (40, 1)
    assert result.completion.text == "0123456789" * 4
    charge = await gateway.charge()
    assert (charge.basis, charge.output_tokens, charge.overrun) == ("counted", 40, False)
    assert charge.cost_tokens == INPUT_TOKENS + 40


async def test_an_early_report_of_an_answer_that_is_cut_is_not_charged(gateway: GatewayUnderTest) -> None:
    """Some providers report with every chunk, and their reports lag behind."""
    running = [StreamChunk(b"", (TextDelta("0123456789"), Usage(1, 1)))] * 100
    gateway.provider.streams = [running]
    await gateway.stream(max_output=16)
    charge = await gateway.charge()
    assert (charge.basis, charge.output_tokens) == ("counted", 40)


async def test_an_answer_that_is_cut_and_counted_costs_at_most_the_hold(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[text_chunk("x" * 5000), *final_chunks(Usage(40, 4000))]]
    result = await gateway.stream(max_output=16)
    assert result.outcome.shortened
    charge = await gateway.charge()
    assert (charge.basis, charge.cost_tokens, charge.held_tokens) == ("counted", INPUT_BOUND + 16, INPUT_BOUND + 16)


async def test_an_answer_within_the_tolerance_is_charged_as_reported(gateway: GatewayUnderTest) -> None:
    """The cost above the hold is booked and flagged as an overrun."""
    await set_limit(gateway.ledger, user_quota(gateway.caller), INPUT_TOKENS + 8 + 64 + 16)
    gateway.provider.streams = [[text_chunk("x" * 34), *final_chunks(Usage(INPUT_TOKENS + 80, 34))]]
    result = await gateway.stream()
    assert not result.outcome.shortened
    charge = await gateway.charge()
    assert_charged(charge, "provider", INPUT_TOKENS + 80, 34)
    assert charge.overrun


async def test_the_output_limit_is_in_tokens_and_not_in_bytes(gateway: GatewayUnderTest) -> None:
    """There are more bytes than granted tokens, so the text is counted, each part once."""
    counted: list[str] = []

    async def count_output(text: str) -> int:
        counted.append(text)
        return len(text.split())

    gateway.provider.count_output = count_output  # type: ignore[method-assign]
    words = [text_chunk("internationalisation ")] * 16
    gateway.provider.streams = [[*words, *final_chunks()]]
    result = await gateway.stream(max_output=16)
    assert not result.outcome.shortened
    assert len(counted) > 1
    assert ("internationalisation " * 16).startswith("".join(counted))
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_the_time_in_which_the_output_is_counted_is_not_the_providers(gateway: GatewayUnderTest) -> None:
    """The count takes longer than the provider may be silent."""

    async def count_output(text: str) -> int:
        await asyncio.sleep(0.3)
        return len(text.split())

    gateway.provider.count_output = count_output  # type: ignore[method-assign]
    gateway.provider.streams = [[*[text_chunk("internationalisation ")] * 4, *final_chunks()]]
    result = await gateway.stream(max_output=16)
    assert not result.outcome.shortened
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_each_of_several_choices_may_be_as_long_as_its_share(gateway: GatewayUnderTest) -> None:
    request = make_call().input.chat_request
    gateway.provider.streams = [[text_chunk("x" * 60), *final_chunks(Usage(40, 60))]]
    result = await gateway.stream(input=CallInput(lambda: request, choices=3), max_output=20)
    charge = await gateway.charge()
    assert (gateway.provider.limits, charge.granted_output, result.outcome.shortened) == ([20], 60, False)
    assert_charged(charge, "provider", 40, 60)


async def test_a_stream_whose_lease_expired_is_cut_and_its_usage_is_booked(sqlite_url: str) -> None:
    """The sweep of another process expires the lease after this process stalled."""
    clock, listener = FakeClock(), RecordingListener()
    async with open_gateway(sqlite_url, clock=clock) as gateway:
        delivered = asyncio.Event()
        gateway.provider.streams = [[text_chunk("Hello"), delivered.set, asyncio.Event()]]
        call = asyncio.create_task(gateway.stream(listener))
        await delivered.wait()
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
        assert charge.forgiven_tokens == 0, "the cost is known now"


@pytest.mark.parametrize(
    ("thinks", "input_tokens", "output_tokens"), [(False, INPUT_TOKENS, 5), (True, INPUT_BOUND, WANTED_OUTPUT)]
)
async def test_a_stream_that_is_cancelled_is_settled_before_it_ends(
    gateway: GatewayUnderTest, thinks: bool, input_tokens: int, output_tokens: int
) -> None:
    """As on shutdown: the report is not waited for."""
    delivered = asyncio.Event()
    gateway.provider.thinks = thinks
    gateway.provider.streams = [[text_chunk("Hello"), delivered.set, asyncio.Event()]]
    call = asyncio.create_task(gateway.stream())
    await delivered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    charge = await gateway.charge()
    assert_charged(charge, "counted", input_tokens, output_tokens)
    assert (charge.error, gateway.provider.unfinished_streams) == ("CancelledError", 1)


async def test_a_stream_that_is_cancelled_before_its_first_chunk_costs_its_input(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[asyncio.Event()]]
    call = asyncio.create_task(gateway.stream())
    await gateway.provider.called.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert_charged(await gateway.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_renewal_measures_the_output_received_so_far(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation, "UNMEASURED_LEASE_SHARE", 0)
    listener, delivered, resume = RecordingListener(), asyncio.Event(), asyncio.Event()
    gateway.provider.streams = [[text_chunk("Hello"), delivered.set, resume, *final_chunks()]]
    call = asyncio.create_task(gateway.stream(listener))
    await delivered.wait()
    assert listener.reservation is not None
    assert listener.reservation.checkpoint == (INPUT_BOUND, 0)
    await gateway.ledger.renew()
    assert listener.reservation.checkpoint == (INPUT_TOKENS, 5)
    resume.set()
    await call


async def test_the_listener_receives_no_chunks_of_an_attempt_that_failed(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[errors.ProviderFailed()], [text_chunk("yes"), *final_chunks()]]
    listener = RecordingListener()
    result: CallResult = await gateway.stream(listener)
    assert (listener.raw, result.completion.text, listener.attached) == (b"yes<finish>", "yes", 2)
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_a_provider_that_sends_everything_at_once_leaves_time_for_other_tasks(gateway: GatewayUnderTest) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    before = turns
    gateway.provider.streams = [[*[text_chunk("a")] * 320, *final_chunks()]]
    await gateway.stream(RecordingListener())
    counting.cancel()
    assert turns - before >= 320 // streaming.EVENTS_PER_TURN


async def test_a_client_that_disconnects_from_a_stream_that_never_waits_pays_what_was_received(
    gateway: GatewayUnderTest,
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[*[text_chunk("a")] * 320, *final_chunks()]]

    async def disconnect() -> None:
        while not listener.chunks:
            await asyncio.sleep(0)
        listener.disconnect_soon()

    disconnecting = asyncio.create_task(disconnect())
    result = await gateway.stream(listener)
    await disconnecting
    assert isinstance(result, CallResult)
    assert result.charge.usage.output_tokens <= 2 * streaming.EVENTS_PER_TURN
