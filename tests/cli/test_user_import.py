"""`tollkeeper user import` creates the users of a CSV file, all or none."""

import csv
from pathlib import Path

import pytest

from cli.test_tenants_and_users import log_in
from support.command_runner import CommandRunner
from tollkeeper.cli import user_import
from tollkeeper.cli.csv_file import MAX_FILE_BYTES
from tollkeeper.identity import accounts

pytestmark = pytest.mark.prove_only_on_postgres

PASSPHRASE = "a long passphrase"


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "users.csv"
    path.write_text(text)
    return str(path)


def count_users(runner: CommandRunner) -> int:
    return len(runner.query("SELECT id FROM users"))


def test_the_users_can_log_in_with_their_passwords(acme: CommandRunner, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "email,role,password,tenant\n"
        f"Eve@Example.com,tenant_admin,{PASSPHRASE},\n\n"
        f'fay@example.com,,"  quoted, with spaces ",void\n',
    )
    assert acme.run("user", "import", file, "--tenant", "acme") == "2 users are created.\n"
    assert log_in(acme.url, "eve@example.com", PASSPHRASE).role == "tenant_admin"
    assert log_in(acme.url, "fay@example.com", "  quoted, with spaces ").role == "member"
    assert "fay@example.com  void    member" in acme.run("user", "list")


def test_generated_passwords_are_in_a_file_of_their_owner_and_nowhere_else(acme: CommandRunner, tmp_path: Path) -> None:
    file = write(tmp_path, f"email,tenant,password\neve@example.com,acme,\nfay@example.com,acme,{PASSPHRASE}\n")
    passwords = tmp_path / "passwords.csv"
    output = acme.run("user", "import", file, "--passwords", str(passwords))
    assert output.splitlines() == [
        "2 users are created.",
        f"The generated passwords are in {passwords}. Only your user can read the file.",
    ]
    assert passwords.stat().st_mode & 0o777 == 0o600
    (row,) = csv.DictReader(passwords.read_text().splitlines())
    assert row["email"] == "eve@example.com"
    assert row["password"] not in output
    log_in(acme.url, "eve@example.com", row["password"])


def test_every_problem_of_every_line_is_reported_and_no_user_is_created(acme: CommandRunner, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "email,tenant,role,password\n"
        f"ada@example.com,acme,,{PASSPHRASE}\n"
        "nobody,,boss,tell-nobody\n"
        f"eve@example.com,acme,,{PASSPHRASE}\n"
        f"EVE@example.com,nowhere,,{PASSPHRASE}\n"
        "gus@example.com,acme,,\n"
        "too,few\n",
    )
    result = acme.invoke("user", "import", file)
    assert result.code == 2
    assert result.err.splitlines() == [
        "tollkeeper: 1 line has no password. Add --passwords FILE to generate the missing ones.",
        "tollkeeper: line 2: There is a user with the e-mail address ada@example.com already.",
        "tollkeeper: line 3: 'nobody' is not an e-mail address."
        " The tenant is missing. Add it to the line, or use --tenant for all lines."
        " Unknown role 'boss'. Choose member, tenant_admin or operator."
        " A password needs at least 12 characters.",
        "tollkeeper: line 5: Line 4 has the same e-mail address. There is no tenant named nowhere.",
        "tollkeeper: line 7: The line has 2 cells, but the header has 4 columns.",
        "tollkeeper: No user was created.",
    ]
    assert "tell-nobody" not in result.err + result.out
    assert count_users(acme) == 2


def test_of_many_problems_the_first_are_shown_and_the_others_counted(acme: CommandRunner, tmp_path: Path) -> None:
    file = write(tmp_path, "email\n" + "nobody\n" * 500)
    lines = acme.invoke("user", "import", file, "--tenant", "acme", "--passwords", "p").err.splitlines()
    assert len(lines) == 22
    assert lines[-2:] == ["tollkeeper: and 480 more", "tollkeeper: No user was created."]


def test_a_single_problem_is_one_sentence(acme: CommandRunner, tmp_path: Path) -> None:
    file = write(tmp_path, "email,tenant\neve@example.com,nowhere\n")
    sentence = acme.fail("user", "import", file, "--passwords", str(tmp_path / "p"))
    assert sentence == "line 2: There is no tenant named nowhere. No user was created."
    assert not (tmp_path / "p").exists()


def test_a_file_of_passwords_is_never_overwritten_and_goes_with_the_users(
    acme: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, passwords = write(tmp_path, "email,tenant\neve@example.com,acme\n"), tmp_path / "passwords.csv"
    passwords.write_text("kept")
    assert "exists already. No user was created." in acme.fail("user", "import", file, "--passwords", str(passwords))
    assert passwords.read_text() == "kept"
    passwords.unlink()

    async def taken_meanwhile(*_: object) -> set[str]:
        acme_users.append("eve@example.com")
        return set()

    acme_users: list[str] = []
    monkeypatch.setattr(accounts, "taken_emails", taken_meanwhile)
    acme.query("UPDATE users SET email = 'eve@example.com' WHERE email = 'ada@example.com'")
    sentence = acme.fail("user", "import", file, "--passwords", str(passwords))
    assert sentence == "One of these users has been created in the meantime. Nothing was changed."
    assert acme_users
    assert not passwords.exists()
    assert count_users(acme) == 2


def test_the_size_of_a_file_is_bounded(acme: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is larger than 4 MiB." in acme.fail("user", "import", write(tmp_path, "x" * (MAX_FILE_BYTES + 1)))
    monkeypatch.setattr(user_import, "MAX_USERS", 1)
    file = write(tmp_path, "email,tenant\neve@example.com,acme\nfay@example.com,acme\n")
    assert acme.fail("user", "import", file) == "The file has 2 users. The maximum of one import is 1."
    assert acme.fail("user", "import", write(tmp_path, "email\n")).endswith("users.csv contains no users.")
    assert acme.fail("user", "import", str(tmp_path / "absent")).endswith(
        "absent cannot be read: No such file or directory."
    )


def test_the_help_names_the_columns(runner: CommandRunner) -> None:
    text = runner.run("user", "import", "--help")
    for column in ("email", "tenant", "role", "password"):
        assert f"{column}  " in text
