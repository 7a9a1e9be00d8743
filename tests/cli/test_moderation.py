"""`tollkeeper moderation`: the same acts as over the admin API."""

import json
from pathlib import Path

from support.command_runner import CommandRunner

POLICY = {
    "rules": [
        {"name": "no", "action": "block", "words": ["Heron"], "report_only": True},
        {"name": "mail", "action": "redact", "pii": ["email"]},
    ]
}


def test_a_policy_is_set_shown_counted_and_removed(runner: CommandRunner, tmp_path: Path) -> None:
    runner.run("tenant", "create", "acme")
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(POLICY))
    assert "2 rules, 1 of them enforced" in runner.run("moderation", "set", str(file), "--tenant", "acme")
    assert json.loads(runner.run("moderation", "show", "--tenant", "acme")) == POLICY | {
        "window": {"unit": "tokens", "tokens": 32}
    }
    as_input = ("moderation", "set", "-", "--tenant", "acme")
    assert "0 rules" in runner.run(*as_input, stdin=b'{"rules": []}')
    assert "enforced" in runner.run("moderation", "counts", "--tenant", "acme")
    counted = runner.run("moderation", "counts", "--tenant", "acme", "--first", "2026-01-01", "--json")
    assert json.loads(counted) == []
    assert "is removed" in runner.run("moderation", "remove", "--tenant", "acme")
    assert "no moderation policy" in runner.fail("moderation", "show", "--tenant", "acme")
    assert "moderation.set" in runner.run("audit", "list", "--json")


def test_what_is_no_policy_is_refused_by_name(runner: CommandRunner, tmp_path: Path) -> None:
    runner.run("tenant", "create", "acme")
    arguments = ("moderation", "set", "-", "--tenant", "acme")
    for content, said in (
        (b"{", "is no moderation policy"),
        (b'{"rules": [{"name": "x", "action": "block"}]}', "The rule x needs exactly one of"),
        (b'{"rules": [], "service_account": 7}', "not a service account of this tenant"),
        (b" " * 70_000, "larger than"),
    ):
        assert said in runner.fail(*arguments, stdin=content)
    assert "cannot be read" in runner.fail("moderation", "set", str(tmp_path / "none.json"), "--tenant", "acme")
