"""However a stream ends, its charge is exact and no hold is left. A character is a token here."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from factories import FakeClock, make_store, set_limit, user_quota
from house import (
    BOUND,
    INPUT_TOKENS,
    USAGE,
    Ear,
    House,
    Step,
    assert_charged,
    ending,
    fail,
    make_ask,
    nap,
    open_house,
    text,
)
from tollkeeper import errors
from tollkeeper.chat import ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.gateway import attempts, streaming
from tollkeeper.gateway.results import CallFailed, CallResult
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.providers.base import CallInput, StreamChunk
from tollkeeper.quota.ledger import Ledger

HELD = BOUND + 500
ROOM = 5_000 - BOUND
"""What is wanted of a model that thinks: as much as its window has left."""
NEVER = 3600.0


@pytest.fixture
async def house(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """First 0.6 s, then 0.2 s between pieces."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_house(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER, ping_s=NEVER)) as made:
        yield made


async def test_a_whole_stream_costs_what_was_reported_and_its_end_is_held_back_until_that_is_settled(
    house: House,
) -> None:
    ear = Ear()
    house.provider.streams = [[text("He"), text("llo"), *ending(), StreamChunk(b"<done>", (), last=True)]]
    answer = await house.listen(ear)
    assert (ear.said, answer.outcome.tail) == (b"Hello<finish>", b"<usage><done>")
    assert (answer.completion.text, answer.completion.finish_reason, answer.completion.usage) == (
        "Hello",
        "stop",
        USAGE,
    )
    assert (answer.outcome.shortened, answer.outcome.cut_short, house.provider.hung_up) == (False, False, 0)
    charge = await house.charge()
    assert_charged(charge, "provider", 40, 10)
    assert (answer.charge.cost_tokens, charge.forgiven_tokens, charge.error) == (50, 0, None)
    assert house.provider.limits == [charge.granted_output] == [500]


async def test_a_later_report_replaces_an_earlier_one(house: House) -> None:
    house.provider.streams = [[text("a"), StreamChunk(b"", (Usage(1, 1),)), *ending()]]
    await house.listen()
    assert_charged(await house.charge(), "provider", 40, 10)


@pytest.mark.parametrize("usage", [None, Usage(5001, 1), Usage(1, 5001), Usage(0, 0)])
async def test_without_a_believable_report_what_came_is_counted(house: House, usage: Usage | None) -> None:
    said = (ReasoningDelta("12"), RefusalDelta("345"), ToolCallDelta(0, "id", "name", "{}"))
    house.provider.streams = [[text("Hello"), StreamChunk(b"", said), *ending(usage)]]
    await house.listen()
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 5 + 2 + 3 + 4 + 2)


@pytest.mark.parametrize(
    "error", [errors.ProviderFailed, errors.ProviderInterrupted, errors.ProviderBadResponse, errors.ProviderTimeout]
)
async def test_of_a_stream_that_breaks_what_came_is_paid_and_it_is_never_an_unbilled_failure(
    house: House, error: type[errors.ProviderError]
) -> None:
    ear = Ear()
    house.provider.streams = [[text("He"), text("llo"), error()]]
    cause, charge = await fail(house, ear)
    assert isinstance(cause, errors.ProviderError)
    assert cause.billed
    assert ear.said == b"Hello"
    assert_charged(charge, "counted", INPUT_TOKENS, 5)
    assert charge.error == cause.code


async def test_an_answer_is_whole_though_the_line_breaks_after_it(house: House) -> None:
    """Some servers close the connection without the last chunk of HTTP's own framing."""
    ear = Ear()
    house.provider.streams = [[text("Hello"), *ending(), errors.ProviderInterrupted()]]
    answer = await house.listen(ear)
    assert (answer.completion.text, answer.outcome.cut_short, answer.outcome.shortened) == ("Hello", False, False)
    assert (ear.said, answer.outcome.tail) == (b"Hello<finish>", b"<usage>")
    charge = await house.charge()
    assert_charged(charge, "provider", 40, 10)
    assert charge.error is None


async def test_a_stream_that_breaks_between_its_report_and_its_end_is_broken(house: House) -> None:
    """The report proves 10 tokens of output, more than were received."""
    house.provider.streams = [[text("Hello"), StreamChunk(b"", (Usage(40, 10),)), errors.ProviderInterrupted()]]
    _, charge = await fail(house)
    assert_charged(charge, "counted", INPUT_TOKENS, 10)


async def test_a_stream_that_breaks_after_a_first_event_without_output_costs_the_input(house: House) -> None:
    """The connection broke: whether the provider bills what it has done is not known."""
    house.provider.streams = [[StreamChunk(b"<hello>", ()), errors.ProviderInterrupted()]]
    cause, charge = await fail(house)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 0)
    assert len(house.provider.asked) == 1


