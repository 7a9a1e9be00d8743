"""The offline provider is deterministic, and the catalog knows what must be known before a call."""

import asyncio
import time

import pytest

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Message, Price, Usage
from tollkeeper.providers.catalog import LARGEST_CONTEXT, echo_catalog, openai_catalog
from tollkeeper.providers.echo import _FAILURES, EchoProvider
from tollkeeper.quota.bounds import exact_input, input_bound
from tollkeeper.settings import EchoFailure


async def ask(provider: EchoProvider, *texts: str, max_output: int = 100) -> Completion:
    request = ChatRequest("echo", tuple(Message("user", text) for text in texts))
    return await provider.complete(provider.prepare(request), max_output)


async def test_echo_says_the_last_message_back_one_word_a_token() -> None:
    assert await ask(EchoProvider(), "be kind", "one two  three") == Completion("one two three", "stop", Usage(5, 3))


async def test_echo_keeps_to_the_output_limit_and_says_so() -> None:
    assert await ask(EchoProvider(), "one two three", max_output=2) == Completion("one two", "length", Usage(3, 2))


async def test_echo_can_be_made_longer_than_its_prompt() -> None:
    assert await ask(EchoProvider(tokens=5), "one two") == Completion("one two one two one", "stop", Usage(2, 5))


async def test_echo_answers_silence_too() -> None:
    assert await ask(EchoProvider(), "  ") == Completion("(nothing)", "stop", Usage(1, 1))


async def test_echo_takes_the_time_it_is_told_to() -> None:
    started = time.monotonic()
    await asyncio.gather(ask(EchoProvider(delay_s=0.1), "x"), ask(EchoProvider(tokens_per_second=20), "one two"))
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("failure", _FAILURES)
async def test_echo_fails_as_it_is_told_to(failure: EchoFailure) -> None:
    with pytest.raises(_FAILURES[failure]):
        await ask(EchoProvider(failure=failure), "x")


async def test_echo_can_leave_its_usage_out() -> None:
    provider = EchoProvider(failure="no_usage")
    assert (await ask(provider, "one two")).usage is None
    assert await provider.count_output("one two") == 2
    assert await provider.cut("one two three", 2) == "one two"


async def test_the_bounds_are_never_below_what_echo_uses() -> None:
    provider = EchoProvider()
    for text in ("", "a", "a b c", "é è", " " * 50, "word " * 500):
        call = provider.prepare(ChatRequest("echo", (Message("user", text),)))
        used = await provider.count_input(call)
        assert used <= exact_input(used, call.messages) <= input_bound(call.body_bytes, call.messages) + used
        assert used <= input_bound(call.body_bytes, call.messages)


def test_the_echo_catalog_has_one_free_model() -> None:
    catalog = echo_catalog(EchoProvider())
    assert catalog.model(None) is catalog.model("echo")
    assert catalog.model("echo").price == Price(0, 0, 0)
    with pytest.raises(errors.NotFound):
        catalog.model("gpt-4o")


def test_published_prices_and_context_windows_are_known() -> None:
    catalog = openai_catalog(EchoProvider(), "gpt-4o-mini")
    model = catalog.model(None)
    assert (model.name, model.context_window, model.price) == ("gpt-4o-mini", 128_000, Price(150_000, 75_000, 600_000))
    assert catalog.model("gpt-5").least_output > model.least_output


def test_a_model_that_nobody_published_has_no_price_and_the_widest_window() -> None:
    model = openai_catalog(EchoProvider(), "x").model("my-own-model")
    assert (model.price, model.context_window) == (None, LARGEST_CONTEXT)


def test_a_report_beyond_the_context_window_cannot_be_true() -> None:
    model = openai_catalog(EchoProvider(), "gpt-4o-mini").model(None)
    assert model.can_have_used(Usage(128_000, 128_000))
    assert not model.can_have_used(Usage(128_001, 0))
    assert not model.can_have_used(Usage(0, 128_001))
