"""Whoever listens to a stream goes away, or does not keep up: what is paid, and whom the provider goes on for."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from house import (
    BOUND,
    INPUT_TOKENS,
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
from patience import PATIENCE_S
from tollkeeper import errors
from tollkeeper.chat import Finish, Usage
from tollkeeper.gateway import attempts
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallFailed
from tollkeeper.gateway.streaming import Deadlines, Relay
from tollkeeper.providers.base import StreamChunk

ROOM = 5_000 - BOUND
"""What is wanted of a model that thinks: as much as its window has left."""
HELD = BOUND + ROOM
NEVER = 3600.0


@pytest.fixture
async def house(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """First 0.6 s, then 0.2 s between pieces."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_house(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER, ping_s=NEVER)) as made:
        yield made


async def test_a_caller_who_hangs_up_pays_the_input_and_what_came_and_the_provider_is_hung_up_on(house: House) -> None:
    ear = Ear()
    house.provider.streams = [[text("Hel"), text("lo"), ear.leave_soon, asyncio.Event()]]
    answer = await house.listen(ear)
    assert answer.outcome.cut_short
    assert (ear.said, house.provider.hung_up) == (b"Hello", 1)
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 5)


async def test_a_caller_who_hangs_up_before_the_first_piece_pays_the_input(house: House) -> None:
    ear = Ear()
    house.provider.streams = [[ear.leave_soon, asyncio.Event()]]
    answer = await house.listen(ear)
    assert (answer.outcome.cut_short, house.provider.hung_up, ear.heard) == (True, 1, [])
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_caller_who_was_gone_before_the_provider_was_asked_is_waited_for_by_nobody(house: House) -> None:
    house.provider.streams = [[asyncio.Event()]]
    answer = await house.listen(Ear(left=True))
    assert answer.outcome.cut_short
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 0)


async def test_a_model_that_bills_unseen_is_heard_out_for_its_report_though_the_caller_is_gone(house: House) -> None:
    ear, report = Ear(), asyncio.Event()
    house.provider.thinks = True
    house.provider.streams = [[text("He"), ear.leave_soon, lambda: later(report), report, text("llo"), *ending()]]
    answer = await house.listen(ear)
    assert (answer.outcome.cut_short, ear.said, house.provider.hung_up) == (True, b"He", 0)
    assert_charged(await house.charge(), "provider", 40, 10)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_model_that_bills_unseen_and_does_not_report_in_time_costs_the_hold(house: House, begun: bool) -> None:
    """However lively it is: `idle_s` is for all that is still to come."""
    ear = Ear()
    house.model(bills_hidden_output=True)
    endless: list[Step] = [text("x"), nap()] * 100 if begun else [asyncio.Event()]
    house.provider.streams = [[ear.leave_soon, *endless]]
    _, charge = await fail(house, ear)
    assert_charged(charge, "counted", BOUND, ROOM)
    assert (charge.cost_tokens, charge.forgiven_tokens, house.provider.hung_up) == (HELD, 0, 1)


async def test_a_model_that_bills_unseen_and_breaks_after_the_caller_has_gone_costs_the_hold(house: House) -> None:
    ear, gone = Ear(), asyncio.Event()
    house.provider.thinks = True
    house.provider.streams = [[ear.leave_soon, lambda: later(gone), gone, errors.ProviderInterrupted()]]
    _, charge = await fail(house, ear)
    assert_charged(charge, "counted", BOUND, ROOM)


@pytest.mark.parametrize("breaks", [(), (errors.ProviderInterrupted(),)], ids=["ends well", "line breaks"])
async def test_a_model_that_bills_unseen_and_ends_without_a_report_after_the_caller_has_gone_costs_the_hold(
    house: House, breaks: tuple[Step, ...]
) -> None:
    ear, gone = Ear(), asyncio.Event()
    house.provider.thinks = True
    house.provider.streams = [[text("He"), ear.leave_soon, lambda: later(gone), gone, *ending(None), *breaks]]
    await house.listen(ear)
    assert_charged(await house.charge(), "counted", BOUND, ROOM)


async def test_a_refusal_that_comes_after_the_caller_has_gone_costs_nothing_even_with_a_model_that_bills_unseen(
    house: House,
) -> None:
    ear, gone = Ear(), asyncio.Event()
    house.provider.thinks = True
    house.provider.streams = [[ear.leave_soon, lambda: later(gone), gone, errors.ProviderRejected()]]
    _, charge = await fail(house, ear)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)


async def test_a_caller_who_stops_reading_is_given_up_as_if_they_had_gone(house: House) -> None:
    ear = Ear(deaf=asyncio.Event())
    house.provider.streams = [[text("Hello"), text("never")]]
    answer = await house.listen(ear)
    assert (answer.outcome.cut_short, ear.said, house.provider.hung_up) == (True, b"Hello", 1)
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 5)


async def test_a_caller_who_stops_reading_what_bills_unseen_pays_the_hold(house: House) -> None:
    house.provider.thinks = True
    house.provider.streams = [[text("Hello"), text("never")]]
    answer = await house.listen(Ear(deaf=asyncio.Event()))
    assert answer.outcome.cut_short
    assert_charged(await house.charge(), "counted", BOUND, ROOM)


