"""`tollkeeper quota`: each change is an entry of the ledger with an actor and a reason."""

import asyncio
import json

import pytest

from support.command_runner import SYSTEM_USER, CommandRunner
from support.factories import make_store, make_terms
from tollkeeper.chat import Price, Usage
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger

pytestmark = pytest.mark.prove_only_on_postgres


ENTRIES = "SELECT kind, granted, settled, actor, reason FROM entries WHERE kind <> 'open' ORDER BY window_id, sequence"
STATE = (ENTRIES, "SELECT * FROM quotas ORDER BY id", "SELECT * FROM windows ORDER BY id")


def make_call(runner: CommandRunner, usage: Usage | None) -> str:
    """Make a call for ada, the first user; without `usage`, its outcome is unknown. Returns the id of its charge."""

    async def reserve_and_settle() -> str:
        ledger = Ledger(make_store(runner.url), lease_seconds=60)
        ledger.start()
        terms = make_terms(price=Price(2_000_000, 1_000_000, 2_000_000))
        async with ledger.reservation(Principal(1, 1, Role.MEMBER, 0), terms) as reservation:
            if usage is not None:
                reservation.set_usage(usage)
        await ledger.stop()
        return reservation.charge_id

    return asyncio.run(reserve_and_settle())


def test_a_quota_is_removed_and_a_user_without_one_is_told_so(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "5000", "--window", "month")
    acme.run("quota", "set", "ada@example.com", "--limit", "9", "--unit", "requests", "--window", "day")
    output = acme.run("quota", "remove", "ada@example.com", "--reason", "no more")
    removed = "ada@example.com: the quota of 5,000 tokens for the month window is removed. Its history stays.\n"
    assert output == removed
    assert "ada@example.com has no token quota, so every call is refused." in acme.run(
        "quota", "show", "ada@example.com"
    )
    state = [acme.query(statement) for statement in STATE]
    assert ("remove", 0, 0, f"cli:{SYSTEM_USER}", "no more") in acme.query(ENTRIES)
    for refused in (
        ["ada@example.com", "--window", "month"],
        ["--tenant", "acme", "--each", "user", "--window", "day"],
    ):
        assert "has no token quota of its own" in acme.invoke("quota", "remove", *refused).err
    assert [acme.query(statement) for statement in STATE] == state
    record = acme.run("quota", "remove", "ada@example.com", "--unit", "requests", "--json")
    assert json.loads(record) == {
        "owner": "ada@example.com", "window": "day", "unit": "requests", "limit_before": 9
    }  # fmt: skip


def test_a_new_limit_leaves_the_usage_unchanged(acme: CommandRunner) -> None:
    output = acme.run("quota", "set", "Ada@example.com", "--limit", "5000", "--window", "month")
    assert output == (
        "ada@example.com: the limit for the month window is now 5,000 tokens (there was none);"
        " 0 used, 0 reserved, 5,000 remaining.\n"
    )
    make_call(acme, Usage(10, 20))
    output = acme.run("quota", "set", "ada@example.com", "--limit", "20", "--reason", "too many")
    assert output == (
        "ada@example.com: the limit for the month window is now 20 tokens (was 5,000);"
        " 30 used, 0 reserved, 0 remaining.\n"
    )
    limits = [row for row in acme.query(ENTRIES) if row.kind == "limit"]
    assert limits == [
        ("limit", 5000, 0, f"cli:{SYSTEM_USER}", "limit set by hand"),
        ("limit", -4980, 0, f"cli:{SYSTEM_USER}", "too many"),
    ]


def test_a_grant_adds_to_the_current_window_only(acme: CommandRunner) -> None:
    acme.run("quota", "set", "--tenant", "acme", "--limit", "0", "--window", "day")
    output = acme.run("quota", "grant", "--tenant", "acme", "--tokens", "70", "--reason", "a long day")
    assert output.startswith("tenant acme: the limit for the day window is now 70 tokens (was 0);")
    assert acme.query(ENTRIES)[-1] == ("grant", 70, 0, f"cli:{SYSTEM_USER}", "a long day")
    assert [row.granted for row in acme.query("SELECT granted FROM quotas")] == [0]


