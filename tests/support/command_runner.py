"""Runs commands in this process on one database, like typer's CliRunner, and returns what they print."""

import asyncio
import io
import os
import pwd
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import typer
from sqlalchemy import text

from support.plain_logs import print_plain_logs
from tollkeeper.cli.commands import app as tollkeeper
from tollkeeper.cli.runner import run
from tollkeeper.database.engine import Database

DATA_KEY = "9a8b7c6d5e4f30211203f4e5d6c7b8a9-commands"
PASSWORD = b"correct horse battery\n"
SYSTEM_USER = pwd.getpwuid(os.getuid()).pw_name


class CommandResult(NamedTuple):
    """The exit code of a command, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str


class CommandRunner:
    """Runs commands; `url` is the database that they use."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("TOLLKEEPER_DATABASE_URL", url)
        monkeypatch.setenv("TOLLKEEPER_BCRYPT_ROUNDS", "4")
        monkeypatch.setenv("TOLLKEEPER_DATA_KEY", DATA_KEY)
        self.url = url
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def invoke(
        self, *arguments: str, stdin: bytes = b"", app: typer.Typer = tollkeeper, name: str = "tollkeeper"
    ) -> CommandResult:
        """Run a command with `stdin` as its standard input."""
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capsys.readouterr()
        try:
            code = run(app, name, arguments)
        finally:
            print_plain_logs()
        return CommandResult(code, *self._capsys.readouterr())

    def run(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run a command that must succeed and write nothing to standard error. Returns its standard output."""
        result = self.invoke(*arguments, stdin=stdin)
        assert (result.code, result.err) == (0, ""), result
        return result.out

    def fail(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run a command that must fail with one sentence and exit code 2. Returns the sentence."""
        return error_sentence(self.invoke(*arguments, stdin=stdin))

    def query(self, statement: str) -> Sequence[Any]:
        """Execute a statement on the database. Returns its rows, if it has any."""

        async def execute() -> Sequence[Any]:
            database = Database(self.url)
            async with database.session() as session:
                result = await (await session.connection()).execute(text(statement))
                rows = result.all() if result.returns_rows else []
            await database.close()
            return rows

        return asyncio.run(execute())

    def create_users(self) -> None:
        """Create the tenant `acme` with the users ada and bob, and the tenant `void` without users."""
        self.run("tenant", "create", "acme")
        self.run("tenant", "create", "void")
        for name in ("ada", "bob"):
            email = f"{name}@example.com"
            self.run("user", "create", email, "--tenant", "acme", "--password-stdin", stdin=PASSWORD)


def error_sentence(result: CommandResult) -> str:
    """The one sentence of a command that failed, without the command's name."""
    assert result.code == 2, result
    assert result.out == ""
    name, _, sentence = result.err.partition(": ")
    assert name in ("tollkeeper", "adjust_quota"), result
    assert sentence.endswith("\n")
    assert sentence.count("\n") == 1, result
    assert "Traceback" not in sentence
    return sentence.removesuffix("\n")
