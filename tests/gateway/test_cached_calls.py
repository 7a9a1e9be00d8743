"""Calls that the cache answers, and calls with the same question at the same time: who asks, who waits, who pays."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from support.deadlines import TEST_DEADLINE_S
from support.event_schema import responses_in
from support.factories import make_principal, set_limit, user_quota
from support.gateway import (
    GatewayUnderTest,
    RecordingListener,
    final_chunks,
    open_gateway,
    short_pause,
    text_chunk,
)
from tollkeeper import errors
from tollkeeper.chat import Completion, TextDelta, ToolCall
from tollkeeper.gateway.ai_events import encode
from tollkeeper.gateway.results import CallFailed, CallResult
from tollkeeper.response_cache.questions import CacheScope

MANY = 100


pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(
        but=("test_one_question_asked_many_times_at_once_costs_one_call_of_the_provider",)
    ),
]


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(database_url) as opened:
        yield opened


async def bases(gateway: GatewayUnderTest) -> Counter[str | None]:
    return Counter(charge.basis for charge in await gateway.charges())


async def call(gateway: GatewayUnderTest, *, streamed: bool = False, **changes: Any) -> CallResult:
    changes = {"cache": True} | changes
    return await (gateway.stream(**changes) if streamed else gateway.complete(**changes))


async def _until_followers_wait(gateway: GatewayUnderTest, count: int, *calls: "asyncio.Task[CallResult]") -> None:
    """Wait until so many calls wait for another one. Fails if one of `calls` ends before, with what it has raised."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while gateway.cache.waiting < count:
            ended = [call.result() for call in calls if call.done()]
            assert not ended
            await asyncio.sleep(0.001)


async def many(gateway: GatewayUnderTest, gate: asyncio.Event, *, streamed: bool = False) -> list[Any]:
    """The same question, asked many times at once. The provider answers when all wait."""
    calls = [asyncio.create_task(call(gateway, streamed=streamed)) for _ in range(MANY)]
    await _until_followers_wait(gateway, MANY - 1, *calls)
    gate.set()
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_the_same_question_is_answered_at_no_cost_by_a_charge_of_its_own(gateway: GatewayUnderTest) -> None:
    made, hit = await call(gateway), await call(gateway)
    assert (made.from_cache, hit.from_cache) == (False, True)
    assert (hit.completion, hit.usage, hit.answer_basis) == (made.completion, made.usage, made.charge.basis)
    assert (hit.charge.cost_tokens, hit.charge.cost_micro_usd, hit.charge.basis) == (0, 0, "cache")
    assert hit.charge.balances == made.charge.balances
    assert len(gateway.provider.calls) == 1
    assert await bases(gateway) == {"provider": 1, "cache": 1}
    event = gateway.seen[-1]
    assert event.charge == hit.charge
    assert (event.model, event.provider, event.attempts, event.error) == ("m", "fake", (), None)
    assert gateway.seen[0].attempts
    response = responses_in(encode(event))[0]
    assert (response["status"], response["charge"]["basis"]) == ("succeeded", "cache"), response


@pytest.mark.parametrize("changes", [{"cache": None}, {"cache": False}, {"max_output": 20}, {"allocation": 5_000}])
async def test_another_question_or_one_without_the_cache_goes_to_the_provider(
    gateway: GatewayUnderTest, changes: dict[str, Any]
) -> None:
    await call(gateway)
    assert not (await call(gateway, **changes)).from_cache
    assert await bases(gateway) == {"provider": 2}


async def test_only_the_tenant_can_share_answers_among_its_users(gateway: GatewayUnderTest) -> None:
    await call(gateway)
    first = gateway.caller
    gateway.caller = await make_principal(gateway.database, tenant_id=first.tenant_id)
    await set_limit(gateway.ledger, user_quota(gateway.caller), 10_000)
    assert not (await call(gateway)).from_cache
    gateway.cache.configure({first.tenant_id: CacheScope.TENANT})
    assert not (await call(gateway, cache=None)).from_cache
    gateway.caller = first
    assert (await call(gateway, cache=None)).from_cache
    gateway.caller = await make_principal(gateway.database)
    await set_limit(gateway.ledger, user_quota(gateway.caller), 10_000)
    gateway.cache._scopes = dict.fromkeys((first.tenant_id, gateway.caller.tenant_id), CacheScope.TENANT)
    assert not (await call(gateway)).from_cache, "another tenant"


@pytest.mark.parametrize(
    "completion",
    [
        Completion("yes", "length", None),
        Completion("", "tool_calls", None, (ToolCall("1", "f", "{}"),)),
        Completion("no", "stop", None, refusal="no"),
        Completion("", "content_filter", None),
    ],
    ids=lambda completion: completion.finish_reason,
)
async def test_only_answers_that_ended_normally_are_kept(gateway: GatewayUnderTest, completion: Completion) -> None:
    gateway.provider.completions = [completion]
    assert [(await call(gateway)).from_cache for _ in range(2)] == [False, False]


async def test_the_answer_of_a_fallback_is_not_kept(gateway: GatewayUnderTest) -> None:
    gateway.set_model("other")
    gateway.set_model("m", fallbacks=("other",))
    gateway.provider.completions = [errors.ProviderAuthFailed(), Completion("yes", "stop", None)]
    assert [(await call(gateway)).model for _ in range(2)] == ["other", "m"]
    assert len(gateway.provider.calls) == 3