def test_a_new_limit_keeps_what_was_granted_to_the_current_window(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "100", "--window", "day")
    acme.run("quota", "grant", "ada@example.com", "--tokens", "70", "--reason", "a long day")
    for limit, now in (("40", 110), ("500", 570), ("500", 570)):
        output = acme.run("quota", "set", "ada@example.com", "--limit", limit)
        assert f"the limit for the day window is now {now} tokens" in output
        assert "; +70 by grants, overrides or rollover of this window)" in output
        assert [row.granted for row in acme.query("SELECT granted FROM quotas")] == [int(limit)]
    assert [row.granted for row in acme.query(ENTRIES)] == [100, 70, -60, 460, 0]
    assert "Clean:" in acme.run("ledger", "verify")


def test_a_usd_quota_is_stored_in_micro_usd(acme: CommandRunner) -> None:
    output = acme.run("quota", "set", "ada@example.com", "--limit", "2500000", "--window", "day", "--unit", "usd")
    assert "is now 2,500,000 micro-USD (there was none)" in output
    assert acme.query("SELECT unit, granted FROM quotas") == [("micro_usd", 2_500_000)]
    output = acme.run("quota", "grant", "ada@example.com", "--tokens", "1", "--unit", "usd", "--reason", "a millionth")
    assert "is now 2,500,001 micro-USD" in output


def test_show_lists_every_quota_that_applies(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "5000", "--window", "total")
    acme.run("quota", "set", "--tenant", "acme", "--limit", "90000", "--window", "month")
    make_call(acme, Usage(10, 20))
    lines = acme.run("quota", "show", "ada@example.com").splitlines()
    assert lines[1].split()[:7] == ["ada@example.com", "total", "tokens", "5,000", "30", "0", "4,970"]
    assert lines[1].split()[7:] == ["never", "block"]
    assert lines[2].split()[:9] == ["the", "whole", "tenant", "month", "tokens", "90,000", "30", "0", "89,970"]
    assert "tenant acme  month" in acme.run("quota", "show", "--tenant", "acme")


def test_show_explains_the_effect_of_having_no_quota(acme: CommandRunner) -> None:
    assert (
        acme.run("quota", "show", "ada@example.com")
        == "ada@example.com has no token quota, so every call is refused.\n"
    )
    assert "only its users' quotas apply" in acme.run("quota", "show", "--tenant", "acme")


def test_a_refund_returns_the_cost_only_once(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "5000", "--window", "day")
    charge_id = make_call(acme, Usage(10, 20))
    output = acme.run("quota", "refund", charge_id, "--reason", "it was nonsense")
    assert output == f"The charge {charge_id} is refunded: 30 tokens were returned.\n"
    assert acme.query(ENTRIES)[-1] == ("refund", 0, -30, f"cli:{SYSTEM_USER}", "it was nonsense")
    sentence = "Only a settled charge with a cost can be refunded, and only once."
    assert acme.fail("quota", "refund", charge_id, "--reason", "again") == sentence
    assert "0 used" in acme.run("quota", "set", "ada@example.com", "--limit", "5000")


def test_explain_shows_the_charge_its_entries_and_the_reason(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "5000", "--window", "day")
    charge_id = make_call(acme, Usage(10, 20, cached_input_tokens=4))
    acme.run("quota", "refund", charge_id, "--reason", "it was nonsense")
    output = acme.run("quota", "explain", charge_id)
    text = " ".join(output.split())
    assert f"charge {charge_id} user ada@example.com, tenant acme" in text
    assert "state settled (refunded) basis provider" in text
    assert "held 100 tokens, 200 micro-USD usage 10 input (of it 4 cached), 20 output tokens" in text
    assert "cost 30 tokens, 56 micro-USD" in text
    assert "user-day reserve +100" in text
    assert "user-day settle +30 -100" in text
    assert f"user-day refund -30 cli:{SYSTEM_USER} it was nonsense" in text
    assert output.endswith("Charged as the provider reported. It was refunded.\n")


def test_explain_reports_the_charge_of_an_unknown_outcome(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "5000", "--window", "day")
    output = acme.run("quota", "explain", make_call(acme, None))
    assert output.endswith("The outcome is unknown: the input is charged, the rest is forgiven.\n")
    assert "forgiven  90 tokens, 180 micro-USD" in output


