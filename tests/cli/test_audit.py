"""`tollkeeper audit`: what administrators did, and whether the log of it was changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.command_runner import SYSTEM_USER, CommandRunner, error_sentence

pytestmark = pytest.mark.prove_only_on_postgres

ADA = "ada@example.com"


@pytest.fixture
def acts(acme: CommandRunner) -> CommandRunner:
    """A runner on a database where two limits of ada were set."""
    acme.run("quota", "set", ADA, "--limit", "5", "--window", "day", "--reason", "a start")
    acme.run("quota", "set", ADA, "--limit", "9", "--window", "day", "--reason", "more")
    return acme


def listed(runner: CommandRunner, *filters: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads(runner.run("audit", "list", "--json", *filters))
    return lines


def test_acts_are_listed_and_filtered(acts: CommandRunner) -> None:
    last, first = listed(acts, "--action", "quota.set")
    assert (first["reason"], last["reason"]) == ("a start", "more")
    assert first["before"] == {"limit": None}  # no quota, which is not a quota of nothing
    assert (last["actor"], last["before"], last["after"]["limit"]) == (f"cli:{SYSTEM_USER}", {"limit": 5}, 9)
    assert listed(acts, "--action", "quota.set", "--limit", "1") == [last]
    assert listed(acts, "--target", last["target"], "--action", "quota.set", "--tenant", "acme") == [last, first]
    assert listed(acts, "--actor", "user:1") == listed(acts, "--to", "2020-01-31") == []
    assert len(listed(acts, "--from", "2020-01-31T12:00Z")) == len(listed(acts))
    assert "quota.set" in acts.run("audit", "list")
    assert acts.run("audit", "list", "--actor", "user:1") == "No such acts.\n"


def test_a_cut_at_the_end_is_found_with_a_head_or_a_file_of_heads(acts: CommandRunner, tmp_path: Path) -> None:
    heads = acts.run("audit", "head", "--tenant", "acme")
    file = tmp_path / "heads.log"
    file.write_text("".join(f'{{"event": "audit.head", "head": "{line}"}}\n' for line in heads.splitlines()))
    for noted in (heads.splitlines()[0], str(file)):
        assert "the noted heads are there" in acts.run("audit", "verify", "--head", noted)
    first = f"(SELECT mac FROM audit_lines WHERE tenant_id = {heads.split(':')[0]} AND sequence = 1)"
    acts.query("DELETE FROM audit_lines WHERE sequence > 1")
    acts.query(f"UPDATE audit_heads SET sequence = 1, mac = {first} WHERE sequence > 1")
    assert "give --head" in acts.run("audit", "verify")
    for noted in (heads.splitlines()[0], str(file)):
        found = acts.invoke("audit", "verify", "--head", noted)
        assert (found.code, "whose head was noted, is missing" in found.out) == (1, True)
        assert found.err == "tollkeeper: The audit log is wrong. Problems: 1\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("verify", "--head", "absent"),
            "absent is neither a head nor a file that can be read: No such file or directory.",
        ),
        (("list", "--from", "yesterday"), "'yesterday' is no time. Write it like 2027-01-31 or 2027-01-31T12:00Z."),
        (("list", "--limit", "0"), "--limit must be a whole number from 1 to 100000, not '0'."),
        (("head", "--tenant", "nobody"), "There is no tenant named nobody."),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    acts: CommandRunner, arguments: tuple[str, ...], sentence: str
) -> None:
    assert error_sentence(acts.invoke("audit", *arguments)) == sentence