async def test_a_provider_that_never_begins_is_given_up_with_an_unknown_outcome(house: House) -> None:
    house.provider.streams = [[asyncio.Event()]]
    cause, charge = await fail(house)
    assert isinstance(cause, errors.ProviderTimeout)
    assert (charge.basis, charge.cost_tokens, charge.forgiven_tokens) == ("unknown", INPUT_TOKENS, HELD - INPUT_TOKENS)
    assert (house.provider.hung_up, len(house.provider.asked)) == (1, 1)


async def test_of_a_provider_that_falls_silent_what_came_is_paid(house: House) -> None:
    house.provider.streams = [[text("Hello"), asyncio.Event()]]
    cause, charge = await fail(house)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 5)
    assert house.provider.hung_up == 1


async def test_an_answer_is_whole_though_the_provider_keeps_the_line_open_after_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "CLOSE_S", 0.05)
    async with open_house(sqlite_url, Deadlines(first_s=NEVER, idle_s=NEVER, total_s=NEVER)) as house:
        house.provider.streams = [[text("Hello"), *ending(), StreamChunk(b"<done>", (), last=True), asyncio.Event()]]
        answer = await house.listen()
        assert (answer.completion.text, answer.outcome.tail, answer.outcome.cut_short) == (
            "Hello",
            b"<usage><done>",
            False,
        )
        charge = await house.charge()
        assert_charged(charge, "provider", 40, 10)
        assert (charge.error, house.provider.hung_up) == (None, 1)


async def test_what_a_provider_says_right_after_its_end_is_waited_for(house: House) -> None:
    done = StreamChunk(b"<done>", (), last=True)
    house.provider.streams = [[text("Hello"), *ending(), nap(), done]]
    assert (await house.listen()).outcome.tail == b"<usage><done>"


async def test_a_stream_that_goes_on_and_on_is_ended(sqlite_url: str) -> None:
    async with open_house(sqlite_url, Deadlines(first_s=NEVER, idle_s=NEVER, total_s=0.3, ping_s=NEVER)) as house:
        lively: list[Step] = [StreamChunk(b"", ()), nap()] * 100
        house.provider.streams = [[text("Hello"), *lively]]
        cause, charge = await fail(house)
        assert isinstance(cause, errors.ProviderInterrupted)
        assert_charged(charge, "counted", INPUT_TOKENS, 5)


async def test_while_the_provider_is_silent_the_listener_is_pinged(sqlite_url: str) -> None:
    async with open_house(sqlite_url, Deadlines(ping_s=0.01)) as house:
        pinged = asyncio.Event()

        class Pinged(Ear):
            def ping(self) -> None:
                super().ping()
                if self.pings == 3:
                    pinged.set()

        house.provider.streams = [[pinged, text("yes"), *ending()]]
        ear = Pinged()
        await house.listen(ear)
        assert ear.pings >= 3
        assert_charged(await house.charge(), "provider", 40, 10)


async def test_what_is_longer_than_was_granted_and_some_more_is_cut(house: House) -> None:
    """16 tokens are granted, 34 let through: an eighth and 16 more. The report that never came is not waited for."""
    ear = Ear()
    house.provider.streams = [[*[text("0123456789")] * 100, *ending(Usage(40, 1000))]]
    answer = await house.listen(ear, max_output=16)
    assert (answer.outcome.shortened, answer.completion.finish_reason, answer.outcome.tail) == (True, "length", b"")
    assert (len(ear.said), house.provider.hung_up) == (40, 1)
    assert answer.completion.text == "0123456789" * 4
    charge = await house.charge()
    assert (charge.basis, charge.output_tokens, charge.overrun) == ("counted", 40, False)
    assert charge.cost_tokens == INPUT_TOKENS + 40


async def test_of_an_over_long_answer_a_report_that_came_on_the_way_is_not_the_truth(house: House) -> None:
    """Some providers report with every chunk, and are behind with it."""
    running = [StreamChunk(b"", (TextDelta("0123456789"), Usage(1, 1)))] * 100
    house.provider.streams = [running]
    await house.listen(max_output=16)
    charge = await house.charge()
    assert (charge.basis, charge.output_tokens) == ("counted", 40)


async def test_an_over_long_answer_costs_at_most_the_hold_when_it_was_counted(house: House) -> None:
    house.provider.streams = [[text("x" * 5000), *ending(Usage(40, 4000))]]
    answer = await house.listen(max_output=16)
    assert answer.outcome.shortened
    charge = await house.charge()
    assert (charge.basis, charge.cost_tokens, charge.held_tokens) == ("counted", BOUND + 16, BOUND + 16)


