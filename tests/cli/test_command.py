"""`tollkeeper ledger verify`, commands beside a running server, unusable databases, and the installed command."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.command_runner import SYSTEM_USER, CommandRunner
from support.deadlines import TEST_DEADLINE_S
from support.factories import make_store, make_terms
from tollkeeper import __version__
from tollkeeper.chat import Usage
from tollkeeper.cli.context import actor_name
from tollkeeper.database.engine import SCHEMA_REVISION
from tollkeeper.errors import TollkeeperError
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.audit.verify import BLIND_SPOTS
from tollkeeper.quota.ledger import Ledger

TOLLKEEPER = Path(sys.executable).with_name("tollkeeper")
CTRL_C_AT_AN_IMPORT = """
import os, sys

class InterruptingFinder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_IMPORT"]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, InterruptingFinder())
"""
"""A `sitecustomize` module: Ctrl-C interrupts the process while it imports the module in INTERRUPTED_IMPORT."""
ADA = Principal(1, 1, Role.MEMBER, 0)
COMMANDS = (
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
    "quota requests",
    "quota approve 1",
    "quota decline 1 --reason x",
    "ledger verify",
)


def assert_every_command_fails(runner: CommandRunner, sentence: str) -> None:
    for command in COMMANDS:
        assert runner.fail(*command.split(" "), stdin=b"a password, long enough") == sentence


def test_verify_reports_a_correct_ledger_and_its_open_holds(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "1000", "--window", "day")

    async def leave_one_charge_open() -> None:
        ledger = Ledger(make_store(acme.url), lease_seconds=60)
        ledger.start()
        async with ledger.reservation(ADA, make_terms()) as reservation:
            reservation.set_usage(Usage(1, 101))
        await ledger.reservation(ADA, make_terms()).__aenter__()
        await ledger.stop()

    asyncio.run(leave_one_charge_open())
    assert acme.run("ledger", "verify").splitlines() == [
        "windows: 1",
        "entries: 5",
        "charges: 2",
        "overruns: 1",
        "open holds: 1",
        "Not visible to this command:",
        *(f"  - {spot}" for spot in BLIND_SPOTS),
        "Clean: balances and costs follow from entries and usage, and no call exceeded or skipped a quota.",
    ]
    acme.query("UPDATE charges SET lease_ms = 0 WHERE closed_ms IS NULL")
    assert "open holds: 1 (1 past their lease)" in acme.run("ledger", "verify")


def test_verify_lists_the_errors_and_exits_with_1(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "1000", "--window", "day")
    acme.query("UPDATE windows SET settled = 5")
    result = acme.invoke("ledger", "verify")
    assert result.code == 1
    assert result.out.splitlines()[0] == "WRONG  window 1: settled is 5, its entries add up to 0"
    assert "Clean" not in result.out
    assert result.err == "tollkeeper: The ledger is wrong. Problems: 1\n"


def test_verify_since_a_mark_says_what_it_has_read(acme: CommandRunner, tmp_path: Path) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "1000", "--window", "day")
    mark = str(tmp_path / "mark")
    assert acme.run("ledger", "verify", "--since", mark).splitlines()[:2] == ["windows: 1", "entries: 2"]
    acme.run("quota", "grant", "ada@example.com", "--tokens", "5", "--reason", "more", "--window", "day")
    again = acme.run("ledger", "verify", "--since", mark).splitlines()
    assert re.fullmatch(r"Written since the last verification, which began at [-0-9]{10} [:0-9]{8} UTC:", again[0])
    assert again[1:3] == ["windows: 1", "entries: 1"]
    assert "  - changes of what was written before, except of the balances of windows" in again
    Path(mark).write_text("no mark, but a text", "utf-8")
    assert acme.fail("ledger", "verify", "--since", mark) == (
        f"{mark} cannot be used: it is not the mark of a verification."
    )


def test_every_command_works_beside_a_running_ledger(acme: CommandRunner) -> None:
    """Another thread makes calls on its own ledger while commands change quotas, users and charges."""
    acme.run("quota", "set", "ada@example.com", "--limit", "100000", "--window", "day")
    acme.run("quota", "set", "--tenant", "acme", "--limit", "100000", "--window", "total")
    stopping, charge_ids = threading.Event(), list[str]()

    async def make_calls(ledger: Ledger) -> None:
        while not stopping.is_set():
            async with ledger.reservation(ADA, make_terms()) as reservation:
                await asyncio.sleep(0.005)
                reservation.set_usage(Usage(1, 1))
            charge_ids.append(reservation.charge_id)

    async def run_ledger() -> None:
        ledger = Ledger(make_store(acme.url), lease_seconds=60)
        ledger.start()
        try:
            await asyncio.gather(*(make_calls(ledger) for _ in range(4)))
        finally:
            await ledger.stop()

    failures: list[TollkeeperError] = []

    def run_server() -> None:
        try:
            asyncio.run(run_ledger())
        except TollkeeperError as error:
            failures.append(error)

    server = threading.Thread(target=run_server)
    server.start()
    try:
        for number in range(2):
            acme.run("quota", "grant", "ada@example.com", "--tokens", "10", "--reason", "more")
            acme.run("quota", "set", "--tenant", "acme", "--limit", str(200_000 + number))
            acme.run("user", "disable", "bob@example.com")
            acme.run("quota", "show", "ada@example.com")
            acme.run("quota", "refund", charge_ids[-1], "--reason", "sorry")
            acme.run("quota", "explain", charge_ids[-1])
            acme.run("tenant", "create", f"tenant {number}")
            assert "Clean" in acme.run("ledger", "verify")
    finally:
        stopping.set()
        server.join()
    assert failures == []
    balance = acme.run("quota", "show", "ada@example.com").splitlines()[1].split()
    assert balance[3:6] == ["100,020", f"{(len(charge_ids) - 2) * 2:,}", "0"]
    assert "open holds: 0" in acme.run("ledger", "verify")


def test_an_older_schema_is_refused(acme: CommandRunner) -> None:
    acme.query("UPDATE alembic_version SET version_num = '0000'")
    assert_every_command_fails(
        acme,
        f"The database schema is at 0000, this version needs {SCHEMA_REVISION}. Bring it up with: tollkeeper migrate",
    )


def test_a_missing_database_file_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.db"
    runner = CommandRunner(f"sqlite:///{path}", monkeypatch, capsys)
    assert_every_command_fails(
        runner, f"No database at {path}. Create it with: tollkeeper migrate. Or set TOLLKEEPER_DATABASE_URL."
    )
    assert not path.exists()


def test_an_empty_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.db").touch()
    runner = CommandRunner(f"sqlite:///{tmp_path / 'empty.db'}", monkeypatch, capsys)
    sentence = f"The database {tmp_path / 'empty.db'} has no schema yet. Create it with: tollkeeper migrate"
    assert_every_command_fails(runner, sentence)


def test_the_path_of_a_missing_database_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CommandRunner("sqlite:///data/none.db", monkeypatch, capsys)
    assert f"No database at {tmp_path}/data/none.db." in runner.fail("user", "list")
    assert f"No database at {tmp_path}/data/none.db." in runner.fail("serve")
    assert list(tmp_path.iterdir()) == []


def test_a_setting_without_effect_is_a_warning_of_every_command(
    acme: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLKEEPER_DATABASE_ULR", "sqlite:///other.db")
    result = acme.invoke("user", "list")
    assert result.code == 0
    assert result.err == ("Warning: TOLLKEEPER_DATABASE_ULR is not a setting. Did you mean TOLLKEEPER_DATABASE_URL?\n")


@pytest.mark.parametrize("command", ["", "serve", "migrate", "models", "user", "user import", "quota show", "key list"])
def test_the_short_option_shows_the_help_of_every_command(runner: CommandRunner, command: str) -> None:
    arguments = command.split()
    assert "--help" in runner.run(*arguments, "-h")
    assert runner.run(*arguments, "-h") == runner.run(*arguments, "--help")


def test_the_help_shows_the_defaults_of_host_and_port(runner: CommandRunner) -> None:
    words = " ".join(runner.run("serve", "-h").split())
    assert "TOLLKEEPER_HOST" in words
    assert "TOLLKEEPER_PORT" in words


def test_the_version_is_printed(runner: CommandRunner) -> None:
    assert runner.run("--version") == f"tollkeeper {__version__}\n"


def test_completion_can_be_installed(runner: CommandRunner) -> None:
    assert "--install-completion" in runner.run("-h")


def test_an_unreachable_database_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = CommandRunner("postgresql://me:secret@127.0.0.1:1/none", monkeypatch, capsys)
    for command in COMMANDS:
        sentence = runner.fail(*command.split(" "), stdin=b"a password, long enough")
        assert sentence.startswith("The database cannot be opened: ")
        assert "secret" not in sentence


def test_a_url_of_an_unsupported_database_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = CommandRunner("mysql://me:secret@localhost/none", monkeypatch, capsys)
    sentence = runner.fail("user", "list")
    assert "TOLLKEEPER_DATABASE_URL must begin with sqlite:/// or postgresql://" in sentence
    assert "secret" not in sentence


def test_a_missing_table_is_reported_in_one_sentence(acme: CommandRunner) -> None:
    acme.query("ALTER TABLE entries RENAME TO lines")
    assert acme.fail("ledger", "verify").startswith("The database reported an error: ")


def test_a_group_without_a_command_prints_its_help(acme: CommandRunner) -> None:
    result = acme.invoke("quota")
    assert result.code == 2
    assert "tollkeeper quota [OPTIONS] COMMAND" in result.out + result.err
    assert "tollkeeper: " not in result.err


def test_the_actor_is_the_systems_user_or_the_id_of_one_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setenv("LOGNAME", "mallory")
    assert actor_name("cli") == f"cli:{SYSTEM_USER}"
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert actor_name("cli") == "cli:54321"


@pytest.mark.exhaustive_on_postgres
def test_the_installed_command_works(acme: CommandRunner, tmp_path: Path) -> None:
    """In a process of its own, with its output in pipes."""

    def tollkeeper(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TOLLKEEPER, *arguments], capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=False, cwd=tmp_path
        )

    assert tollkeeper("quota", "set", "ada@example.com", "--limit", "700", "--window", "day").returncode == 0
    failed = tollkeeper("quota", "grant", "ada@example.com", "--tokens", "-5", "--reason", "x")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "tollkeeper: --tokens must be a whole number from 1 to 1000000000000000, not '-5'.\n"
    verified = tollkeeper("ledger", "verify")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "open holds: 0" in verified.stdout
    assert "700" in acme.run("quota", "show", "ada@example.com")


@pytest.mark.parametrize(
    ("argument", "imported"),
    [
        ("--help", "tollkeeper.cli.commands"),
        ("--help", "typer"),
        ("serve", "tollkeeper.bootstrap.application"),
        ("serve", "fastapi"),
    ],
)
@pytest.mark.parametrize("command", [[TOLLKEEPER], [sys.executable, "-m", "tollkeeper"]], ids=["command", "module"])
def test_ctrl_c_during_an_import_exits_with_130_and_no_output(
    command: list[str], argument: str, imported: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CTRL_C_AT_AN_IMPORT)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "INTERRUPTED_IMPORT": imported}
    done = subprocess.run(
        [*command, argument],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
