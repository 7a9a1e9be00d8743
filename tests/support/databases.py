"""Databases for tests: migrated, empty, and each test's own.

SQLite: one file is migrated per process, and each test gets a copy. PostgreSQL: all workers of a run share servers, and
each test gets a migrated, empty database: see `support.reused_postgres`.
"""

import asyncio
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browsers import share_browser, stop_browser
from support.depth import DEPTH
from support.postgres_servers import (
    STOCK_IS_MISSING,
    SharedPostgres,
    execute,
    find_stock,
    on_database,
    share_stock,
    share_wheel,
    stop_all,
)
from support.reused_postgres import ReusedDatabases
from tollkeeper.database.engine import Database
from tollkeeper.database.migrations import migrate

STOCK = "stock_postgres"
EVERY_POSTGRES = ("postgres", pytest.param(STOCK, marks=pytest.mark.exhaustive))
EVERY_DATABASE = ("sqlite", *EVERY_POSTGRES)
"""For fixtures' params. Tests run on stock PostgreSQL only where their module is marked `stock_postgres`."""

WORKERS_PER_SERVER = 4
"""With default settings a PostgreSQL serves 100 connections."""

_run_folder = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[_run_folder] = Path(worker["run_folder"])
        return
    config.stash[_run_folder] = Path(tempfile.mkdtemp(prefix="tk-run-"))
    config.stash[_run_folder].chmod(0o755)  # PostgreSQL does not run as root
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the servers are stopped then, too


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: many tests wait for a process, a lease or a limit."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the folder on to a worker of pytest-xdist."""
    node.workerinput["run_folder"] = str(node.config.stash[_run_folder])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers, after all workers have ended."""
    if hasattr(config, "workerinput") or _run_folder not in config.stash:
        return
    stop_all(config.stash[_run_folder])
    stop_browser(config.stash[_run_folder] / "browser")
    shutil.rmtree(config.stash[_run_folder], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop the tests on stock PostgreSQL from modules that are not marked `stock_postgres`, and mark as `exhaustive` or
    `prove_only` what is so on PostgreSQL only. Where DEPTH says so, drop from the wheel's what runs on stock.
    """
    dropped = {item for item in items if _is_on(item, STOCK) and item.get_closest_marker(STOCK) is None}
    if DEPTH.one_postgres and ("TEST_STOCK_POSTGRES_URL" in os.environ or find_stock() is not None):
        on_stock = {item.nodeid.replace(STOCK, "postgres") for item in items if _is_on(item, STOCK)}
        one = {
            item for item in items if item.nodeid in on_stock and item.get_closest_marker("postgres_versions") is None
        }
        dropped |= {item for item in one if item.get_closest_marker(STOCK) is not None}
    config.hook.pytest_deselected(items=list(dropped))
    items[:] = [item for item in items if item not in dropped]
    for item in items:
        if _is_on(item, "postgres") and item.get_closest_marker("exhaustive_on_postgres") is not None:
            item.add_marker("exhaustive")
        if (_is_on(item, "postgres") or _is_on(item, STOCK)) and _is_for_proofs(item):
            item.add_marker("prove_only")


