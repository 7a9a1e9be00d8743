"""`tollkeeper tag`, and the quotas of tags."""

import json

import pytest

from support.command_runner import CommandRunner

pytestmark = pytest.mark.prove_only_on_postgres


def test_a_tag_is_declared_limited_changed_and_closed(acme: CommandRunner) -> None:
    of_acme = ("--tenant", "acme")
    said = acme.run("tag", "declare", "cost-centre", *of_acme, "--values", "42, 43")
    assert said.strip() == "The tenant acme has the tag cost-centre."
    owner = (*of_acme, "--tag", "cost-centre=42")
    assert "tag cost-centre=42: the limit for the day window is now 500" in acme.run(
        "quota", "set", *owner, "--limit", "500", "--window", "day"
    )
    assert "tag cost-centre=42" in acme.run("quota", "show", *owner)
    wrong = (*of_acme, "--tag", "cost-centre=44", "--limit", "5", "--window", "day")
    assert "may not have the value 44" in acme.fail("quota", "set", *wrong)
    made = acme.invoke("key", "create", "ada@example.com", "--name", "robot", "--tags", "cost-centre=42", "--json")
    assert json.loads(made.out)["tags"] == ["cost-centre=42"]
    said = acme.run("tag", "change", "cost-centre", *of_acme, "--max-values", "7", "--required")
    assert said.strip() == "The tag cost-centre is changed."
    (tag,) = json.loads(acme.run("tag", "list", *of_acme, "--json"))
    assert (tag["any_value"], tag["known_values"], tag["max_values"], tag["required"]) == (True, 2, 7, True)
    assert "cost-centre" in acme.run("tag", "list", *of_acme)
    assert acme.run("tag", "close", "cost-centre", *of_acme).strip() == "The tag cost-centre is closed."
    assert acme.fail("tag", "close", "cost-centre", *of_acme) == "The tenant has no tag cost-centre."
    assert "needs its tenant, with --tenant" in acme.fail("quota", "show", "ada@example.com", "--tag", "run=a")
