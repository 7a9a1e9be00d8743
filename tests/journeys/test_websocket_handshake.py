"""WS /ai/ws: the handshake, its refusals, and its headers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.support.websocket import Connection, authenticated_websocket, open_websocket
from journeys.upstream.handle import scripted
from support.databases import new_sqlite

ALLOWED_ORIGIN = "https://console.example.com"


@pytest.fixture(scope="module")
def cors_server(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Iterator[Server]:
    """A server with two allowed origins."""
    folder: Path = tmp_path_factory.mktemp("cors_server")
    url = new_sqlite(folder, migrated_file)
    server = Server(url, folder, {"TOLLKEEPER_ALLOWED_ORIGINS": f"https://other.example.com, {ALLOWED_ORIGIN}"})
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


async def test_a_valid_correlation_id_is_kept_for_the_connection_and_any_other_replaced(
    shared_sqlite: Server,
) -> None:
    async with new_user(shared_sqlite) as caller:
        correlation_ids = {}
        for sent in (f"mine-{caller.marker}", "x" * 65, "not well-formed"):
            async with authenticated_websocket(
                shared_sqlite, caller, additional_headers={"X-Correlation-ID": sent}
            ) as connection:
                response = connection.raw.response
                assert response is not None
                turn = await connection.run_turn(scripted(caller.marker, answer="Yes."))
            correlation_ids[sent] = response.headers["X-Correlation-ID"]
            assert {frame["correlation_id"] for frame in (*turn.deltas, turn.last)} == {correlation_ids[sent]}
    valid, *others = correlation_ids.items()
    assert valid[0] == valid[1]
    assert all(received and received != sent for sent, received in others)


async def test_an_address_beyond_the_rate_limit_is_refused_and_others_are_not(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, TOLLKEEPER_RATE_LIMIT_HANDSHAKES="2/hour").start()
    for _ in range(2):
        async with open_websocket(server):
            pass
    headers = await _refused(server, 429, "rate_limited")
    assert 1 <= int(headers["Retry-After"]) <= 3_600
    async with open_websocket(server, local_addr=("127.0.3.1", 0)) as connection:
        assert isinstance(connection, Connection)
    server.stop()


async def test_a_page_of_another_origin_is_refused(cors_server: Server) -> None:
    for origin in ("https://evil.example.com", f"{ALLOWED_ORIGIN}.evil.example.com", "http://127.0.0.1:1", "null"):
        await _refused(cors_server, 403, "forbidden", origin=Origin(origin))


async def test_a_page_of_an_allowed_origin_or_of_this_server_is_accepted(cors_server: Server) -> None:
    async with new_user(cors_server) as caller:
        for origin in (ALLOWED_ORIGIN, f"http://127.0.0.1:{cors_server.port}", None):
            options: dict[str, Any] = {} if origin is None else {"origin": Origin(origin)}
            async with authenticated_websocket(cors_server, caller, **options) as connection:
                assert isinstance(connection, Connection)


async def _refused(server: Server, status: int, code: str, **options: Any) -> Headers:
    """Open a connection, which must be refused with this problem and its correlation id. Returns the headers."""
    with pytest.raises(InvalidStatus) as refused:
        async with open_websocket(server, additional_headers={"X-Correlation-ID": code}, **options):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    assert response.body is not None
    problem = json.loads(response.body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["correlation_id"] == response.headers["X-Correlation-ID"] == code
    assert float(response.headers["X-Process-Time"]) >= 0
    return response.headers
