"""`scripts/adjust_quota.py` changes one quota at once, several only with `--yes`, and all of them or none."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from support.command_runner import SYSTEM_USER, CommandResult, CommandRunner, error_sentence
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.prove_only_on_postgres

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "adjust_quota.py"
ENTRIES = (
    "SELECT users.email, windows.ends_ms IS NULL AS total, entries.kind, entries.granted, actor, reason FROM entries"
    " JOIN windows ON windows.id = window_id JOIN quotas ON quotas.id = quota_id"
    " LEFT JOIN users ON users.id = quotas.user_id WHERE entries.kind <> 'open'"
    " ORDER BY coalesce(users.email, ''), entries.window_id, entries.sequence"
)
ACTOR = f"adjust_quota:{SYSTEM_USER}"
HEADER = "email,tenant,action,window,limit,tokens,reason\n"


def load_script() -> typer.Typer:
    spec = importlib.util.spec_from_file_location("adjust_quota", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: typer.Typer = module.app
    return app


APP = load_script()


class Script:
    """Runs the script in a folder of its own, on a database with the users ada and bob of the tenant acme."""

    def __init__(self, runner: CommandRunner, folder: Path) -> None:
        self.runner = runner
        self.folder = folder

    def invoke(self, *arguments: str) -> CommandResult:
        return self.runner.invoke(*arguments, app=APP, name="adjust_quota")

    def run(self, *arguments: str) -> str:
        result = self.invoke(*arguments)
        assert (result.code, result.err) == (0, ""), result
        return result.out

    def fail(self, *arguments: str) -> str:
        return error_sentence(self.invoke(*arguments))

    def write_file(self, content: str | bytes) -> str:
        path = self.folder / "changes.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def entries(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.runner.query(ENTRIES)]


@pytest.fixture
def script(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Script:
    monkeypatch.chdir(tmp_path)
    runner = CommandRunner(database_url, monkeypatch, capsys)
    runner.create_users()
    return Script(runner, tmp_path)


def test_the_quota_of_one_user_is_changed_at_once(script: Script) -> None:
    output = script.run(
        "set", "--user", "ada@example.com", "--window", "total", "--limit", "500", "--reason", "a start"
    )
    assert "ada@example.com  total   tokens  set 500       none          500  a start" in output
    assert output.endswith("Written: 1 change.\n")
    script.run("grant", "--user", "ada@example.com", "--tokens", "20", "--reason", "a little more")
    assert script.entries() == [
        ("ada@example.com", True, "limit", 500, ACTOR, "a start"),
        ("ada@example.com", True, "grant", 20, ACTOR, "a little more"),
    ]


def test_a_dry_run_of_one_change_writes_nothing(script: Script) -> None:
    arguments = ("set", "--tenant", "acme", "--window", "total", "--limit", "500", "--reason", "a start")
    assert script.run(*arguments, "--dry-run").endswith("Dry run: nothing written; add --yes to apply (1 change).\n")
    assert script.entries() == []
    script.run(*arguments)
    assert script.entries() == [(None, True, "limit", 500, ACTOR, "a start")]


def test_the_quotas_of_all_members_are_changed_only_with_yes(script: Script) -> None:
    arguments = ("set", "--members-of", "acme", "--window", "total", "--limit", "500", "--reason", "all alike")
    preview = script.run(*arguments)
    assert preview.count("all alike") == 2
    assert preview.endswith("Dry run: nothing written; add --yes to apply (2 changes).\n")
    assert script.entries() == []
    assert script.run(*arguments, "--yes").endswith("Written: 2 changes.\n")
    assert script.entries() == [
        ("ada@example.com", True, "limit", 500, ACTOR, "all alike"),
        ("bob@example.com", True, "limit", 500, ACTOR, "all alike"),
    ]


def test_a_grant_to_all_members_writes_nothing_if_one_has_no_such_quota(script: Script) -> None:
    script.run("set", "--user", "ada@example.com", "--window", "total", "--limit", "500", "--reason", "a start")
    before = script.entries()
    arguments = ("grant", "--members-of", "acme", "--tokens", "5", "--reason", "x", "--yes")
    assert script.fail(*arguments) == "bob@example.com has no token quota yet: name the window."
    assert script.entries() == before


def test_a_file_is_previewed_first_and_written_completely_with_yes(script: Script) -> None:
    script.run("set", "--user", "ada@example.com", "--window", "total", "--limit", "100", "--reason", "a start")
    path = script.write_file(
        "\ufeffreason,Email,tenant,action,window,limit,tokens,unit\r\n"
        '"new, and big",Ada@example.com,,set,,900,,\r\n'
        "\r\n"
        "shared,,acme,set,total,1000000,,usd\r\n"
        "first day,bob@example.com,,set,total,0,,tokens\r\n"
    )
    preview = script.run("--csv", path)
    lines = [line.split() for line in preview.splitlines()]
    assert lines[1][:8] == ["2", "ada@example.com", "total", "tokens", "set", "900", "100", "900"]
    assert lines[2][:9] == ["4", "tenant", "acme", "total", "micro-USD", "set", "1,000,000", "none", "1,000,000"]
    assert lines[3][:8] == ["5", "bob@example.com", "total", "tokens", "set", "0", "none", "0"]
    assert preview.endswith("Dry run: nothing written; add --yes to apply (3 changes).\n")
    assert len(script.entries()) == 1
    script.run("--csv", path, "--yes")
    assert script.entries() == [
        (None, True, "limit", 1_000_000, ACTOR, "shared"),
        ("ada@example.com", True, "limit", 100, ACTOR, "a start"),
        ("ada@example.com", True, "limit", 800, ACTOR, "new, and big"),
        ("bob@example.com", True, "limit", 0, ACTOR, "first day"),
    ]
    sources = script.runner.query("SELECT DISTINCT source_id FROM entries WHERE reason <> 'a start'")
    assert len(sources) == 1


def test_options_supply_the_columns_that_a_file_does_not_have(script: Script) -> None:
    path = script.write_file("email,limit\nada@example.com,5\nbob@example.com,6\n")
    script.run("set", "--csv", path, "--window", "total", "--reason", "as agreed", "--yes")
    assert script.entries() == [
        ("ada@example.com", True, "limit", 5, ACTOR, "as agreed"),
        ("bob@example.com", True, "limit", 6, ACTOR, "as agreed"),
    ]


def test_every_invalid_line_of_a_file_is_reported_and_nothing_is_written(script: Script) -> None:
    script.run("set", "--user", "ada@example.com", "--window", "total", "--limit", "100", "--reason", "a start")
    before = script.entries()
    path = script.write_file(
        HEADER
        + "ada@example.com,,set,total,5,,good\n"
        + "nobody@example.com,,set,total,5,,x\n"
        + "ada@example.com,,set,year,5,,x\n"
        + "ada@example.com,,set,day,-5,,x\n"
        + "ada@example.com,,grant,total,,0,x\n"
        + "ada@example.com,,grant,total,5,,x\n"
        + "ada@example.com,,take,total,,5,x\n"
        + "ada@example.com,,set,day,5,,\n"
        + ",,set,day,5,,x\n"
        + "ada@example.com,acme,set,day,5,,x\n"
        + ",nobody,set,day,5,,x\n"
        + "bob@example.com,,grant,day,,5,x\n"
        + "ada@example.com,,,day,5,,x\n"
        + "ada@example.com,,set,day,5\n"
    )
    result = script.invoke("--csv", path, "--yes")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        f"adjust_quota: {sentence}"
        for sentence in (
            "line 3: There is no user with the e-mail address nobody@example.com.",
            "line 4: Unknown window 'year'. Choose minute, hour, day, week, month or total.",
            "line 5: The column limit must be a whole number from 0 to 1000000000000000, not '-5'.",
            "line 6: The column tokens must be a whole number from 1 to 1000000000000000, not '0'.",
            "line 7: The action grant needs a number in the column tokens and none in limit.",
            "line 8: Unknown action 'take'. Choose set or grant.",
            "line 9: The reason is missing. Add one to the line, or use --reason for all lines.",
            "line 10: Give either an email or a tenant, not both.",
            "line 11: Give either an email or a tenant, not both.",
            "line 12: There is no tenant named nobody.",
            "line 13: bob@example.com has no quota for the day window to grant to: set a limit first.",
            "line 14: The action is missing. Specify set or grant.",
            "line 15: The line has 5 cells, but the header has 7 columns.",
            "Nothing was written: 13 changes are invalid.",
        )
    ]
    assert script.entries() == before


def test_a_file_that_names_a_quota_twice_is_refused(script: Script) -> None:
    path = script.write_file(
        HEADER + "ada@example.com,,set,day,5,,x\n,acme,set,day,5,,x\nADA@example.com,,set,day,6,,y\n"
    )
    assert script.fail("--csv", path, "--yes") == "line 4: This changes the same quota as line 2."
    assert script.entries() == []


def test_an_unusable_file_is_reported_in_one_sentence(script: Script) -> None:
    columns = "email, tenant, action, window, limit, tokens, unit, reason"
    for content, sentence in (
        ("", f"The first line must name columns. Valid names are {columns}."),
        ("email;limit\n", f"The first line must name columns. Valid names are {columns}, not 'email;limit'."),
        ("email,limit,email\n", "The first line names a column twice."),
        ("email,limit\n\n", f"The file {script.folder}/changes.csv contains no changes."),
        ('email,limit\n"ada', "line 2: this is not valid CSV (unexpected end of data)."),
        (b"\xff\xfe", f"The file {script.folder}/changes.csv is not UTF-8 text."),
        ("x" * 5_000_000, f"The file {script.folder}/changes.csv is larger than 4 MiB."),
    ):
        assert script.fail("set", "--csv", script.write_file(content), "--reason", "x") == sentence
    path = f"{script.folder}/none.csv"
    assert script.fail("--csv", path) == f"The file {path} cannot be read: No such file or directory."
    assert script.fail("--csv", str(script.folder)).endswith("cannot be read: Is a directory.")


def test_invalid_options_are_reported_in_one_sentence_and_write_nothing(script: Script) -> None:
    target_error = "Specify exactly one of --user, --members-of, --tenant and --csv."
    ada = "--user ada@example.com"
    for arguments, sentence in (
        ("show", target_error),
        ("show --user ada@example.com --tenant acme", target_error),
        (f"show {ada} --limit 5", "show accepts only --user, --members-of or --tenant."),
        (f"take {ada}", "Unknown action 'take'. Choose set or grant."),
        (f"{ada} --limit 5 --reason x", "The action is missing. Specify show, set or grant."),
        (f"set {ada} --limit 5", "The reason is missing. Add --reason: it is recorded in the ledger."),
        (f"set {ada} --tokens 5 --reason x", "set needs --limit and does not accept --tokens."),
        (f"grant {ada} --tokens 5 --limit 5 --reason x", "grant needs --tokens and does not accept --limit."),
        (f"set {ada} --limit -5 --reason x", "--limit must be a whole number from 0 to 1000000000000000, not '-5'."),
        (f"set {ada} --limit 5 --reason x", "ada@example.com has no token quota yet: name the window."),
        (
            f"set {ada} --limit 5 --reason x --window year",
            "Unknown window 'year'. Choose minute, hour, day, week, month or total.",
        ),
        ("show --user nobody@example.com", "There is no user with the e-mail address nobody@example.com."),
        ("show --members-of nobody", "There is no tenant named nobody."),
        ("show --members-of void", "The tenant void has no users."),
        ("set --csv x.csv --limit 5", "--csv does not accept --limit or --tokens: the file contains the amounts."),
        ("set --all", "No such option: --all"),
    ):
        assert script.fail(*arguments.split(" ")) == sentence
    assert script.entries() == []


def test_more_than_the_maximum_of_changes_are_refused(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(APP.registered_commands[0].callback.__globals__, "MAX_CHANGES", 1)  # type: ignore[union-attr]
    arguments = ("set", "--members-of", "acme", "--window", "day", "--limit", "5", "--reason", "x", "--yes")
    assert script.fail(*arguments) == "There are 2 changes. The maximum of one operation is 1."
    assert script.entries() == []


def test_show_lists_the_balances_of_members(script: Script) -> None:
    script.run("set", "--user", "ada@example.com", "--window", "total", "--limit", "500", "--reason", "a start")
    lines = [line.split() for line in script.run("show", "--members-of", "acme").splitlines()]
    assert lines[1] == ["ada@example.com", "total", "tokens", "500", "0", "0", "500", "never", "block"]
    assert lines[2] == ["bob@example.com", "none"]
    assert "tenant acme  none" in script.run("show", "--tenant", "acme")


def test_help_lists_the_columns_of_the_file(script: Script) -> None:
    assert "email,tenant,action,window,limit,tokens,reason" in script.run("--help")


def test_the_script_runs_as_a_program(script: Script) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--csv",
        script.write_file(HEADER + "ada@example.com,,set,total,5,,x\n"),
        "--yes",
    ]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=False)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert script.entries() == [("ada@example.com", True, "limit", 5, ACTOR, "x")]
