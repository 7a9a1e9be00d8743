"""The line to the provider fails: slow, silent, cut or not there at all."""

import pytest

from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import deaf, line, resets
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.exhaustive_on_postgres


async def test_an_upstream_that_is_too_slow_is_asked_once_and_the_input_is_paid(
    impatient: Server, upstream: Upstream, upstream_line: ReservedPort
) -> None:
    async with line(upstream_line.number, upstream.connect):
        for fault in ("hang", "stalled"):
            async with person(impatient) as caller:
                reply = await caller.ask(scripted(caller.marker, fault=fault), max_tokens=100)
                assert (reply.status, reply.code) == (504, "provider_timeout")
                assert len(upstream.seen(caller.marker)) == 1
                (charge,) = await caller.charges()
                assert (charge["state"], charge["basis"]) == ("settled", "unknown")
                assert 0 < charge["cost"] < charge["held"]
                assert charge["cost"] + charge["forgiven"] == charge["held"]


async def test_an_upstream_that_nobody_can_reach_costs_nothing(impatient: Server) -> None:
    async with person(impatient) as caller:
        await _assert_unreachable(caller)


async def test_an_upstream_that_does_not_take_the_connection_costs_nothing(
    impatient: Server, upstream_line: ReservedPort
) -> None:
    async with deaf(upstream_line.number), person(impatient) as caller:
        await _assert_unreachable(caller)


async def test_a_connection_reset_at_once_is_never_tried_again(impatient: Server, upstream_line: ReservedPort) -> None:
    """The request may have been on its way, so its outcome is unknown."""
    async with resets(upstream_line.number) as reset, person(impatient) as caller:
        reply = await caller.ask(caller.marker)
        assert (reply.status, reply.code) == (502, "provider_error")
        assert reset.connections == 1
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"]) == ("settled", "unknown")


async def _assert_unreachable(caller: Person) -> None:
    reply = await caller.ask(caller.marker)
    assert (reply.status, reply.code) == (502, "provider_unavailable")
    (charge,) = await caller.charges()
    assert (charge["state"], charge["basis"], charge["cost"]) == ("released", "none", 0)
    assert (await caller.quota())["reserved"] == 0
