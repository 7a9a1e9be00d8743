"""What commands print cannot control a terminal: text from the database and from providers is escaped."""

import pytest

from support.command_runner import PASSWORD, CommandRunner
from tollkeeper.cli.output import print_line, print_pairs, print_table

HOSTILE = "a\x1b[2Jb\u202ec\nd"
ESCAPED = "a\\x1b[2Jb\\u202ec\\x0ad"


def test_lines_tables_and_pairs_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE)
    print_line(HOSTILE, error=True)
    print_table(("name",), [(HOSTILE,)])
    print_pairs([(HOSTILE, HOSTILE)])
    out, err = capsys.readouterr()
    assert out.split() == [ESCAPED, "name", ESCAPED, ESCAPED, ESCAPED]
    assert err == ESCAPED + "\n"


def test_names_of_the_database_are_escaped_by_every_command(acme: CommandRunner) -> None:
    """Names that were stored before names had to be printable."""
    acme.run("quota", "set", "ada@example.com", "--limit", "1000", "--window", "day", "--reason", "why")
    for statement in (
        "UPDATE tenants SET name = 'acme\x1b[31m' WHERE name = 'acme'",
        "UPDATE users SET email = 'ada\u202e@example.com' WHERE email = 'ada@example.com'",
    ):
        acme.query(statement)
    outputs = [
        acme.run("tenant", "list"),
        acme.run("user", "list"),
        acme.run("quota", "show", "ada\u202e@example.com"),
        acme.run("user", "disable", "ada\u202e@example.com"),
        acme.fail("user", "create", "ada\u202e@example.com", "--tenant", "x", "--password-stdin", stdin=PASSWORD),
        acme.fail("quota", "show", "eve\u202e@example.com"),
    ]
    for output in outputs:
        assert "\x1b" not in output
        assert "\u202e" not in output
    assert "acme\\x1b[31m" in outputs[0]
    assert "ada\\u202e@example.com" in outputs[1]
    assert "eve\\u202e@example.com" in outputs[5]


def test_an_unknown_command_is_escaped(runner: CommandRunner) -> None:
    result = runner.invoke("quota", "sh\x1b[31mow\nnow")
    assert result.code == 2
    assert "\x1b" not in result.out + result.err
