"""`scripts/adjust_quota.py`: one quota at once, many only when told to, all or none; each an entry with its reason."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.keyboard import ME, Keyboard, Said, one_sentence
from patience import PATIENCE_S

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "adjust_quota.py"
ENTRIES = (
    "SELECT users.email, windows.ends_ms IS NULL AS total, kind, entries.granted, actor, reason FROM entries"
    " JOIN windows ON windows.id = window_id JOIN quotas ON quotas.id = quota_id"
    " LEFT JOIN users ON users.id = quotas.user_id WHERE kind <> 'open'"
    " ORDER BY coalesce(users.email, ''), entries.window_id, entries.sequence"
)
ACTOR = f"adjust_quota:{ME}"
HEADER = "email,tenant,action,window,limit,tokens,reason\n"


def load() -> typer.Typer:
    spec = importlib.util.spec_from_file_location("adjust_quota", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: typer.Typer = module.app
    return app


APP = load()


class Script:
    """The script at a keyboard, in a folder of its own, with acme's ada and bob in the database."""

    def __init__(self, keyboard: Keyboard, folder: Path) -> None:
        self.keyboard = keyboard
        self.folder = folder

    def run(self, *words: str) -> Said:
        return self.keyboard.type(*words, app=APP, name="adjust_quota")

    def do(self, *words: str) -> str:
        said = self.run(*words)
        assert (said.code, said.err) == (0, ""), said
        return said.out

    def refused(self, *words: str) -> str:
        return one_sentence(self.run(*words))

    def file(self, content: str | bytes) -> str:
        path = self.folder / "changes.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def entries(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.keyboard.rows(ENTRIES)]


