"""The tail of the events of calls: who sees which, what a slow reader misses, and how many may read."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from tollkeeper.errors import RateLimited
from tollkeeper.gateway.call_events import CallEvent
from tollkeeper.gateway.event_tail import KEPT, MAX_READERS_PER_TENANT, MAX_READERS_PER_USER, QUEUED, EventTail
from tollkeeper.principal import Principal, Role
from tollkeeper.telemetry.trace_context import TraceContext


def event(number: int, tenant_id: int = 1) -> CallEvent:
    return CallEvent(
        surface="query",
        streamed=False,
        tenant_id=tenant_id,
        user_id=1,
        api_key=None,
        correlation_id="c",
        trace=TraceContext("t", str(number), None, sampled=False),
        started_at=0.0,
        seconds=0.0,
    )


def spans(events: Sequence[CallEvent]) -> list[str]:
    return [one.trace.span_id for one in events]


def caller(user_id: int, tenant_id: int = 1) -> Principal:
    return Principal(user_id, tenant_id, Role.TENANT_ADMIN, 0)


def test_a_reader_has_the_kept_events_of_its_tenant_and_then_each_new_one() -> None:
    tail = EventTail()
    for number in range(KEPT + 2):
        tail.put(event(number, tenant_id=number % 2))
    with tail.read(caller(1), 1) as own, tail.read(caller(2), None) as every, tail.read(caller(3), 1, "199") as after:
        for reader in (own, after):
            tail.put(event(1_000, tenant_id=0))
            assert "1000" not in spans(reader.take()[1])
        tail.put(event(1_001))
        assert spans(own.take()[1]) == ["1001"]
        assert spans(after.take()[1]) == ["1001"]
        assert spans(every.take()[1])[:2] == ["2", "3"]
        assert every.take() == (0, [])
    with tail.read(caller(1), 1, "199") as after:
        assert spans(after.take()[1]) == ["201", "1001"]
    with tail.read(caller(1), 1, "unknown") as after:
        assert len(after.take()[1]) > KEPT / 3


async def test_a_slow_reader_misses_the_oldest_and_is_told_how_many() -> None:
    tail = EventTail()
    with tail.read(caller(1), None) as reader:
        await reader.wait(0.001)
        for number in range(QUEUED + 3):
            tail.put(event(number))
        await asyncio.wait_for(reader.wait(60), 5)
        dropped, taken = reader.take()
        assert (dropped, spans(taken)[0], len(taken)) == (3, "3", QUEUED)
    tail.put(event(1))
    assert reader.take() == (0, [])


def test_readers_are_limited_per_user_and_per_tenant() -> None:
    tail = EventTail()
    with ExitStack() as stack:
        for _ in range(MAX_READERS_PER_USER):
            stack.enter_context(tail.read(caller(1), None))
        with pytest.raises(RateLimited, match="A user may read 5"):
            stack.enter_context(tail.read(caller(1), None))
        for user_id in range(2, MAX_READERS_PER_TENANT - MAX_READERS_PER_USER + 2):
            stack.enter_context(tail.read(caller(user_id), None))
        with pytest.raises(RateLimited, match="A tenant may read 20"):
            stack.enter_context(tail.read(caller(100), None))
        stack.enter_context(tail.read(caller(100, tenant_id=2), None))
    with tail.read(caller(1), None):
        pass
