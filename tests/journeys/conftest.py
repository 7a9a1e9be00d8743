"""One fake upstream per worker, one server per worker and database that calls it, and new users for each test.

The server of a fixture `session_…` belongs to the worker, and rests while no test uses it. Tests use it through the
fixture `shared_…` or `all_wires_…`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journeys.support.processes import ReservedPort
from journeys.support.provider_wires import SHORT_DEADLINES, write_catalog
from journeys.support.server import UNUSED_S, Server, stop_unused
from journeys.upstream.handle import Upstream
from support.databases import EVERY_DATABASE, new_postgres, new_sqlite
from support.postgres_servers import SharedPostgres

SHARED_SETTINGS = {
    "TOLLKEEPER_RATE_LIMIT_AI": "100000/minute",
    "TOLLKEEPER_BREAKER_FAILURES": "0",
    "TOLLKEEPER_PRIVATE_NETWORKS": "127.0.0.0/8",
    "TOLLKEEPER_EMBEDDING_MODEL": "text-embedding-3-small",
    "TOLLKEEPER_RETRIEVAL_MIN_SCORE": "0.999",
}
"""No rate limit and no circuit breaker, so that the calls of one test do not affect those of the next. Identity
providers of tests are on loopback. The vectors of the fake upstream are by chance: only words tell what is relevant.
"""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Stop the servers that wait for their next use in vain: all of them after the worker's last journey."""
    is_journey = nextitem is not None and nextitem.path.is_relative_to(Path(__file__).parent)
    stop_unused(UNUSED_S if is_journey else 0)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """The upstream of the shared servers."""
    running = Upstream(tmp_path_factory.mktemp("upstream"))
    yield running
    running.stop()


@pytest.fixture
def own_upstream(tmp_path: Path) -> Iterator[Upstream]:
    """An upstream that only this test uses, with a log of its own."""
    running = Upstream(tmp_path)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def session_sqlite(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    url = new_sqlite(folder, migrated_file)
    yield from _run(Server(url, folder, {"OPENAI_BASE_URL": upstream.base_url} | SHARED_SETTINGS))


@pytest.fixture(scope="session")
def session_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_postgres_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_postgres_server)
    settings = {"OPENAI_BASE_URL": upstream.base_url} | SHARED_SETTINGS
    yield from _run(Server(url, tmp_path_factory.mktemp("server"), settings))


@pytest.fixture(scope="session")
def session_stock_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_stock_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_stock_server)
    settings = {"OPENAI_BASE_URL": upstream.base_url} | SHARED_SETTINGS
    yield from _run(Server(url, tmp_path_factory.mktemp("server"), settings))


