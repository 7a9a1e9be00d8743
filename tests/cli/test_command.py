"""The command as a whole: the ledger's proof, work beside a running server, and every way not to get at a database."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cli.keyboard import ME, Keyboard
from factories import make_store, make_terms
from patience import PATIENCE_S
from tollkeeper.chat import Usage
from tollkeeper.cli.context import actor_name
from tollkeeper.db import SCHEMA_REVISION
from tollkeeper.errors import TollkeeperError
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger

TOLLKEEPER = Path(sys.executable).with_name("tollkeeper")
CTRL_C_AT_AN_IMPORT = """
import os, sys

class Hasty:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["HASTY"]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Hasty())
"""
"""What a process runs that Ctrl-C reaches while it imports the module that HASTY names."""
ADA = Principal(1, 1, Role.MEMBER, 0)
READING_AND_WRITING = (
    "tenant list",
    "tenant create new",
    "tenant disable acme",
    "user list",
    "user enable ada@example.com",
    "user password ada@example.com --password-stdin",
    "quota show ada@example.com",
    "quota set ada@example.com --limit 5 --window day",
    "quota grant ada@example.com --tokens 5 --reason x",
    "quota refund chg_1 --reason x",
    "quota explain chg_1",
    "ledger verify",
)


def every_command_is_refused(keyboard: Keyboard, sentence: str) -> None:
    for words in READING_AND_WRITING:
        assert keyboard.refused(*words.split(" "), stdin=b"a password, long enough") == sentence


def test_verify_reports_a_clean_ledger_and_its_open_holds(acme: Keyboard) -> None:
    acme.do("quota", "set", "ada@example.com", "--limit", "1000", "--window", "day")

    async def leave_one_open() -> None:
        ledger = Ledger(make_store(acme.url), lease_seconds=60)
        ledger.start()
        async with ledger.reservation(ADA, make_terms()) as reservation:
            reservation.set_usage(Usage(1, 101))
        await ledger.reservation(ADA, make_terms()).__aenter__()
        await ledger.stop()

    asyncio.run(leave_one_open())
    assert acme.do("ledger", "verify").splitlines() == [
        "windows: 1",
        "entries: 5",
        "charges: 2",
        "overruns: 1",
        "open holds: 1",
        "Clean: every balance is the sum of its entries, and no call was ever admitted above a quota.",
    ]
    acme.rows("UPDATE charges SET lease_ms = 0 WHERE closed_ms IS NULL")
    assert "open holds: 1 (1 past their lease)" in acme.do("ledger", "verify")


def test_verify_lists_what_is_wrong_and_fails_with_1(acme: Keyboard) -> None:
    acme.do("quota", "set", "ada@example.com", "--limit", "1000", "--window", "day")
    acme.rows("UPDATE windows SET settled = 5")
    said = acme.type("ledger", "verify")
    assert said.code == 1
    assert said.out.splitlines()[0] == "WRONG  window 1: settled is 5, its entries add up to 0"
    assert "Clean" not in said.out
    assert said.err == "tollkeeper: The ledger is wrong in 1 places.\n"


def test_every_command_works_beside_a_ledger_at_work(acme: Keyboard) -> None:
    """Calls go on in another thread, with a ledger of its own, while quotas, users and charges are worked on."""
    acme.do("quota", "set", "ada@example.com", "--limit", "100000", "--window", "day")
    acme.do("quota", "set", "--tenant", "acme", "--limit", "100000", "--window", "total")
    working, made = threading.Event(), list[str]()

    async def caller(ledger: Ledger) -> None:
        while not working.is_set():
            async with ledger.reservation(ADA, make_terms()) as reservation:
                await asyncio.sleep(0.005)
                reservation.set_usage(Usage(1, 1))
            made.append(reservation.charge_id)

    async def work() -> None:
        ledger = Ledger(make_store(acme.url), lease_seconds=60)
        ledger.start()
        try:
            await asyncio.gather(*(caller(ledger) for _ in range(4)))
        finally:
            await ledger.stop()

    failed: list[TollkeeperError] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except TollkeeperError as error:
            failed.append(error)

    server = threading.Thread(target=run)
    server.start()
    try:
        for number in range(2):
            acme.do("quota", "grant", "ada@example.com", "--tokens", "10", "--reason", "more")
            acme.do("quota", "set", "--tenant", "acme", "--limit", str(200_000 + number))
            acme.do("user", "disable", "bob@example.com")
            acme.do("quota", "show", "ada@example.com")
            acme.do("quota", "refund", made[-1], "--reason", "sorry")
            acme.do("quota", "explain", made[-1])
            acme.do("tenant", "create", f"tenant {number}")
            assert "Clean" in acme.do("ledger", "verify")
    finally:
        working.set()
        server.join()
    assert failed == []
    balance = acme.do("quota", "show", "ada@example.com").splitlines()[1].split()
    assert balance[3:6] == ["100,020", f"{(len(made) - 2) * 2:,}", "0"]
    assert "open holds: 0" in acme.do("ledger", "verify")


def test_a_schema_behind_the_code_is_refused(acme: Keyboard) -> None:
    acme.rows("UPDATE alembic_version SET version_num = '0000'")
    every_command_is_refused(
        acme,
        f"The database schema is at 0000, this version needs {SCHEMA_REVISION}. Bring it up with: tollkeeper migrate",
    )


def test_a_database_file_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.db"
    keyboard = Keyboard(f"sqlite:///{path}", monkeypatch, capsys)
    every_command_is_refused(keyboard, f"There is no database at {path}. Create it with: tollkeeper migrate")
    assert not path.exists()


def test_an_empty_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.db").touch()
    keyboard = Keyboard(f"sqlite:///{tmp_path / 'empty.db'}", monkeypatch, capsys)
    every_command_is_refused(keyboard, "The database has no schema yet. Create it with: tollkeeper migrate")


def test_a_database_that_does_not_answer_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard = Keyboard("postgresql://me:secret@127.0.0.1:1/none", monkeypatch, capsys)
    for words in READING_AND_WRITING:
        sentence = keyboard.refused(*words.split(" "), stdin=b"a password, long enough")
        assert sentence.startswith("The database cannot be opened: ")
        assert "secret" not in sentence


def test_a_url_of_no_database_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard = Keyboard("mysql://me:secret@localhost/none", monkeypatch, capsys)
    sentence = keyboard.refused("user", "list")
    assert "TOLLKEEPER_DATABASE_URL must be sqlite:///path or postgresql://" in sentence
    assert "secret" not in sentence


def test_a_table_that_is_gone_is_one_sentence(acme: Keyboard) -> None:
    acme.rows("DROP TABLE entries")
    assert acme.refused("ledger", "verify").startswith("The database reported an error: ")


def test_without_a_command_there_is_help(acme: Keyboard) -> None:
    said = acme.type("quota")
    assert said.code == 2
    assert "tollkeeper quota [OPTIONS] COMMAND" in said.out + said.err
    assert "tollkeeper: " not in said.err


def test_the_actor_is_the_system_s_user_even_if_nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setenv("LOGNAME", "mallory")
    assert actor_name("cli") == f"cli:{ME}"
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert actor_name("cli") == "cli:54321"


@pytest.mark.exhaustive_on_postgres
def test_the_installed_command_is_this_one(acme: Keyboard, tmp_path: Path) -> None:
    """A process of its own, through pipes."""

    def tollkeeper(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TOLLKEEPER, *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=tmp_path
        )

    assert tollkeeper("quota", "set", "ada@example.com", "--limit", "700", "--window", "day").returncode == 0
    wrong = tollkeeper("quota", "grant", "ada@example.com", "--tokens", "-5", "--reason", "x")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "tollkeeper: --tokens must be a whole number from 1 to 1000000000000000, not '-5'.\n"
    verified = tollkeeper("ledger", "verify")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "open holds: 0" in verified.stdout
    assert "700" in acme.do("quota", "show", "ada@example.com")


@pytest.mark.parametrize("imported", ["tollkeeper.cli.commands", "typer", "tollkeeper.bootstrap", "fastapi"])
@pytest.mark.parametrize("command", [[TOLLKEEPER], [sys.executable, "-m", "tollkeeper"]], ids=["command", "module"])
def test_ctrl_c_while_it_still_imports_ends_it_quietly(command: list[str], imported: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CTRL_C_AT_AN_IMPORT)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HASTY": imported}
    done = subprocess.run(
        [*command, "--help"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
