"""One upstream per worker, one server per worker and database in front of it, and new people for each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from databases import EVERY_DATABASE, new_postgres, new_sqlite
from journeys.support.processes import ReservedPort
from journeys.support.provider_wires import HASTY, write_catalog
from journeys.support.server import Server
from journeys.upstream.handle import Upstream
from postgres_servers import SharedPostgres

FASTER = {"TOLLKEEPER_RATE_LIMIT_AI": "100000/minute", "TOLLKEEPER_BREAKER_FAILURES": "0"}
"""The failures of one test must not keep those of the next from reaching the upstream."""


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """The upstream that the shared servers ask."""
    running = Upstream(tmp_path_factory.mktemp("upstream"))
    yield running
    running.stop()


@pytest.fixture
def own_upstream(tmp_path: Path) -> Iterator[Upstream]:
    """An upstream whose log is this test's alone."""
    running = Upstream(tmp_path)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def shared_sqlite(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    url = new_sqlite(folder, migrated_file)
    yield from _serving(Server(url, folder, {"OPENAI_BASE_URL": upstream.base_url} | FASTER))


@pytest.fixture(scope="session")
def shared_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_postgres_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_postgres_server)
    settings = {"OPENAI_BASE_URL": upstream.base_url} | FASTER
    yield from _serving(Server(url, tmp_path_factory.mktemp("server"), settings))


@pytest.fixture(scope="session")
def shared_stock_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_stock_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_stock_server)
    settings = {"OPENAI_BASE_URL": upstream.base_url} | FASTER
    yield from _serving(Server(url, tmp_path_factory.mktemp("server"), settings))


@pytest.fixture(scope="session")
def shared_echoing(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    url = new_sqlite(folder, migrated_file)
    yield from _serving(Server(url, folder, {"OPENAI_API_KEY": ""}))


@pytest.fixture
def echoing(shared_echoing: Server) -> Iterator[Server]:
    """A running server without a key: `echo` answers."""
    yield shared_echoing
    shared_echoing.assert_quiet()


@pytest.fixture(params=EVERY_DATABASE)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server in front of `upstream`: each test that asks runs on SQLite and on PostgreSQL."""
    running: Server = request.getfixturevalue(f"shared_{request.param}")
    yield running
    running.assert_quiet()


@pytest.fixture(scope="session")
def upstream_line() -> Iterator[ReservedPort]:
    """Where `impatient` looks for its upstream. Nobody listens there, unless a test does."""
    port = ReservedPort()
    yield port
    port.free()


@pytest.fixture(scope="session")
def shared_impatient(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream_line: ReservedPort
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    url = new_sqlite(folder, migrated_file)
    base_url = f"http://127.0.0.1:{upstream_line.number}/v1"
    settings = {"OPENAI_BASE_URL": base_url, "TIMEOUT_SECONDS": "1"} | FASTER
    yield from _serving(Server(url, folder, settings))


@pytest.fixture
def impatient(shared_impatient: Server) -> Iterator[Server]:
    """A running server that waits for one second for whoever is at `upstream_line`."""
    yield shared_impatient
    shared_impatient.assert_quiet()


@pytest.fixture(scope="session")
def doors_sqlite(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("doors")
    url = new_sqlite(folder, migrated_file)
    yield from _serving_on_many_wires(url, folder, upstream)


@pytest.fixture(scope="session")
def doors_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_postgres_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_postgres_server)
    yield from _serving_on_many_wires(url, tmp_path_factory.mktemp("doors"), upstream)


@pytest.fixture(scope="session")
def doors_stock_postgres(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, shared_stock_server: SharedPostgres
) -> Iterator[Server]:
    url = new_postgres(shared_stock_server)
    yield from _serving_on_many_wires(url, tmp_path_factory.mktemp("doors"), upstream)


@pytest.fixture(params=EVERY_DATABASE)
def doors(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server to which `upstream` is a provider on each wire: see `many_wires`."""
    running: Server = request.getfixturevalue(f"doors_{request.param}")
    yield running
    running.assert_quiet()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of the test's own, not started: `make_server(database_url, NAME=value)`."""
    made: list[Server] = []

    def make(database_url: str, name: str = "server", **settings: str) -> Server:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Server(database_url, folder, settings))
        return made[-1]

    yield make
    for one in made:
        one.free()


@pytest.fixture
def hasty_doors(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream, tmp_path: Path
) -> Iterator[Server]:
    """A server of the test's own, not started, like `doors` but with short deadlines, in front of `own_upstream`."""
    nobody = ReservedPort()
    yield make_server(database_url, "doors", **write_catalog(tmp_path, own_upstream, nobody), **HASTY)
    nobody.free()


def _serving(server: Server) -> Iterator[Server]:
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


def _serving_on_many_wires(url: str, folder: Path, upstream: Upstream) -> Iterator[Server]:
    """In the end nothing is left open, and the books are right."""
    nobody = ReservedPort()
    server = Server(url, folder, write_catalog(folder, upstream, nobody))
    try:
        yield server.start()
        assert "open holds: 0\nClean:" in server.command("ledger", "verify")
        server.stop()
    finally:
        server.free()
        nobody.free()
