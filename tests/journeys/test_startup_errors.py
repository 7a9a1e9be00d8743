"""Commands that must not start print one clear sentence without a secret or traceback, and exit with 2."""

import asyncio
import socket
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from journeys.support.processes import Program, ReservedPort, clean_environment
from support.database_owner import url_of
from support.databases import make_read_only
from support.postgres_servers import execute
from tollkeeper.installation_secret import EXAMPLE, SIGNING_SECRET

GOOD_SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-journeys"
SECRETS = {"TOLLKEEPER_SIGNING_SECRET": GOOD_SECRET, "TOLLKEEPER_DATA_KEY": GOOD_SECRET}
EXIT_REFUSED = 2

Start = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path) -> Iterator[Start]:
    """Runs a command that must refuse to start. Returns the sentence that it prints."""
    programs: list[Program] = []

    def run(*arguments: str, **settings: str) -> str:
        folder = tmp_path / "home"
        folder.mkdir(exist_ok=True)
        environment = clean_environment({"TOLLKEEPER_PORT": str(port.number)} | settings)
        output = tmp_path / f"{len(programs)}.out"
        program = Program(("tollkeeper", *arguments), environment=environment, folder=folder, output=output)
        programs.append(program)
        assert program.wait_for_end() == EXIT_REFUSED, program.output
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


def test_serve_refuses_a_port_that_is_in_use(refusal: Start, sqlite_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refusal("serve", "--port", str(port), TOLLKEEPER_DATABASE_URL=sqlite_url)
    assert f"Port {port} is in use" in message


@pytest.mark.exhaustive
def test_serve_refuses_an_address_that_is_not_local(refusal: Start, sqlite_url: str) -> None:
    message = refusal(
        "serve",
        "--host",
        "192.0.2.1",
        TOLLKEEPER_DATABASE_URL=sqlite_url,
        **SECRETS,
    )
    assert "192.0.2.1" in message


@pytest.mark.parametrize(
    "command", [("migrate",), pytest.param(("serve", "--first-run"), marks=pytest.mark.exhaustive)]
)
def test_commands_refuse_a_folder_that_cannot_be_written(
    refusal: Start, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A file has the name of the folder, which stops even root."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").write_text("in the way")
    message = refusal(*command)
    assert "cannot be" in message
    assert "data" in message


def test_serve_refuses_a_database_without_a_schema(refusal: Start, tmp_path: Path) -> None:
    assert "tollkeeper migrate" in refusal("serve", TOLLKEEPER_DATABASE_URL=f"sqlite:///{tmp_path / 'new.db'}")


def test_serve_in_an_empty_folder_says_how_to_create_the_database(refusal: Start, tmp_path: Path) -> None:
    message = refusal("serve")
    assert f"No database at {tmp_path}/home/data/tollkeeper.db. Create it with: tollkeeper migrate." in message
    assert list((tmp_path / "home").iterdir()) == []


def test_serve_refuses_an_unreadable_file_with_the_secret(refusal: Start, sqlite_url: str) -> None:
    """A folder has its name, which stops even root."""
    secret = Path(sqlite_url.removeprefix("sqlite:///")).with_name(SIGNING_SECRET.file_name)
    secret.mkdir()
    message = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url)
    assert message == f"Cannot read the signing secret in {secret}: Is a directory."


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        (("--reload",), {}, "--reload"),
        ((), {"TOLLKEEPER_RATE_LIMIT_AI": "5/minute"}, "TOLLKEEPER_RATE_LIMIT_AI"),
    ],
)
def test_serve_refuses_several_workers_where_they_would_not_do_what_is_meant(
    refusal: Start, arguments: tuple[str, ...], settings: dict[str, str], named: str
) -> None:
    off = {f"TOLLKEEPER_RATE_LIMIT_{kind}": "off" for kind in ("LOGIN", "AI", "READS", "HANDSHAKES")}
    message = refusal("serve", "--workers", "2", *arguments, **(off | settings))
    assert named in message
    assert "--workers 1" in message


def test_serve_refuses_a_weak_secret_in_the_file_and_says_which_file(refusal: Start, sqlite_url: str) -> None:
    secret = Path(sqlite_url.removeprefix("sqlite:///")).with_name(SIGNING_SECRET.file_name)
    secret.write_text("tell-nobody")
    message = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url)
    assert message.startswith(f"The signing secret in {secret} is weak. Delete the file")
    assert "nobody" not in message


