"""Which modules a command loads: a start takes as long as its imports."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_runner import CommandRunner
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.cli.commands import app

SERVER = {"aiohttp", "fastapi", "jose", "slowapi", "starlette", "uvicorn"}
TOOLS = {"alembic", "anthropic", "bpe_openai", "genai_prices", "openai"}
SELDOM = {"aiohttp", "joserfc", "sqlalchemy.dialects.postgresql"}
DATABASE = {"asyncpg", "sqlalchemy", "sqlmodel"}
LIST_MODULES = """
import json, sys
from pathlib import Path
from tollkeeper.cli import main

try:
    main()
finally:
    has_tokenizer = "/bpe_openai/" in Path("/proc/self/maps").read_text()  # which is loaded without its package
    print(json.dumps([*sys.modules, *["bpe_openai"] * has_tokenizer]), file=sys.stderr)
"""
SERVE_NOTHING = """
import uvicorn

uvicorn.Server.run = lambda self, sockets: self.config.load()
"""


def modules_of(*arguments: str, before: str = "") -> set[str]:
    """The modules that a command loads in an interpreter of its own. It must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", before + LIST_MODULES, *arguments],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def database(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLKEEPER_DATABASE_URL", sqlite_url)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"]])
def test_the_help_loads_neither_server_nor_database_nor_settings(arguments: list[str]) -> None:
    assert not modules_of(*arguments) & (SERVER | TOOLS | DATABASE | {"asyncio", "pydantic_settings", "structlog"})


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("arguments", [["tenant", "list"], ["user", "list"], ["ledger", "verify"]])
def test_a_command_on_sqlite_loads_neither_server_nor_driver_of_postgresql(arguments: list[str]) -> None:
    loaded = modules_of(*arguments)
    assert "sqlmodel" in loaded
    assert not loaded & (SERVER | TOOLS | {"asyncpg", "limits", "structlog"})


@pytest.mark.usefixtures("database")
def test_migrate_loads_neither_alembic_nor_the_orm_when_the_schema_is_up_to_date() -> None:
    assert not modules_of("migrate") & (SERVER | TOOLS | DATABASE)


@pytest.mark.usefixtures("database")
def test_models_loads_no_web_framework_and_no_database() -> None:
    assert not modules_of("models") & ({"fastapi", "uvicorn", "alembic", "openai"} | DATABASE)


@pytest.mark.usefixtures("database")
def test_the_server_loads_no_tokenizer_no_prices_and_no_sdk_until_a_call_needs_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    loaded = modules_of("serve", "--port", str(port), before=SERVE_NOTHING)
    assert loaded >= {"fastapi", "uvicorn"}
    assert not loaded & (TOOLS | SELDOM | {"asyncpg", "typer.rich_utils", "markdown_it", "google.protobuf"})


def test_the_help_of_the_root_says_of_each_command_what_its_own_help_says(runner: CommandRunner) -> None:
    for command in vars(app.info.cls)["lazy_commands"]:
        loaded = command.load()
        assert (loaded.name, loaded.get_short_help_str(200)) == (command.name, command.get_short_help_str(200))


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("tollkeeper le", ["ledger"]),
        ("tollkeeper ledger ", ["verify", "recover", "reconcile"]),
        ("tollkeeper serve --fi", ["--first-run"]),
        ("tollkeeper user imp", ["import"]),
    ],
)
def test_a_shell_completes_the_commands_of_every_group(words: str, completions: list[str]) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("tollkeeper")],
        env={"_TOLLKEEPER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=True,
    )
    assert done.stdout.split() == completions