async def test_for_a_caller_who_stops_reading_what_bills_unseen_it_is_read_on_to_the_report(house: House) -> None:
    house.provider.thinks = True
    house.provider.streams = [[text("He"), text("llo"), nap(), *ending()]]
    ear = Ear(deaf=asyncio.Event())
    answer = await house.listen(ear)
    assert (answer.outcome.cut_short, ear.said, house.provider.hung_up) == (True, b"He", 0)
    assert_charged(await house.charge(), "provider", 40, 10)


async def test_whoever_hangs_up_on_what_bills_unseen_and_still_stops_reading_is_waited_for_no_longer(
    house: House,
) -> None:
    """As one who cancels a turn over a WebSocket, and reads nothing more; while the provider says nothing either."""
    ear = Ear(deaf=asyncio.Event())
    house.provider.thinks = True
    house.provider.streams = [
        [lambda: asyncio.get_running_loop().call_later(0.05, ear.hang_up), text("He"), asyncio.Event()]
    ]
    async with asyncio.timeout(PATIENCE_S):
        _, charge = await fail(house, ear)
    assert house.provider.hung_up == 1
    assert_charged(charge, "counted", BOUND, ROOM)


@pytest.mark.parametrize("end", ["whole", "interrupted", "refused", "silent"])
async def test_nothing_of_a_call_outlives_it(house: House, end: str) -> None:
    """Requests may be large: they are not to wait for the garbage collector."""
    ask, ear = make_ask(), Ear()
    question = weakref.ref(ask.input)
    streams: dict[str, list[Step]] = {
        "whole": [text("Hello"), *ending()],
        "interrupted": [text("Hello"), lambda: raising(errors.ProviderInterrupted)],
        "refused": [lambda: raising(errors.ProviderRateLimited)],
        "silent": [text("Hello"), asyncio.Event()],
    }
    house.provider.streams = [streams[end]]
    gc.disable()
    try:
        with suppress(CallFailed):
            await house.gateway.stream(house.caller, ask, ear)
        ear.hang_up, ear.reservation = (lambda: None), None
        del ask
        await asyncio.sleep(0)
        assert question() is None
    finally:
        gc.enable()


async def test_what_a_provider_tells_of_usage_on_the_way_is_no_report_when_the_caller_hangs_up(house: House) -> None:
    """Else whoever hangs up would pay for no more than the first chunk."""
    ear = Ear()
    early = StreamChunk(b"", (Usage(40, 1),))
    house.provider.streams = [[early, text("Hello"), ear.leave_soon, asyncio.Event()]]
    await house.listen(ear)
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 5)


async def test_nor_when_they_hang_up_between_the_end_of_the_answer_and_its_report(house: House) -> None:
    ear = Ear()
    early, finish = StreamChunk(b"", (Usage(40, 1),)), StreamChunk(b"", (Finish("stop"),))
    house.provider.streams = [[early, text("Hello"), finish, ear.leave_soon, asyncio.Event()]]
    await house.listen(ear)
    assert_charged(await house.charge(), "counted", INPUT_TOKENS, 5)


async def test_a_caller_who_leaves_before_the_second_try_is_asked_for_no_more_and_pays_nothing(house: House) -> None:
    ear = Ear()
    house.provider.streams = [[lambda: leaving(ear), errors.ProviderFailed()], [text("never"), *ending()]]
    _, charge = await fail(house, ear)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)
    assert house.provider.asked == [("m", 500)]


async def test_nor_is_a_fallback_asked_for_a_caller_who_has_left(house: House) -> None:
    ear = Ear()
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    house.provider.streams = [[lambda: leaving(ear), errors.ProviderRateLimited()], [text("never"), *ending()]]
    with pytest.raises(CallFailed):
        await house.listen(ear)
    assert house.provider.asked == [("m", 500)]
    for charge in await house.charges():
        assert (charge.state, charge.basis, charge.cost_tokens) == ("released", "none", 0)


async def test_a_caller_who_reads_slowly_is_waited_for(house: House) -> None:
    """Each piece takes half of the time; all of them together take more than it."""
    house.provider.streams = [[*[text("x")] * 5, *ending()]]
    answer = await house.listen(Slow())
    assert not answer.outcome.cut_short
    assert_charged(await house.charge(), "provider", 40, 10)


async def test_whoever_hangs_up_after_the_end_changes_nothing(house: House) -> None:
    ask, ear = make_ask(), Ear()
    house.provider.thinks = True
    model = house.models["m"]
    candidate = Candidate(ask, model, house.provider.prepare(model, ask.input, stream=True), 500)
    async with house.ledger.reservation(house.caller, await candidate.byte_terms()) as reservation:
        relay = Relay(reservation, candidate, ear, Deadlines(idle_s=0.001))
        await relay.run()
        ear.hang_up()
        reservation.mark_lost()
        await asyncio.sleep(0.01)
    assert not relay.cut_short
    assert_charged(await house.charge(), "provider", 40, 10)


def raising(error: type[errors.ProviderError]) -> None:
    raise error


class Slow(Ear):
    """Takes half of the time that there is, for each piece."""

    async def deliver(self, piece: StreamChunk) -> None:
        await super().deliver(piece)
        await asyncio.sleep(0.1)


def later(event: asyncio.Event) -> None:
    """When those who wait have been told that the listener is gone."""
    asyncio.get_running_loop().call_later(0.02, event.set)


def leaving(ear: Ear) -> None:
    """They leave when nobody waits for the provider any more."""

    def leave() -> None:
        ear.left = True

    asyncio.get_running_loop().call_soon(leave)