@pytest.fixture
def script(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Script:
    monkeypatch.chdir(tmp_path)
    keyboard = Keyboard(database_url, monkeypatch, capsys)
    keyboard.people()
    return Script(keyboard, tmp_path)


def test_one_user_is_changed_at_once(script: Script) -> None:
    said = script.do("set", "--user", "ada@example.com", "--window", "total", "--limit", "500", "--reason", "a start")
    assert "ada@example.com  total   tokens  set 500       none          500  a start" in said
    assert said.endswith("Written: 1 change.\n")
    script.do("grant", "--user", "ada@example.com", "--tokens", "20", "--reason", "a little more")
    assert script.entries() == [
        ("ada@example.com", True, "limit", 500, ACTOR, "a start"),
        ("ada@example.com", True, "grant", 20, ACTOR, "a little more"),
    ]


def test_a_single_change_can_be_tried_first(script: Script) -> None:
    words = ("set", "--tenant", "acme", "--window", "total", "--limit", "500", "--reason", "a start")
    assert script.do(*words, "--dry-run").endswith("Dry run: nothing written; add --yes to apply (1 change).\n")
    assert script.entries() == []
    script.do(*words)
    assert script.entries() == [(None, True, "limit", 500, ACTOR, "a start")]


def test_every_member_of_a_tenant_is_changed_only_with_yes(script: Script) -> None:
    words = ("set", "--members-of", "acme", "--window", "total", "--limit", "500", "--reason", "all alike")
    tried = script.do(*words)
    assert tried.count("all alike") == 2
    assert tried.endswith("Dry run: nothing written; add --yes to apply (2 changes).\n")
    assert script.entries() == []
    assert script.do(*words, "--yes").endswith("Written: 2 changes.\n")
    assert script.entries() == [
        ("ada@example.com", True, "limit", 500, ACTOR, "all alike"),
        ("bob@example.com", True, "limit", 500, ACTOR, "all alike"),
    ]


def test_a_grant_to_all_members_fails_whole_when_one_has_no_such_quota(script: Script) -> None:
    script.do("set", "--user", "ada@example.com", "--window", "total", "--limit", "500", "--reason", "a start")
    before = script.entries()
    words = ("grant", "--members-of", "acme", "--tokens", "5", "--reason", "x", "--yes")
    assert script.refused(*words) == "bob@example.com has no token quota yet: name the window."
    assert script.entries() == before


def test_a_file_is_shown_first_and_made_whole_with_yes(script: Script) -> None:
    script.do("set", "--user", "ada@example.com", "--window", "total", "--limit", "100", "--reason", "a start")
    path = script.file(
        "\ufeffreason,Email,tenant,action,window,limit,tokens,unit\r\n"
        '"new, and big",Ada@example.com,,set,,900,,\r\n'
        "\r\n"
        "shared,,acme,set,total,1000000,,usd\r\n"
        "first day,bob@example.com,,set,total,0,,tokens\r\n"
    )
    tried = script.do("--csv", path)
    lines = [line.split() for line in tried.splitlines()]
    assert lines[1][:8] == ["2", "ada@example.com", "total", "tokens", "set", "900", "100", "900"]
    assert lines[2][:9] == ["4", "tenant", "acme", "total", "micro-USD", "set", "1,000,000", "none", "1,000,000"]
    assert lines[3][:8] == ["5", "bob@example.com", "total", "tokens", "set", "0", "none", "0"]
    assert tried.endswith("Dry run: nothing written; add --yes to apply (3 changes).\n")
    assert len(script.entries()) == 1
    script.do("--csv", path, "--yes")
    assert script.entries() == [
        (None, True, "limit", 1_000_000, ACTOR, "shared"),
        ("ada@example.com", True, "limit", 100, ACTOR, "a start"),
        ("ada@example.com", True, "limit", 800, ACTOR, "new, and big"),
        ("bob@example.com", True, "limit", 0, ACTOR, "first day"),
    ]
    sources = script.keyboard.rows("SELECT DISTINCT source_id FROM entries WHERE reason <> 'a start'")
    assert len(sources) == 1


def test_options_fill_in_what_a_file_leaves_out(script: Script) -> None:
    path = script.file("email,limit\nada@example.com,5\nbob@example.com,6\n")
    script.do("set", "--csv", path, "--window", "total", "--reason", "as agreed", "--yes")
    assert script.entries() == [
        ("ada@example.com", True, "limit", 5, ACTOR, "as agreed"),
        ("bob@example.com", True, "limit", 6, ACTOR, "as agreed"),
    ]


def test_every_wrong_line_of_a_file_is_told_and_nothing_is_written(script: Script) -> None:
    script.do("set", "--user", "ada@example.com", "--window", "total", "--limit", "100", "--reason", "a start")
    before = script.entries()
    path = script.file(
        HEADER
        + "ada@example.com,,set,total,5,,good\n"
        + "nobody@example.com,,set,total,5,,x\n"
        + "ada@example.com,,set,week,5,,x\n"
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
    said = script.run("--csv", path, "--yes")
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines() == [
        f"adjust_quota: {sentence}"
        for sentence in (
            "line 3: There is no user with the e-mail address nobody@example.com.",
            "line 4: Unknown window 'week'. Choose minute, hour, day, month or total.",
            "line 5: The column limit must be a whole number from 0 to 1000000000000000, not '-5'.",
            "line 6: The column tokens must be a whole number from 1 to 1000000000000000, not '0'.",
            "line 7: The action grant needs a number in the column tokens and none in limit.",
            "line 8: Unknown action 'take'. Choose set or grant.",
            "line 9: The reason is missing. Add one to the line, or use --reason for all lines.",
            "line 10: Specify either an email or a tenant.",
            "line 11: Specify either an email or a tenant.",
            "line 12: There is no tenant named nobody.",
            "line 13: bob@example.com has no quota for the day window to grant to: set a limit first.",
            "line 14: The action is missing. Specify set or grant.",
            "line 15: The line has 5 cells, but the header has 7 columns.",
            "Nothing was written: 13 changes are invalid.",
        )
    ]
    assert script.entries() == before


def test_a_quota_named_twice_in_a_file_is_refused(script: Script) -> None:
    path = script.file(HEADER + "ada@example.com,,set,day,5,,x\n,acme,set,day,5,,x\nADA@example.com,,set,day,6,,y\n")
    assert script.refused("--csv", path, "--yes") == "line 4: This changes the same quota as line 2."
    assert script.entries() == []


def test_a_file_that_is_none_is_one_sentence(script: Script) -> None:
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
        assert script.refused("set", "--csv", script.file(content), "--reason", "x") == sentence
    path = f"{script.folder}/none.csv"
    assert script.refused("--csv", path) == f"The file {path} cannot be read: No such file or directory."
    assert script.refused("--csv", str(script.folder)).endswith("cannot be read: Is a directory.")


def test_a_mistake_in_the_options_is_one_sentence_and_writes_nothing(script: Script) -> None:
    whose = "Specify exactly one of --user, --members-of, --tenant and --csv."
    ada = "--user ada@example.com"
    for words, sentence in (
        ("show", whose),
        ("show --user ada@example.com --tenant acme", whose),
        (f"show {ada} --limit 5", "show accepts only --user, --members-of or --tenant."),
        (f"take {ada}", "Unknown action 'take'. Choose set or grant."),
        (f"{ada} --limit 5 --reason x", "The action is missing. Specify show, set or grant."),
        (f"set {ada} --limit 5", "The reason is missing. Add --reason: it is recorded in the ledger."),
        (f"set {ada} --tokens 5 --reason x", "set needs --limit and does not accept --tokens."),
        (f"grant {ada} --tokens 5 --limit 5 --reason x", "grant needs --tokens and does not accept --limit."),
        (f"set {ada} --limit -5 --reason x", "--limit must be a whole number from 0 to 1000000000000000, not '-5'."),
        (f"set {ada} --limit 5 --reason x", "ada@example.com has no token quota yet: name the window."),
        (
            f"set {ada} --limit 5 --reason x --window week",
            "Unknown window 'week'. Choose minute, hour, day, month or total.",
        ),
        ("show --user nobody@example.com", "There is no user with the e-mail address nobody@example.com."),
        ("show --members-of nobody", "There is no tenant named nobody."),
        ("show --members-of void", "The tenant void has no users."),
        ("set --csv x.csv --limit 5", "--csv does not accept --limit or --tokens: the file contains the amounts."),
        ("set --all", "No such option: --all"),
    ):
        assert script.refused(*words.split(" ")) == sentence
    assert script.entries() == []


def test_too_many_changes_at_once_are_refused(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(APP.registered_commands[0].callback.__globals__, "MAX_CHANGES", 1)  # type: ignore[union-attr]
    words = ("set", "--members-of", "acme", "--window", "day", "--limit", "5", "--reason", "x", "--yes")
    assert script.refused(*words) == "There are 2 changes. The maximum of one operation is 1."
    assert script.entries() == []


def test_show_tells_how_members_stand(script: Script) -> None:
    script.do("set", "--user", "ada@example.com", "--window", "total", "--limit", "500", "--reason", "a start")
    lines = [line.split() for line in script.do("show", "--members-of", "acme").splitlines()]
    assert lines[1] == ["ada@example.com", "total", "tokens", "500", "0", "0", "500", "never"]
    assert lines[2] == ["bob@example.com", "none"]
    assert "tenant acme  none" in script.do("show", "--tenant", "acme")


def test_help_explains_the_file(script: Script) -> None:
    assert "email,tenant,action,window,limit,tokens,reason" in script.do("--help")


def test_the_script_runs_by_itself(script: Script) -> None:
    words = [sys.executable, str(SCRIPT), "--csv", script.file(HEADER + "ada@example.com,,set,total,5,,x\n"), "--yes"]
    made = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    assert script.entries() == [("ada@example.com", True, "limit", 5, ACTOR, "x")]
