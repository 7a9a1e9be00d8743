"""A server with a provider of every kind, and a new caller with clients."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream
from support.databases import new_sqlite

CATALOG = """
[providers.echo]
kind = "echo"

[models.echo]
provider = "echo"

[models.at-anthropic]
provider = "anthropic"
model = "claude-3-5-haiku-20241022"
aliases = ["claude"]

[models.at-openai]
provider = "openai"
model = "gpt-4.1-mini"
"""


@pytest.fixture(scope="session")
def shared_sdk_server(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    yield from _run(tmp_path_factory.mktemp("sdk_server"), migrated_file, upstream)


@pytest.fixture(scope="session")
def shared_sdk_short_timeout(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    yield from _run(tmp_path_factory.mktemp("sdk_short_timeout_server"), migrated_file, upstream, TIMEOUT_SECONDS="1")


@pytest.fixture
def sdk_server(shared_sdk_server: Server) -> Iterator[Server]:
    """A running server on SQLite. `upstream` serves OpenAI's and Anthropic's models; there is an `echo` model too."""
    with shared_sdk_server.in_use():
        yield shared_sdk_server
    shared_sdk_server.assert_no_traceback()


@pytest.fixture
def sdk_short_timeout_server(shared_sdk_short_timeout: Server) -> Iterator[Server]:
    """The same, but with a timeout of one second for its providers."""
    with shared_sdk_short_timeout.in_use():
        yield shared_sdk_short_timeout
    shared_sdk_short_timeout.assert_no_traceback()


@pytest.fixture
async def caller(sdk_server: Server) -> AsyncIterator[ApiUser]:
    async with new_user(sdk_server) as user:
        yield user


@pytest.fixture
async def openai(sdk_server: Server, caller: ApiUser) -> AsyncIterator[AsyncOpenAI]:
    """The client of `caller`, with no option but the server's URL and the credential."""
    async with AsyncOpenAI(base_url=f"{sdk_server.url}/v1", api_key=caller.token) as client:
        yield client


def _run(folder: Path, migrated_file: Path, upstream: Upstream, **more: str) -> Iterator[Server]:
    url = new_sqlite(folder, migrated_file)
    (folder / "catalog.toml").write_text(CATALOG)
    settings = {
        "OPENAI_BASE_URL": upstream.base_url,
        "ANTHROPIC_API_KEY": "sk-ant-of-the-operator",
        "ANTHROPIC_BASE_URL": upstream.anthropic_url,
        "TOLLKEEPER_CATALOG": str(folder / "catalog.toml"),
        "TOLLKEEPER_RATE_LIMIT_AI": "off",
    }
    server = Server(url, folder, settings | more)
    try:
        yield server.start().rest()
        server.stop()
    finally:
        server.free()
