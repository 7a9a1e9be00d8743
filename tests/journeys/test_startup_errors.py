"""What must not start does not: one clear sentence, exit code 2, no traceback, and never a value that is a secret."""

import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journeys.support.processes import Program, ReservedPort, clean_environment
from tollkeeper.settings import EXAMPLE_SECRET

GOOD_SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-journeys"
REFUSED = 2

Start = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path) -> Iterator[Start]:
    """Run a command that must refuse; the one sentence that it says."""
    programs: list[Program] = []

    def run(*arguments: str, **settings: str) -> str:
        folder = tmp_path / "home"
        folder.mkdir(exist_ok=True)
        environment = clean_environment({"TOLLKEEPER_PORT": str(port.number)} | settings)
        output = tmp_path / f"{len(programs)}.out"
        program = Program(("tollkeeper", *arguments), environment=environment, folder=folder, output=output)
        programs.append(program)
        assert program.wait_for_end() == REFUSED, program.output
        lines = program.output.splitlines()
        assert len(lines) == 1, program.output
        assert lines[0].startswith("tollkeeper: ")
        return lines[0].removeprefix("tollkeeper: ")

    port = ReservedPort()
    yield run
    port.free()
    for program in programs:
        if program.running:
            program.kill()


def test_on_a_port_that_is_taken(refusal: Start, sqlite_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal("serve", "--port", str(port), TOLLKEEPER_DATABASE_URL=sqlite_url)
    assert f"Port {port} is in use" in said


@pytest.mark.exhaustive
def test_on_an_address_that_is_not_ours(refusal: Start, sqlite_url: str) -> None:
    said = refusal(
        "serve",
        "--host",
        "192.0.2.1",
        TOLLKEEPER_DATABASE_URL=sqlite_url,
        TOLLKEEPER_SIGNING_SECRET=GOOD_SECRET,
    )
    assert "192.0.2.1" in said


@pytest.mark.parametrize(
    "command", [("migrate",), pytest.param(("serve", "--first-run"), marks=pytest.mark.exhaustive)]
)
def test_in_a_folder_that_cannot_be_written(refusal: Start, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A file stands where the folder should be, which stops even an administrator."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").write_text("in the way")
    said = refusal(*command)
    assert "cannot be" in said
    assert "data" in said


def test_without_a_schema(refusal: Start, tmp_path: Path) -> None:
    assert "tollkeeper migrate" in refusal("serve", TOLLKEEPER_DATABASE_URL=f"sqlite:///{tmp_path / 'new.db'}")


def test_on_a_schema_that_is_behind(refusal: Start, sqlite_url: str) -> None:
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()
    said = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url)
    assert "0000" in said
    assert "tollkeeper migrate" in said


@pytest.mark.exhaustive
def test_without_a_schema_on_postgresql(refusal: Start, postgres_server: str) -> None:
    said = refusal("serve", TOLLKEEPER_DATABASE_URL=postgres_server, TOLLKEEPER_SIGNING_SECRET=GOOD_SECRET)
    assert "tollkeeper migrate" in said


@pytest.mark.exhaustive
def test_without_a_database_server(refusal: Start) -> None:
    url = "postgresql://someone:tell-nobody@127.0.0.1:1/tollkeeper"
    for command in ("serve", "migrate"):
        said = refusal(command, TOLLKEEPER_DATABASE_URL=url, TOLLKEEPER_SIGNING_SECRET=GOOD_SECRET)
        assert "cannot be" in said
        assert "tell-nobody" not in said


@pytest.mark.exhaustive
def test_without_a_secret_where_others_can_reach_it(refusal: Start, sqlite_url: str, postgres_url: str) -> None:
    for arguments, url in ((("--host", "0.0.0.0"), sqlite_url), ((), postgres_url)):
        said = refusal("serve", *arguments, TOLLKEEPER_DATABASE_URL=url)
        assert "TOLLKEEPER_SIGNING_SECRET is missing" in said
        assert "openssl rand -hex 32" in said


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("short", id="short"),
        pytest.param(EXAMPLE_SECRET, id="the example", marks=pytest.mark.exhaustive),
        pytest.param("a" * 64, id="all alike", marks=pytest.mark.exhaustive),
    ],
)
def test_with_a_secret_that_is_weak(refusal: Start, sqlite_url: str, secret: str) -> None:
    said = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url, TOLLKEEPER_SIGNING_SECRET=secret)
    assert "TOLLKEEPER_SIGNING_SECRET is weak" in said
    assert secret not in said


BAD_SETTINGS = {
    "TOLLKEEPER_PORT": "70000",
    "TOLLKEEPER_LEASE_SECONDS": "nan",
    "TOLLKEEPER_RATE_LIMIT_AI": "lots/fortnight",
    "TIMEOUT_SECONDS": "-1",
    "MAX_TOKENS": "many",
}


@pytest.mark.parametrize(
    ("catalog", "place"),
    [
        ('[providers.groq]\nkind = "openai"\napi_key = "tell-nobody"', "providers.groq.api_key: there is no such"),
        ('[providers.groq]\nkind = "openai"\napi_key_env = "tell_nobody"', "providers.groq.api_key_env: that variable"),
        ('default = "tell-nobody"', "default: there is no such model"),
        ('default = "tell-nobody', "not valid TOML"),
    ],
)
def test_with_a_catalog_that_is_wrong(
    refusal: Start, sqlite_url: str, tmp_path: Path, catalog: str, place: str
) -> None:
    (tmp_path / "catalog.toml").write_text(catalog)
    said = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url, TOLLKEEPER_CATALOG=str(tmp_path / "catalog.toml"))
    assert place in said
    assert "nobody" not in said


@pytest.mark.exhaustive
def test_with_a_database_it_does_not_speak(refusal: Start) -> None:
    said = refusal("serve", TOLLKEEPER_DATABASE_URL="mysql://someone:tell-nobody@host/db")
    assert "TOLLKEEPER_DATABASE_URL" in said
    assert "tell-nobody" not in said


def test_with_settings_that_are_wrong_it_names_each_and_no_value(refusal: Start) -> None:
    said = refusal("serve", **BAD_SETTINGS)
    for name, value in BAD_SETTINGS.items():
        assert name in said, name
        assert value not in said
