"""A server with a provider of every kind, and the clients of a new caller."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from databases import new_sqlite
from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream

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
def shared_house(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Iterator[Server]:
    yield from _serving(tmp_path_factory.mktemp("house"), migrated_file, upstream)


@pytest.fixture(scope="session")
def shared_hasty(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Iterator[Server]:
    yield from _serving(tmp_path_factory.mktemp("hasty"), migrated_file, upstream, TIMEOUT_SECONDS="1")


@pytest.fixture
def house(shared_house: Server) -> Iterator[Server]:
    """A running server on SQLite. OpenAI's and Anthropic's models are at `upstream`, and `echo` is there too."""
    yield shared_house
    shared_house.assert_quiet()


@pytest.fixture
def hasty(shared_hasty: Server) -> Iterator[Server]:
    """The same, but it waits for its providers for one second only."""
    yield shared_hasty
    shared_hasty.assert_quiet()


@pytest.fixture
async def caller(house: Server) -> AsyncIterator[Person]:
    async with person(house) as made:
        yield made


@pytest.fixture
async def openai(house: Server, caller: Person) -> AsyncIterator[AsyncOpenAI]:
    """The client of `caller`, with nothing set but where the server is and who is calling."""
    async with AsyncOpenAI(base_url=f"{house.url}/v1", api_key=caller.token) as client:
        yield client


def _serving(folder: Path, migrated_file: Path, upstream: Upstream, **more: str) -> Iterator[Server]:
    url = new_sqlite(folder, migrated_file)
    (folder / "catalog.toml").write_text(CATALOG)
    settings = {
        "OPENAI_BASE_URL": upstream.base_url,
        "ANTHROPIC_API_KEY": "sk-ant-of-the-house",
        "ANTHROPIC_BASE_URL": upstream.anthropic_url,
        "TOLLKEEPER_CATALOG": str(folder / "catalog.toml"),
        "TOLLKEEPER_RATE_LIMIT_AI": "off",
    }
    server = Server(url, folder, settings | more)
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()
