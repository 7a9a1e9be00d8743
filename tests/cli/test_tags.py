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
    each = (*of_acme, "--each", "tag:cost-centre")
    acme.run("quota", "set", *each, "--limit", "70", "--window", "hour")
    assert "each tag:cost-centre of acme" in acme.run("quota", "show", *each)
    shown = json.loads(acme.run("quota", "show", *owner, "--json"))
    assert [(one["window"], one["limit"]) for one in shown] == [("hour", 70), ("day", 500)]
    for_each = (*of_acme, "--limit", "5", "--window", "day", "--each")
    assert acme.fail("quota", "set", *for_each, "tag:run") == "The tenant has no tag run."
    assert "tag:NAME" in acme.fail("quota", "set", *for_each, "tag")
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