async def test_a_whole_answer_is_delivered_as_a_stream_and_a_stream_as_a_whole_answer(
    gateway: GatewayUnderTest,
) -> None:
    made = await call(gateway)
    listener = RecordingListener()
    hit = await gateway.stream(listener, cache=True)
    assert hit.from_cache
    assert [delta for chunk in listener.chunks for delta in chunk.deltas] == [TextDelta(made.completion.text)]
    assert listener.cache_status is not None
    assert listener.cache_status.charge == hit.charge
    streamed = await call(gateway, streamed=True, max_output=30)
    assert not streamed.from_cache
    assert (await call(gateway, max_output=30)).completion.text == streamed.completion.text
    assert await bases(gateway) == {"provider": 2, "cache": 2}


@pytest.mark.parametrize("streamed", [False, True])
async def test_one_question_asked_many_times_at_once_costs_one_call_of_the_provider(
    gateway: GatewayUnderTest, streamed: bool
) -> None:
    gate = asyncio.Event()
    gateway.provider.answer_gate, gateway.provider.streams = gate, [[gate, text_chunk("yes"), *final_chunks()]]
    results = await many(gateway, gate, streamed=streamed)
    assert {result.completion.text for result in results} == {"yes"}
    assert len(gateway.provider.calls) == 1
    assert await bases(gateway) == {"provider": 1, "cache": MANY - 1}
    assert (gateway.cache.misses, gateway.cache.joined, gateway.cache.hits) == (1, MANY - 1, 0)


async def test_when_the_first_call_fails_each_of_the_others_makes_its_own(gateway: GatewayUnderTest) -> None:
    gate = asyncio.Event()
    gateway.provider.answer_gate = gate
    failure = errors.ProviderRejected()
    await set_limit(gateway.ledger, user_quota(gateway.caller), 1_000_000)
    gateway.provider.completions = [failure, Completion("yes", "stop", None)]
    results = await many(gateway, gate)
    failed = [result for result in results if isinstance(result, CallFailed)]
    assert [one.cause for one in failed] == [failure], [one for one in results if isinstance(one, BaseException)]
    assert len(gateway.provider.calls) == MANY
    assert await bases(gateway) == {"none": 1, "counted": MANY - 1}


async def test_a_client_that_leaves_does_not_cancel_the_stream_that_others_wait_for(gateway: GatewayUnderTest) -> None:
    gate, first = asyncio.Event(), RecordingListener()
    leave = first.disconnect_soon
    gateway.provider.streams = [[text_chunk("ye"), gate, leave, short_pause(), text_chunk("s"), *final_chunks()]]
    leading = asyncio.create_task(gateway.stream(first, cache=True))
    await gateway.provider.called.wait()
    following = asyncio.create_task(call(gateway, streamed=True))
    await _until_followers_wait(gateway, 1)
    gate.set()
    led, followed = await leading, await following
    assert (led.charge.basis, led.charge.cost_tokens, led.outcome.cut_short) == ("provider", 50, False)
    assert (followed.from_cache, followed.completion.text) == (True, "yes")
    assert gateway.provider.unfinished_streams == 0


async def test_a_stream_that_nobody_waits_for_any_longer_is_cancelled(gateway: GatewayUnderTest) -> None:
    first, never = RecordingListener(), asyncio.Event()
    gateway.provider.streams = [[text_chunk("ye"), never]]
    leading = asyncio.create_task(gateway.stream(first, cache=True))
    await gateway.provider.called.wait()
    following = asyncio.create_task(call(gateway, streamed=True))
    await _until_followers_wait(gateway, 1)
    first.disconnect_soon()
    await asyncio.sleep(0.01)
    assert not leading.done()
    following.cancel()
    led = await leading
    assert (led.outcome.cut_short, led.charge.basis) == (True, "counted")
    assert gateway.provider.unfinished_streams == 1


async def test_a_hit_is_refused_to_a_caller_who_may_not_call_any_longer(gateway: GatewayUnderTest) -> None:
    await call(gateway)
    gateway.caller = replace(gateway.caller, token_version=gateway.caller.token_version + 1)
    with pytest.raises(errors.Unauthenticated):
        await call(gateway)
    assert len(gateway.provider.calls) == 1


async def test_an_exhausted_quota_does_not_refuse_what_costs_nothing(gateway: GatewayUnderTest) -> None:
    await call(gateway)
    await set_limit(gateway.ledger, user_quota(gateway.caller), 0)
    assert (await call(gateway)).from_cache
    with pytest.raises(errors.QuotaExceeded):
        await call(gateway, cache=False)


async def test_a_user_without_any_quota_gets_no_answer_of_the_tenant(gateway: GatewayUnderTest) -> None:
    gateway.cache.configure({gateway.caller.tenant_id: CacheScope.TENANT})
    await call(gateway)
    gateway.caller = await make_principal(gateway.database, tenant_id=gateway.caller.tenant_id)
    with pytest.raises(errors.QuotaExceeded):
        await call(gateway)
