"""Someone at the keyboard: runs commands in this process, on one database, and reads what they print."""

import asyncio
import io
import os
import pwd
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import structlog
import typer
from sqlalchemy import text

from tollkeeper.cli.commands import app as tollkeeper
from tollkeeper.cli.runner import run
from tollkeeper.db import Database

PASSWORD = b"correct horse battery\n"
ME = pwd.getpwuid(os.getuid()).pw_name


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


class Keyboard:
    """Types commands; `url` is the database they work on."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("TOLLKEEPER_DATABASE_URL", url)
        monkeypatch.setenv("TOLLKEEPER_BCRYPT_ROUNDS", "4")
        self.url = url
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def type(self, *words: str, stdin: bytes = b"", app: typer.Typer = tollkeeper, name: str = "tollkeeper") -> Said:
        """Run a command, with this on its standard input."""
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capsys.readouterr()
        try:
            code = run(app, name, words)
        finally:
            structlog.reset_defaults()
        return Said(code, *self._capsys.readouterr())

    def do(self, *words: str, stdin: bytes = b"") -> str:
        """Run a command that must succeed, in silence on standard error. Returns what it printed."""
        said = self.type(*words, stdin=stdin)
        assert (said.code, said.err) == (0, ""), said
        return said.out

    def refused(self, *words: str, stdin: bytes = b"") -> str:
        """Run a command that must fail with one sentence and exit code 2. Returns the sentence."""
        return one_sentence(self.type(*words, stdin=stdin))

    def rows(self, statement: str) -> Sequence[Any]:
        """What the database says."""

        async def read() -> Sequence[Any]:
            database = Database(self.url)
            async with database.session() as session:
                found = await (await session.connection()).execute(text(statement))
                rows = found.all() if found.returns_rows else []
            await database.close()
            return rows

        return asyncio.run(read())

    def people(self) -> None:
        """A tenant `acme` with the users ada and bob, and a tenant `void` without any."""
        self.do("tenant", "create", "acme")
        self.do("tenant", "create", "void")
        for name in ("ada", "bob"):
            email = f"{name}@example.com"
            self.do("user", "create", email, "--tenant", "acme", "--password-stdin", stdin=PASSWORD)


def one_sentence(said: Said) -> str:
    """The one sentence of a command that failed, without the command's name."""
    assert said.code == 2, said
    assert said.out == ""
    name, _, sentence = said.err.partition(": ")
    assert name in ("tollkeeper", "adjust_quota"), said
    assert sentence.endswith("\n")
    assert sentence.count("\n") == 1, said
    assert "Traceback" not in sentence
    return sentence.removesuffix("\n")
