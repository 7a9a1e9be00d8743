"""`tollkeeper user`: links, service accounts, erasure, default quotas; the audit log of each act, and JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.command_runner import PASSWORD, SYSTEM_USER, CommandRunner

pytestmark = pytest.mark.prove_only_on_postgres

ADA = "ada@example.com"
LINK = re.compile(r"http://127\.0\.0\.1:8000/auth/(?:reset|invitations)#token=[\w-]{43}\n")


def printed(runner: CommandRunner, *arguments: str, stdin: bytes = b"") -> Any:
    result = runner.invoke(*arguments, "--json", stdin=stdin)
    assert result.code == 0, result
    return json.loads(result.out)


def test_a_link_is_printed_alone_and_its_meaning_beside_it(acme: CommandRunner) -> None:
    for arguments in (("reset", ADA), ("invite", "eve@example.com", "--tenant", "acme", "--role", "operator")):
        result = acme.invoke("user", *arguments)
        assert LINK.fullmatch(result.out)
        assert result.err.startswith("The link is valid until ")
    reset = printed(acme, "user", "reset", ADA)
    assert reset.keys() == {"url", "expires", "email"}
    invited = printed(acme, "user", "invite", "fay@example.com", "--tenant", "acme")
    assert (invited["email"], invited["tenant"], invited["role"]) == ("fay@example.com", "acme", "member")


def test_each_act_prints_the_user_as_json(acme: CommandRunner) -> None:
    made = printed(acme, "user", "create", "eve@example.com", "--tenant", "acme", "--password-stdin", stdin=PASSWORD)
    expected = {
        "id": made["id"],
        "email": "eve@example.com",
        "tenant": "acme",
        "role": "member",
        "kind": "person",
        "state": "active",
    }
    assert made == expected
    assert printed(acme, "user", "disable", "eve@example.com") == expected | {"state": "disabled"}
    assert printed(acme, "user", "enable", "eve@example.com") == expected
    changed = printed(acme, "user", "password", "eve@example.com", "--password-stdin", stdin=PASSWORD)
    assert changed == expected | {"api_keys": 0}
    erased = printed(acme, "user", "erase", "eve@example.com", "--reason", "request of the person")
    placeholder = f"erased-{made['id']}@erased.invalid"
    assert erased == expected | {"email": placeholder, "state": "erased"}
    assert acme.fail("user", "enable", placeholder) == "This user was erased."
    assert acme.fail("user", "reset", placeholder) == "This user was erased."


def test_a_service_account_is_created_without_a_password(acme: CommandRunner) -> None:
    made = printed(acme, "user", "create", "nightly", "--tenant", "acme", "--service")
    assert re.fullmatch(r"nightly@\d+\.service\.invalid", made["email"])
    assert made["kind"] == "service"
    assert acme.run("user", "create", "daily", "--tenant", "acme", "--service").startswith("The service account daily@")
    assert acme.invoke("key", "create", made["email"], "--name", "cron").out.startswith("tk-")
    refused = acme.fail("user", "password", made["email"], "--password-stdin", stdin=PASSWORD)
    assert refused == "A service account has no password. It authenticates with API keys."
    assert acme.fail("user", "create", "x@nobody.invalid", "--tenant", "acme").startswith("The domain .invalid is")


def test_new_users_have_the_default_quota_of_their_tenant(acme: CommandRunner, tmp_path: Path) -> None:
    acme.query("UPDATE tenants SET default_limit = 700, default_period = 'day' WHERE name = 'acme'")
    acme.run("user", "create", "eve@example.com", "--tenant", "acme", "--password-stdin", stdin=PASSWORD)
    file = tmp_path / "users.csv"
    file.write_text("email,tenant\nfay@example.com,acme\ngus@example.com,void\n")
    made = printed(acme, "user", "import", str(file), "--passwords", str(tmp_path / "passwords.csv"))
    assert [(user["email"], user["tenant"], user["role"]) for user in made] == [
        ("fay@example.com", "acme", "member"),
        ("gus@example.com", "void", "member"),
    ]
    for email in ("eve@example.com", "fay@example.com"):
        (quota,) = printed(acme, "quota", "show", email)
        assert (quota["limit"], quota["window"]) == (700, "day")
    for email in ("gus@example.com", ADA):
        assert printed(acme, "quota", "show", email) == []


def test_each_act_is_in_the_audit_log_without_names_and_secrets(acme: CommandRunner, tmp_path: Path) -> None:
    before = len(acme.query("SELECT action FROM audit_lines"))
    url = printed(acme, "user", "reset", ADA)["url"]
    acme.run("user", "password", ADA, "--password-stdin", stdin=PASSWORD)
    acme.run("user", "disable", ADA)
    acme.run("user", "disable", ADA)
    file = tmp_path / "users.csv"
    file.write_text("email,tenant,role\nfay@example.com,acme,\ngus@example.com,acme,tenant_admin\n")
    acme.run("user", "import", str(file), "--passwords", str(tmp_path / "passwords.csv"))
    lines = acme.query("SELECT * FROM audit_lines ORDER BY at_ms, sequence")
    new = [(line.actor, line.action) for line in lines[before:]]
    actor = f"cli:{SYSTEM_USER}"
    assert new == [(actor, f"user.{act}") for act in ("reset", "password", "change", "import")]
    assert sorted(json.loads(lines[-1].after)["users"].values()) == ["member", "tenant_admin"]
    text = str(lines)
    assert "example.com" not in text
    assert url.partition("=")[2] not in text
