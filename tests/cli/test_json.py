"""`--json` prints every list as JSON, for programs."""

import json
from typing import Any

import pytest

from support.command_runner import CommandRunner

pytestmark = pytest.mark.prove_only_on_postgres

ADA = "ada@example.com"


def listed(runner: CommandRunner, *arguments: str) -> Any:
    return json.loads(runner.run(*arguments, "--json"))


def test_tenants_and_users_are_listed_as_json(acme: CommandRunner) -> None:
    assert [(tenant["tenant"], tenant["state"]) for tenant in listed(acme, "tenant", "list")] == [
        ("acme", "active"),
        ("void", "active"),
    ]
    users = listed(acme, "user", "list")
    assert [(user["email"], user["tenant"], user["role"]) for user in users] == [
        (ADA, "acme", "member"),
        ("bob@example.com", "acme", "member"),
    ]
    assert set(users[0]) == {"id", "email", "tenant", "role", "state", "created"}
    assert listed(acme, "user", "list", "--tenant", "void") == []


def test_keys_are_listed_as_json_without_their_secrets(acme: CommandRunner) -> None:
    secret = acme.invoke("key", "create", ADA, "--name", "é", "--scopes", "me").out.strip()
    (key,) = listed(acme, "key", "list", ADA)
    assert (key["name"], key["scopes"], key["expires"]) == ("é", ["me"], None)
    assert secret.startswith(key["prefix"])
    assert secret not in json.dumps(key)


def test_quotas_are_numbers_in_json(acme: CommandRunner) -> None:
    assert listed(acme, "quota", "show", ADA) == []
    acme.run("quota", "set", ADA, "--limit", "5000", "--window", "total")
    acme.run("quota", "set", "--tenant", "acme", "--limit", "9000", "--window", "day")
    own, shared = listed(acme, "quota", "show", ADA)
    assert own == {
        "whose": ADA,
        "window": "total",
        "unit": "tokens",
        "limit": 5000,
        "used": 0,
        "reserved": 0,
        "remaining": 5000,
        "resets": None,
        "when_spent": "block",
        "fallback_model": None,
        "rollover": None,
        "rolled_over": 0,
    }
    assert (shared["whose"], shared["limit"]) == ("the whole tenant", 9000)
    assert shared["resets"].endswith("Z")


def test_models_are_listed_as_json(runner: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OLLAMA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert listed(runner, "models") == [{"model": "echo", "provider": "echo", "aliases": []}]


def test_what_commands_have_changed_is_printed_as_json(acme: CommandRunner) -> None:
    made = listed(acme, "tenant", "create", "beta")
    assert (made["tenant"], made["state"]) == ("beta", "active")
    assert listed(acme, "tenant", "disable", "beta")["state"] == "disabled"
    assert listed(acme, "tenant", "enable", "beta") == made
    limit = listed(acme, "quota", "set", ADA, "--limit", "50", "--window", "day")
    assert (limit["whose"], limit["limit"], limit["limit_before"]) == (ADA, 50, None)
    granted = listed(acme, "quota", "grant", ADA, "--tokens", "5", "--reason", "more")
    assert (granted["limit"], granted["limit_before"]) == (55, 50)


def test_verifications_are_reported_as_json(acme: CommandRunner) -> None:
    acme.run("quota", "set", ADA, "--limit", "50", "--window", "day")
    ledger = listed(acme, "ledger", "verify")
    assert (ledger["windows"], ledger["problem_count"], ledger["problems"], ledger["since"]) == (1, 0, [], None)
    *_, line = acme.invoke("ledger", "verify", "--json", "--progress").err.splitlines()
    checked = {"entries": ledger["entries"], "charges": 0}
    assert json.loads(line) == {"progress": {"share": 1.0, "checked": checked, "about": checked}}
    acme.query("UPDATE windows SET granted = granted + 1")
    broken = acme.invoke("ledger", "verify", "--json")
    assert (broken.code, json.loads(broken.out)["problem_count"]) == (1, 1)
    log = listed(acme, "audit", "verify", "--tenant", "acme")
    assert (log["chains"], log["problems"]) == (1, [])
    assert [head["sequence"] for head in listed(acme, "audit", "head", "--tenant", "acme")] == [log["lines"]]
