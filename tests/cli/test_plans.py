"""`tollkeeper plan`: plans are set from files, and tenants are put on them."""

from pathlib import Path

from support.command_runner import CommandRunner


def test_commands_set_and_assign_plans(runner: CommandRunner, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text('{"calls_per_user": "60/minute", "tenant_quotas": [{"window": "day", "limit": 7000}]}')
    runner.run("tenant", "create", "acme")
    for _ in range(2):
        runner.run("plan", "set", "pro", str(file))
    assert "60/minute" in runner.run("plan", "list")
    runner.run("plan", "assign", "acme", "pro")
    assert "7,000" in runner.run("quota", "show", "--tenant", "acme")
    assert "tenants are on this plan" in runner.invoke("plan", "delete", "pro").err
    runner.run("plan", "unassign", "acme")
    runner.run("plan", "delete", "pro")
    assert "pro" not in runner.run("plan", "list")
    file.write_text('{"calls": "60/minute"}')
    assert "terms of a plan" in runner.invoke("plan", "set", "pro", str(file)).err
