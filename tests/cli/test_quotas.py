"""`tollkeeper quota`: each change goes through the ledger, as an entry with actor and reason."""

import asyncio

from cli.keyboard import ME, Keyboard
from factories import make_store, make_terms
from tollkeeper.chat import Price, Usage
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger

ENTRIES = "SELECT kind, granted, settled, actor, reason FROM entries WHERE kind <> 'open' ORDER BY window_id, sequence"
STATE = (ENTRIES, "SELECT * FROM quotas ORDER BY id", "SELECT * FROM windows ORDER BY id")


def call(keyboard: Keyboard, usage: Usage | None) -> str:
    """A call of ada's, who is the first user. Returns the id of its charge."""

    async def work() -> str:
        ledger = Ledger(make_store(keyboard.url), lease_seconds=60)
        ledger.start()
        terms = make_terms(price=Price(2_000_000, 1_000_000, 2_000_000))
        async with ledger.reservation(Principal(1, 1, Role.MEMBER, 0), terms) as reservation:
            if usage is not None:
                reservation.set_usage(usage)
        await ledger.stop()
        return reservation.charge_id

    return asyncio.run(work())


def test_a_limit_is_set_and_changed_with_the_usage_kept(acme: Keyboard) -> None:
    said = acme.do("quota", "set", "Ada@example.com", "--limit", "5000", "--window", "month")
    assert said == (
        "ada@example.com: the limit for the month window is now 5,000 tokens (there was none);"
        " 0 used, 0 reserved, 5,000 remaining.\n"
    )
    call(acme, Usage(10, 20))
    said = acme.do("quota", "set", "ada@example.com", "--limit", "20", "--reason", "too many")
    assert said == (
        "ada@example.com: the limit for the month window is now 20 tokens (was 5,000);"
        " 30 used, 0 reserved, 0 remaining.\n"
    )
    limits = [row for row in acme.rows(ENTRIES) if row.kind == "limit"]
    assert limits == [
        ("limit", 5000, 0, f"cli:{ME}", "limit set by hand"),
        ("limit", -4980, 0, f"cli:{ME}", "too many"),
    ]


def test_a_grant_tops_up_the_current_window_only(acme: Keyboard) -> None:
    acme.do("quota", "set", "--tenant", "acme", "--limit", "0", "--window", "day")
    said = acme.do("quota", "grant", "--tenant", "acme", "--tokens", "70", "--reason", "a long day")
    assert said.startswith("tenant acme: the limit for the day window is now 70 tokens (was 0);")
    assert acme.rows(ENTRIES)[-1] == ("grant", 70, 0, f"cli:{ME}", "a long day")
    assert [row.granted for row in acme.rows("SELECT granted FROM quotas")] == [0]


def test_a_money_quota_is_kept_in_micro_dollars(acme: Keyboard) -> None:
    said = acme.do("quota", "set", "ada@example.com", "--limit", "2500000", "--window", "day", "--unit", "usd")
    assert "is now 2,500,000 micro-USD (there was none)" in said
    assert acme.rows("SELECT unit, granted FROM quotas") == [("micro_usd", 2_500_000)]
    said = acme.do("quota", "grant", "ada@example.com", "--tokens", "1", "--unit", "usd", "--reason", "a millionth")
    assert "is now 2,500,001 micro-USD" in said


def test_show_tells_every_quota_that_applies(acme: Keyboard) -> None:
    acme.do("quota", "set", "ada@example.com", "--limit", "5000", "--window", "total")
    acme.do("quota", "set", "--tenant", "acme", "--limit", "90000", "--window", "month")
    call(acme, Usage(10, 20))
    lines = acme.do("quota", "show", "ada@example.com").splitlines()
    assert lines[1].split()[:7] == ["ada@example.com", "total", "tokens", "5,000", "30", "0", "4,970"]
    assert lines[1].rstrip().endswith("never")
    assert lines[2].split()[:9] == ["the", "whole", "tenant", "month", "tokens", "90,000", "30", "0", "89,970"]
    assert "tenant acme  month" in acme.do("quota", "show", "--tenant", "acme")