async def test_an_over_long_answer_that_came_whole_is_paid_as_reported(house: House) -> None:
    """Within what is let through: what it cost above the hold is booked, and said to be an overrun."""
    await set_limit(house.ledger, user_quota(house.caller), INPUT_TOKENS + 8 + 64 + 16)
    house.provider.streams = [[text("x" * 34), *ending(Usage(INPUT_TOKENS + 80, 34))]]
    answer = await house.listen()
    assert not answer.outcome.shortened
    charge = await house.charge()
    assert_charged(charge, "provider", INPUT_TOKENS + 80, 34)
    assert charge.overrun


async def test_bytes_that_are_no_tokens_cut_nothing(house: House) -> None:
    """They are more than was granted, so they are counted: once each."""
    counted: list[str] = []

    async def count_output(text: str) -> int:
        counted.append(text)
        return len(text.split())

    house.provider.count_output = count_output  # type: ignore[method-assign]
    words = [text("internationalisation ")] * 16
    house.provider.streams = [[*words, *ending()]]
    answer = await house.listen(max_output=16)
    assert not answer.outcome.shortened
    assert len(counted) > 1
    assert ("internationalisation " * 16).startswith("".join(counted))
    assert_charged(await house.charge(), "provider", 40, 10)


async def test_each_of_several_choices_may_be_as_long_as_its_share(house: House) -> None:
    request = make_ask().input.chat_request
    house.provider.streams = [[text("x" * 60), *ending(Usage(40, 60))]]
    answer = await house.listen(input=CallInput(lambda: request, choices=3), max_output=20)
    charge = await house.charge()
    assert (house.provider.limits, charge.granted_output, answer.outcome.shortened) == ([20], 60, False)
    assert_charged(charge, "provider", 40, 60)


async def test_a_stream_whose_hold_was_swept_up_is_cut_and_its_truth_booked(sqlite_url: str) -> None:
    """By the sweep of another process, after this one was away for longer than its lease."""
    clock, ear = FakeClock(), Ear()
    async with open_house(sqlite_url, clock=clock) as house:
        said = asyncio.Event()
        house.provider.streams = [[text("Hello"), said.set, asyncio.Event()]]
        call = asyncio.create_task(house.listen(ear))
        await said.wait()
        clock.step(61)
        other = Ledger(make_store(sqlite_url, clock), lease_seconds=60)
        other.start()
        assert await other.sweep() == 1
        await other.stop()
        await house.ledger.renew()
        with pytest.raises(CallFailed) as raised:
            await call
        assert isinstance(raised.value.cause, errors.LeaseLost)
        charge = await house.charge()
        assert (charge.closed_by, charge.adjusted, house.provider.hung_up) == ("expire", True, 1)
        assert_charged(charge, "counted", INPUT_TOKENS, 5)
        assert charge.forgiven_tokens == HELD - BOUND, "what the sweep did not know"


@pytest.mark.parametrize(("thinks", "input_tokens", "output_tokens"), [(False, INPUT_TOKENS, 5), (True, BOUND, ROOM)])
async def test_a_stream_that_is_cancelled_from_outside_is_settled_before_it_is_gone(
    house: House, thinks: bool, input_tokens: int, output_tokens: int
) -> None:
    """As on shutdown: nobody waits for a report."""
    said = asyncio.Event()
    house.provider.thinks = thinks
    house.provider.streams = [[text("Hello"), said.set, asyncio.Event()]]
    call = asyncio.create_task(house.listen())
    await said.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    charge = await house.charge()
    assert_charged(charge, "counted", input_tokens, output_tokens)
    assert (charge.error, house.provider.hung_up) == ("CancelledError", 1)


async def test_a_stream_that_is_cancelled_before_its_first_piece_costs_its_input(house: House) -> None:
    house.provider.streams = [[asyncio.Event()]]
    call = asyncio.create_task(house.listen())
    await house.provider.asking.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_renewal_measures_what_came_so_far(house: House) -> None:
    ear, said, going_on = Ear(), asyncio.Event(), asyncio.Event()
    house.provider.streams = [[text("Hello"), said.set, going_on, *ending()]]
    call = asyncio.create_task(house.listen(ear))
    await said.wait()
    assert ear.reservation is not None
    assert ear.reservation.checkpoint == (BOUND, 0)
    await house.ledger.renew()
    await house.ledger.renew()
    assert ear.reservation.checkpoint == (INPUT_TOKENS, 5)
    going_on.set()
    await call


async def test_between_two_attempts_the_listener_hears_nothing_of_the_first(house: House) -> None:
    house.provider.streams = [[errors.ProviderFailed()], [text("yes"), *ending()]]
    ear = Ear()
    answer: CallResult = await house.listen(ear)
    assert (ear.said, answer.completion.text, ear.attached) == (b"yes<finish>", "yes", 2)
    assert_charged(await house.charge(), "provider", 40, 10)