def _is_for_proofs(item: pytest.Item) -> bool:
    """Whether a mark `prove_only_on_postgres` applies: it names the tests of a module that it does not apply to."""
    marks = list(item.iter_markers("prove_only_on_postgres"))
    return any(getattr(item, "originalname", item.name) not in mark.kwargs.get("but", ()) for mark in marks)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many tests did not run because stock PostgreSQL is missing."""
    reports = [*terminalreporter.stats.get("skipped", ()), *terminalreporter.stats.get("error", ())]
    missing = sum(STOCK_IS_MISSING in str(report.longrepr) for report in reports)
    if missing:
        line = f"WARNING: {STOCK_IS_MISSING}: {missing} tests did not run; apt-get install postgresql"
        terminalreporter.write_line(line, red=True, bold=True)


def _is_on(item: pytest.Item, database: str) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and database in callspec.params.values()


@pytest.fixture(scope="session")
def shared_postgres_server(pytestconfig: pytest.Config) -> SharedPostgres:
    return share_wheel(_folder_of(pytestconfig, "wheel"))


@pytest.fixture(scope="session")
def shared_stock_server(pytestconfig: pytest.Config) -> SharedPostgres:
    return share_stock(_folder_of(pytestconfig, "stock"))


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config) -> str:
    """The URL of the driver of the browser that all workers share."""
    return share_browser(pytestconfig.stash[_run_folder] / "browser")


def _folder_of(config: pytest.Config, kind: str) -> Path:
    """The folder of the server that this worker shares with others."""
    worker: dict[str, Any] = getattr(config, "workerinput", {"workerid": "gw0"})
    number = int(worker["workerid"].removeprefix("gw"))
    return config.stash[_run_folder] / f"{kind}-{number // WORKERS_PER_SERVER}"


@pytest.fixture(scope="session")
def postgres_server(shared_postgres_server: SharedPostgres) -> str:
    """The URL of a real PostgreSQL: the one named by TEST_POSTGRES_URL, else one started from its wheel."""
    return shared_postgres_server.url


@pytest.fixture(scope="session")
def migrated_template(shared_postgres_server: SharedPostgres) -> str:
    """The name of a migrated PostgreSQL database, to make others from."""
    return shared_postgres_server.template


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, closed, to make others from."""
    path = tmp_path_factory.mktemp("template") / "tollkeeper.db"
    migrate(f"sqlite:///{path}")
    assert [each.name for each in path.parent.iterdir()] == [path.name], "its log is not part of it yet"
    return path


@pytest.fixture(params=EVERY_DATABASE)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database: each test that asks runs on SQLite and on PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_file: Path) -> str:
    return new_sqlite(tmp_path, migrated_file)


@pytest.fixture(scope="session")
def postgres_databases(shared_postgres_server: SharedPostgres) -> Iterator[ReusedDatabases]:
    databases = ReusedDatabases(shared_postgres_server, drops=True)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def stock_postgres_databases(shared_stock_server: SharedPostgres) -> Iterator[ReusedDatabases]:
    """Those of a server of ours are deleted with it, which takes less time."""
    databases = ReusedDatabases(shared_stock_server, drops="TEST_STOCK_POSTGRES_URL" in os.environ)
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(postgres_databases: ReusedDatabases) -> Iterator[str]:
    url = postgres_databases.take()
    yield url
    postgres_databases.give_back(url)


@pytest.fixture
def stock_postgres_url(stock_postgres_databases: ReusedDatabases) -> Iterator[str]:
    """On PostgreSQL as Debian installs it, with its default settings."""
    url = stock_postgres_databases.take()
    yield url
    stock_postgres_databases.give_back(url)


@pytest.fixture(params=EVERY_POSTGRES)
def any_postgres_url(request: pytest.FixtureRequest) -> str:
    """A database on each kind of PostgreSQL: for tests of what only PostgreSQL does."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    yield made
    await made.close()


def new_sqlite(folder: Path, migrated: Path) -> str:
    """The URL of a migrated, empty database in a folder."""
    path = folder / "tollkeeper.db"
    shutil.copyfile(migrated, path)
    return f"sqlite:///{path}"


def new_postgres(server: SharedPostgres) -> str:
    """The URL of a migrated, empty database on a server."""
    name = f"test_{uuid.uuid4().hex}"
    asyncio.run(execute(server.url, f'CREATE DATABASE "{name}" TEMPLATE "{server.template}"'))
    return on_database(server.url, name)


def make_read_only(path: Path) -> None:
    """Mark an SQLite file as one that this version of SQLite can only read: by the version in its header.

    Unlike the mode of a file, that stops root, too.
    """
    with path.open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")