def test_show_says_what_having_no_quota_means(acme: Keyboard) -> None:
    assert (
        acme.do("quota", "show", "ada@example.com") == "ada@example.com has no token quota, so every call is refused.\n"
    )
    assert "only its users' quotas apply" in acme.do("quota", "show", "--tenant", "acme")


def test_a_refund_gives_the_cost_back_once(acme: Keyboard) -> None:
    acme.do("quota", "set", "ada@example.com", "--limit", "5000", "--window", "day")
    charge_id = call(acme, Usage(10, 20))
    said = acme.do("quota", "refund", charge_id, "--reason", "it was nonsense")
    assert said == f"The charge {charge_id} is refunded: 30 tokens were returned.\n"
    assert acme.rows(ENTRIES)[-1] == ("refund", 0, -30, f"cli:{ME}", "it was nonsense")
    sentence = "Only a settled charge with a cost can be refunded, and only once."
    assert acme.refused("quota", "refund", charge_id, "--reason", "again") == sentence
    assert "0 used" in acme.do("quota", "set", "ada@example.com", "--limit", "5000")


def test_explain_shows_the_charge_its_entries_and_the_reason(acme: Keyboard) -> None:
    acme.do("quota", "set", "ada@example.com", "--limit", "5000", "--window", "day")
    charge_id = call(acme, Usage(10, 20, cached_input_tokens=4))
    acme.do("quota", "refund", charge_id, "--reason", "it was nonsense")
    said = acme.do("quota", "explain", charge_id)
    words = " ".join(said.split())
    assert f"charge {charge_id} user ada@example.com, tenant acme" in words
    assert "state settled (refunded) basis provider" in words
    assert "held 100 tokens, 200 micro-USD usage 10 input (of it 4 cached), 20 output tokens" in words
    assert "cost 30 tokens, 56 micro-USD" in words
    assert "user-day reserve +100" in words
    assert "user-day settle +30 -100" in words
    assert f"user-day refund -30 cli:{ME} it was nonsense" in words
    assert said.endswith("Charged as the provider reported. It was refunded.\n")


def test_explain_tells_of_a_call_in_the_dark(acme: Keyboard) -> None:
    acme.do("quota", "set", "ada@example.com", "--limit", "5000", "--window", "day")
    said = acme.do("quota", "explain", call(acme, None))
    assert said.endswith("The outcome is unknown: the input is charged, the rest is forgiven.\n")
    assert "forgiven  90 tokens, 180 micro-USD" in said


NUMBER = "must be a whole number from {} to 1000000000000000, not '{}'."
EITHER = "Specify either a user by e-mail address or a tenant with --tenant."


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
        "set ada@example.com --limit 5 --window week",
        "Unknown window 'week'. Choose minute, hour, day, month or total.",
    ),
    ("set ada@example.com --limit 5 --unit eur", "Unknown unit 'eur'. Choose tokens or usd."),
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
    ("refund chg_none --reason x", "There is no such charge."),
    ("refund chg_none", "Missing option '--reason'."),
    ("refund", "Missing argument 'CHARGE_ID'."),
    ("explain chg_none", "There is no charge chg_none."),
    ("take ada@example.com", "No such command 'take'."),
]


def test_a_mistake_is_one_sentence_and_writes_nothing(acme: Keyboard) -> None:
    acme.do("quota", "set", "ada@example.com", "--limit", "100", "--window", "day")
    acme.do("quota", "set", "ada@example.com", "--limit", "100", "--window", "total")
    before = [acme.rows(statement) for statement in STATE]
    for words, sentence in MISTAKES:
        assert acme.refused("quota", *words.split(" ")) == sentence
    assert [acme.rows(statement) for statement in STATE] == before


def test_a_reason_too_long_for_an_entry_is_refused(acme: Keyboard) -> None:
    words = ("quota", "set", "ada@example.com", "--limit", "5", "--window", "day", "--reason")
    acme.do(*words, "x" * 500)
    assert acme.refused(*words, "x" * 501) == "A reason must be one line of at most 500 characters."
