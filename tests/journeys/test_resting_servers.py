"""A tool of the tests: a shared server on PostgreSQL that no test uses ends, and starts again with its next use."""

from collections.abc import Callable

import pytest

from journeys.support.server import Server, stop_unused
from journeys.support.users import new_user
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.exhaustive


async def test_an_unused_server_on_postgres_ends_and_starts_when_it_is_used(
    make_server: Callable[..., Server], postgres_url: str
) -> None:
    server = make_server(postgres_url).start().rest()
    with server.in_use():
        stop_unused(0)
        _assert_runs(server, True)
    stop_unused(TEST_DEADLINE_S)
    _assert_runs(server, True)
    stop_unused(0)
    _assert_runs(server, False)
    with server.in_use():
        async with new_user(server) as user:
            assert (await user.quota())["reserved"] == 0


def _assert_runs(server: Server, expected: bool) -> None:
    assert server.program.running is expected