@pytest.fixture(scope="session")
def session_echo_server(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    url = new_sqlite(folder, migrated_file)
    yield from _run(Server(url, folder, {"OPENAI_API_KEY": ""}))


@pytest.fixture
def shared_sqlite(session_sqlite: Server) -> Iterator[Server]:
    with session_sqlite.in_use():
        yield session_sqlite


@pytest.fixture
def shared_postgres(session_postgres: Server) -> Iterator[Server]:
    with session_postgres.in_use():
        yield session_postgres


@pytest.fixture
def shared_stock_postgres(session_stock_postgres: Server) -> Iterator[Server]:
    with session_stock_postgres.in_use():
        yield session_stock_postgres


@pytest.fixture
def shared_echo_server(session_echo_server: Server) -> Iterator[Server]:
    with session_echo_server.in_use():
        yield session_echo_server


@pytest.fixture
def echo_server(shared_echo_server: Server) -> Iterator[Server]:
    """A running server without a provider key, so that its only provider is `echo`."""
    yield shared_echo_server
    shared_echo_server.assert_no_traceback()


@pytest.fixture(params=EVERY_DATABASE)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server that calls `upstream`. A test that uses it runs on SQLite and on PostgreSQL."""
    running: Server = request.getfixturevalue(f"shared_{request.param}")
    yield running
    running.assert_no_traceback()


@pytest.fixture(scope="session")
def upstream_port() -> Iterator[ReservedPort]:
    """The port at which `short_timeout_server` expects its upstream. Nothing listens there unless a test does."""
    port = ReservedPort()
    yield port
    port.free()


@pytest.fixture(scope="session")
def session_short_timeout_server(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream_port: ReservedPort
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    url = new_sqlite(folder, migrated_file)
    base_url = f"http://127.0.0.1:{upstream_port.number}/v1"
    settings = {"OPENAI_BASE_URL": base_url, "TIMEOUT_SECONDS": "1"} | SHARED_SETTINGS
    yield from _run(Server(url, folder, settings))


@pytest.fixture
def shared_short_timeout_server(session_short_timeout_server: Server) -> Iterator[Server]:
    with session_short_timeout_server.in_use():
        yield session_short_timeout_server


@pytest.fixture
def short_timeout_server(shared_short_timeout_server: Server) -> Iterator[Server]:
    """A running server that waits one second for the provider at `upstream_port`."""
    yield shared_short_timeout_server
    shared_short_timeout_server.assert_no_traceback()


@pytest.fixture(scope="session")
def session_all_wires_sqlite(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("all_wires")
    url = new_sqlite(folder, migrated_file)
    yield from _run_all_wires(url, folder, upstream)


@pytest.fixture(scope="session")
def session_all_wires_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_postgres_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_postgres_server)
    yield from _run_all_wires(url, tmp_path_factory.mktemp("all_wires"), upstream)


@pytest.fixture(scope="session")
def session_all_wires_stock_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_stock_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_stock_server)
    yield from _run_all_wires(url, tmp_path_factory.mktemp("all_wires"), upstream)


@pytest.fixture
def all_wires_sqlite(session_all_wires_sqlite: Server) -> Iterator[Server]:
    with session_all_wires_sqlite.in_use():
        yield session_all_wires_sqlite


@pytest.fixture
def all_wires_postgres(session_all_wires_postgres: Server) -> Iterator[Server]:
    with session_all_wires_postgres.in_use():
        yield session_all_wires_postgres


@pytest.fixture
def all_wires_stock_postgres(session_all_wires_stock_postgres: Server) -> Iterator[Server]:
    with session_all_wires_stock_postgres.in_use():
        yield session_all_wires_stock_postgres


@pytest.fixture(params=EVERY_DATABASE)
def all_wires_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server with `upstream` as a provider on each wire: see `support.provider_wires`."""
    running: Server = request.getfixturevalue(f"all_wires_{request.param}")
    yield running
    running.assert_no_traceback()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that only this test uses, not started: `make_server(database_url, NAME=value)`."""
    servers: list[Server] = []

    def make(database_url: str, name: str = "server", **settings: str) -> Server:
        folder = tmp_path / name
        folder.mkdir()
        servers.append(Server(database_url, folder, settings))
        return servers[-1]

    yield make
    for server in servers:
        server.free()


@pytest.fixture
def short_deadline_server(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream, tmp_path: Path
) -> Iterator[Server]:
    """A server like `all_wires_server` but with short deadlines, not started, that calls `own_upstream`."""
    unused_port = ReservedPort()
    yield make_server(database_url, **write_catalog(tmp_path, own_upstream, unused_port), **SHORT_DEADLINES)
    unused_port.free()


def _run(server: Server) -> Iterator[Server]:
    try:
        yield server.start().rest()
        server.stop()
    finally:
        server.free()


def _run_all_wires(url: str, folder: Path, upstream: Upstream) -> Iterator[Server]:
    """Yields a started server. At the end, no hold is open and `ledger verify` finds no error."""
    unused_port = ReservedPort()
    server = Server(url, folder, write_catalog(folder, upstream, unused_port))
    try:
        yield server.start().rest()
        with server.in_use():
            assert "open holds: 0\n" in server.command("ledger", "verify")
        server.stop()
    finally:
        server.free()
        unused_port.free()
