"""WS /ai/ws: who may open a connection, and what the answer to that says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from databases import new_sqlite
from journeys.support.server import Server
from journeys.support.users import person
from journeys.support.websocket import Call, calling, dialled
from journeys.upstream.handle import scripted

FRIEND = "https://console.example.com"


@pytest.fixture(scope="module")
def befriended(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Iterator[Server]:
    """A server that one foreign page may call."""
    folder: Path = tmp_path_factory.mktemp("befriended")
    url = new_sqlite(folder, migrated_file)
    server = Server(url, folder, {"TOLLKEEPER_ALLOWED_ORIGINS": f"https://other.example.com, {FRIEND}"})
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


async def test_a_well_formed_correlation_id_is_that_of_the_connection_and_any_other_is_replaced(
    shared_sqlite: Server,
) -> None:
    async with person(shared_sqlite) as caller:
        given = {}
        for sent in (f"mine-{caller.marker}", "x" * 65, "not well-formed"):
            async with calling(shared_sqlite, caller, additional_headers={"X-Correlation-ID": sent}) as call:
                response = call.connection.response
                assert response is not None
                heard = await call.turn(scripted(caller.marker, answer="Yes."))
            given[sent] = response.headers["X-Correlation-ID"]
            assert {frame["correlation_id"] for frame in (*heard.deltas, heard.last)} == {given[sent]}
    own, *others = given.items()
    assert own[0] == own[1]
    assert all(got and got != sent for sent, got in others)


async def test_an_address_that_calls_too_often_is_refused_and_the_others_are_not(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, TOLLKEEPER_RATE_LIMIT_LOGIN="2/hour").start()
    for _ in range(2):
        async with dialled(server):
            pass
    headers = await _refused(server, 429, "rate_limited")
    assert 1 <= int(headers["Retry-After"]) <= 3_600
    async with dialled(server, local_addr=("127.0.3.1", 0)) as call:
        assert isinstance(call, Call)
    server.stop()


async def test_a_page_from_elsewhere_may_not_call(befriended: Server) -> None:
    for origin in ("https://evil.example.com", f"{FRIEND}.evil.example.com", "http://127.0.0.1:1", "null"):
        await _refused(befriended, 403, "forbidden", origin=Origin(origin))


async def test_a_page_on_the_list_or_of_this_server_may_call(befriended: Server) -> None:
    async with person(befriended) as caller:
        for origin in (FRIEND, f"http://127.0.0.1:{befriended.port}", None):
            options: dict[str, Any] = {} if origin is None else {"origin": Origin(origin)}
            async with calling(befriended, caller, **options) as call:
                assert isinstance(call, Call)


async def _refused(server: Server, status: int, code: str, **options: Any) -> Headers:
    """The headers of a handshake that is refused with this problem, under the correlation id that it came with."""
    with pytest.raises(InvalidStatus) as refused:
        async with dialled(server, additional_headers={"X-Correlation-ID": code}, **options):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    assert response.body is not None
    problem = json.loads(response.body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["correlation_id"] == response.headers["X-Correlation-ID"] == code
    assert float(response.headers["X-Process-Time"]) >= 0
    return response.headers
