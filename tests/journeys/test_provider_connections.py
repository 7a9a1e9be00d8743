"""The connection to the provider fails: slow, silent, reset or impossible."""

import pytest

from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import resetting_server, tcp_proxy, unaccepting_server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.prove_only_on_postgres


async def test_a_provider_that_is_too_slow_gets_one_request_and_the_input_is_charged(
    short_timeout_server: Server, upstream: Upstream, upstream_port: ReservedPort
) -> None:
    async with tcp_proxy(upstream_port.number, upstream.connect):
        for fault in ("hang", "stalled"):
            async with new_user(short_timeout_server) as caller:
                reply = await caller.query(scripted(caller.marker, fault=fault), max_tokens=100)
                assert (reply.status, reply.code) == (504, "provider_timeout")
                assert len(upstream.requests(caller.marker)) == 1
                (charge,) = await caller.charges()
                assert (charge["state"], charge["basis"]) == ("settled", "unknown")
                assert 0 < charge["cost"] < charge["held"]
                assert charge["cost"] + charge["forgiven"] == charge["held"]


async def test_an_unreachable_provider_costs_nothing(short_timeout_server: Server) -> None:
    async with new_user(short_timeout_server) as caller:
        await _assert_unreachable(caller)


async def test_a_provider_that_does_not_accept_the_connection_costs_nothing(
    short_timeout_server: Server, upstream_port: ReservedPort
) -> None:
    async with unaccepting_server(upstream_port.number), new_user(short_timeout_server) as caller:
        await _assert_unreachable(caller)


async def test_a_call_is_not_retried_after_its_connection_was_reset(
    short_timeout_server: Server, upstream_port: ReservedPort
) -> None:
    """The request may have been sent, so its outcome is unknown."""
    async with resetting_server(upstream_port.number) as resets, new_user(short_timeout_server) as caller:
        reply = await caller.query(caller.marker)
        assert (reply.status, reply.code) == (502, "provider_error")
        assert resets.connections == 1
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"]) == ("settled", "unknown")


async def _assert_unreachable(caller: ApiUser) -> None:
    reply = await caller.query(caller.marker)
    assert (reply.status, reply.code) == (502, "provider_unavailable")
    (charge,) = await caller.charges()
    assert (charge["state"], charge["basis"], charge["cost"]) == ("released", "none", 0)
    assert (await caller.quota())["reserved"] == 0