NUMBER = "must be a whole number from {} to 1000000000000000, not '{}'."
EITHER = "Give one of: the e-mail address of a user, a tenant with --tenant, a key with --key."


MISTAKES = [
    ("show", EITHER),
    ("show ada@example.com --tenant acme", EITHER),
    ("show nobody@example.com", "There is no user with the e-mail address nobody@example.com."),
    ("show nobody", "That is not an e-mail address."),
    ("show --tenant nobody", "There is no tenant named nobody."),
    ("set ada@example.com", "Missing option '--limit'."),
    ("set ada@example.com --limit", "Option '--limit' requires an argument."),
    ("set ada@example.com --limit -5", "--limit " + NUMBER.format(0, -5)),
    ("set ada@example.com --limit many", "--limit " + NUMBER.format(0, "many")),
    ("set ada@example.com --limit 1.5", "--limit " + NUMBER.format(0, "1.5")),
    ("set ada@example.com --limit 1_000", "--limit " + NUMBER.format(0, "1_000")),
    ("set ada@example.com --limit ٣", "--limit " + NUMBER.format(0, "٣")),
    ("set ada@example.com --limit 1000000000000001", "--limit " + NUMBER.format(0, 10**15 + 1)),
    (
        "set ada@example.com --limit 5 --window year",
        "Unknown window 'year'. Choose minute, hour, day, week, month or total.",
    ),
    ("set ada@example.com --limit 5 --unit eur", "Unknown unit 'eur'. Choose tokens, usd, requests or concurrency."),
    (
        "set ada@example.com --limit 5 --window day --reason ",
        "The reason is empty. Give one: it is recorded in the ledger.",
    ),
    (
        "set ada@example.com --limit 5",
        "ada@example.com has more than one token quota (day, total): name the window.",
    ),
    ("set bob@example.com --limit 5", "bob@example.com has no token quota yet: name the window."),
    ("set nobody@example.com --limit 5", "There is no user with the e-mail address nobody@example.com."),
    ("grant ada@example.com --tokens 0 --reason x", "--tokens " + NUMBER.format(1, 0)),
    ("grant ada@example.com --tokens -5 --reason x", "--tokens " + NUMBER.format(1, -5)),
    ("grant ada@example.com --tokens 5", "Missing option '--reason'."),
    ("grant ada@example.com --reason x", "Missing option '--tokens'."),
    (
        "grant ada@example.com --tokens 5 --reason x --window hour",
        "ada@example.com has no quota for the hour window to grant to: set a limit first.",
    ),
    (
        "grant ada@example.com --tokens 1000000000000000 --reason x --window day",
        "ada@example.com would have 1000000000000100; no quota is above 1000000000000000.",
    ),
    ("grant ada@example.com --tokens 5 --reason a\nb", "A reason must be one line of at most 500 characters."),
    ("refund chg_none --reason x", "There is no charge chg_none."),
    ("refund chg_none", "Missing option '--reason'."),
    ("refund", "Missing argument 'CHARGE_ID'."),
    ("explain chg_none", "There is no charge chg_none."),
    ("take ada@example.com", "No such command 'take'."),
]


def test_an_invalid_command_is_reported_in_one_sentence_and_writes_nothing(acme: CommandRunner) -> None:
    acme.run("quota", "set", "ada@example.com", "--limit", "100", "--window", "day")
    acme.run("quota", "set", "ada@example.com", "--limit", "100", "--window", "total")
    before = [acme.query(statement) for statement in STATE]
    for command, sentence in MISTAKES:
        assert acme.fail("quota", *command.split(" ")) == sentence
    assert [acme.query(statement) for statement in STATE] == before


def test_a_reason_too_long_for_an_entry_is_refused(acme: CommandRunner) -> None:
    arguments = ("quota", "set", "ada@example.com", "--limit", "5", "--window", "day", "--reason")
    acme.run(*arguments, "x" * 500)
    assert acme.fail(*arguments, "x" * 501) == "A reason must be one line of at most 500 characters."