def test_serve_refuses_a_database_that_cannot_be_written_to(refusal: Start, sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    make_read_only(path)
    message = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url)
    assert message.startswith(f"The database {path} cannot be ")
    assert ": attempt to write a readonly database." in message


async def test_serve_refuses_a_postgresql_database_that_is_read_only(refusal: Start, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await connection.close()
    message = await asyncio.to_thread(refusal, "serve", TOLLKEEPER_DATABASE_URL=postgres_url, **SECRETS)
    assert message == "The database cannot be written to: it is read-only."


def test_serve_refuses_a_schema_of_an_older_version(refusal: Start, sqlite_url: str) -> None:
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()
    message = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url)
    assert "0000" in message
    assert "tollkeeper migrate" in message


@pytest.mark.exhaustive
def test_serve_refuses_a_postgresql_database_without_a_schema(refusal: Start, postgres_server: str) -> None:
    message = refusal("serve", TOLLKEEPER_DATABASE_URL=postgres_server, **SECRETS)
    assert "tollkeeper migrate" in message


@pytest.mark.exhaustive
def test_commands_refuse_a_database_server_that_cannot_be_reached(refusal: Start) -> None:
    url = "postgresql://someone:tell-nobody@127.0.0.1:1/tollkeeper"
    for command in ("serve", "migrate"):
        message = refusal(command, TOLLKEEPER_DATABASE_URL=url, **SECRETS)
        assert "cannot be" in message
        assert "tell-nobody" not in message


@pytest.mark.exhaustive
def test_serve_refuses_a_missing_secret_if_others_can_reach_the_server(
    refusal: Start, sqlite_url: str, postgres_url: str
) -> None:
    for arguments, url in ((("--host", "0.0.0.0"), sqlite_url), ((), postgres_url)):
        message = refusal("serve", *arguments, TOLLKEEPER_DATABASE_URL=url)
        assert "TOLLKEEPER_SIGNING_SECRET is missing" in message
        assert "openssl rand -hex 32" in message


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param("short", id="short"),
        pytest.param(EXAMPLE, id="the example", marks=pytest.mark.exhaustive),
        pytest.param("a" * 64, id="all alike", marks=pytest.mark.exhaustive),
    ],
)
def test_serve_refuses_a_weak_secret(refusal: Start, sqlite_url: str, secret: str) -> None:
    message = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url, TOLLKEEPER_SIGNING_SECRET=secret)
    assert "TOLLKEEPER_SIGNING_SECRET is weak" in message
    assert secret not in message


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
        (
            '[providers.groq]\nkind = "openai"\napi_key_env = "tell_nobody"',
            "The variable of the API key is not set (named by providers.groq.api_key_env)",
        ),
        ('default = "tell-nobody"', "default: there is no such model"),
        ('default = "tell-nobody', "not valid TOML"),
    ],
)
def test_serve_refuses_an_invalid_catalog(
    refusal: Start, sqlite_url: str, tmp_path: Path, catalog: str, place: str
) -> None:
    (tmp_path / "catalog.toml").write_text(catalog)
    message = refusal("serve", TOLLKEEPER_DATABASE_URL=sqlite_url, TOLLKEEPER_CATALOG=str(tmp_path / "catalog.toml"))
    assert place in message
    assert "nobody" not in message


@pytest.mark.exhaustive
def test_serve_refuses_an_unsupported_kind_of_database(refusal: Start) -> None:
    message = refusal("serve", TOLLKEEPER_DATABASE_URL="mysql://someone:tell-nobody@host/db")
    assert "TOLLKEEPER_DATABASE_URL" in message
    assert "tell-nobody" not in message


def test_serve_names_each_invalid_setting_without_its_value(refusal: Start) -> None:
    message = refusal("serve", **BAD_SETTINGS)
    for name, value in BAD_SETTINGS.items():
        assert name in message, name
        assert value not in message


async def test_serve_refuses_a_database_user_from_whom_rows_are_hidden(refusal: Start, postgres_url: str) -> None:
    """The ledger would miss charges, whose holds would stay for ever."""
    other = f"other_{uuid.uuid4().hex[:12]}"
    await execute(postgres_url, f"CREATE ROLE {other} LOGIN PASSWORD 'secret'")
    await execute(postgres_url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {other}")
    url = url_of(postgres_url, other)
    message = await asyncio.to_thread(refusal, "serve", TOLLKEEPER_DATABASE_URL=url, **SECRETS)
    assert "hides rows from its user by row-level security" in message
    await execute(postgres_url, f"DROP OWNED BY {other}; DROP ROLE {other}")
