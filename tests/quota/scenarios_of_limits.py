"""Scenarios of what a quota is of, what becomes of calls without room, and of limits that change by themselves."""

from play import GROUP, KEY, TENANT, USER, Play, Scenario

DAY_MS = 86_400_000
MINUTE_MS = 60_000
"""The time from the start of a scenario until the next day begins, and by which a new day is reached."""


def quota_of_a_key(play: Play) -> None:
    """It limits further, and replaces no quota of the user's own."""
    play.change("limit", KEY, 100)
    assert play.refuse(KEY, 20) == "QuotaExceeded"
    play.change("limit", USER, 1_000)
    play.spend(KEY, 60)
    assert play.refuse(KEY, 60) == "QuotaExceeded"
    play.spend(USER, 60)


def quota_of_a_group(play: Play) -> None:
    """It limits the calls of members that name it, or for which it is the default."""
    play.change("limit", USER, 1_000)
    play.change("limit", GROUP, 100)
    play.both.change_membership(USER, "default")
    play.spend(USER, 60)
    assert play.refuse(GROUP, 60) == "QuotaExceeded"
    play.both.change_membership(USER, "none")
    assert play.refuse(GROUP, 20) == "NotInGroup"
    play.spend(USER, 60)


def rollover(play: Play) -> None:
    """What is unused of the limit rolls over, up to the cap of half a limit; neither what is spent, nor a grant."""
    play.change("roll", USER, 100)
    play.change("grant", USER, 200)
    play.spend(USER, 70)
    held = play.reserve(USER, 10)
    play.wait(MINUTE_MS)
    play.spend(USER, 120)
    play.settle(held, 10)
    assert play.refuse(USER, 10) == "QuotaExceeded"
    play.wait(2 * DAY_MS)
    play.spend(USER, 150)


def grants_that_expire(play: Play) -> None:
    """Each is taken back once. What expires with the tenant's is read again beside what expires later."""
    for owner in (USER, TENANT):
        play.change("limit", owner, 100)
        play.change("grant", owner, 50, times=(0, 1_000))
    play.change("grant", USER, 30, times=(0, 3_000))
    play.spend(USER, 100)
    play.wait(1_000)
    play.change("grant", USER, 5)
    play.wait(2_000)
    assert play.refuse(USER, 10) == "QuotaExceeded"
    play.change("grant", TENANT, 5)
    play.make(play.both.booking_free(USER, play.terms(10)))


def overrides(play: Play) -> None:
    """One begins in a window, opens the next with its limit, and ends there. Meanwhile the quota's limit waits."""
    play.change("limit", USER, 100)
    play.change("override", USER, 500, times=(1_000, 2 * MINUTE_MS))
    assert play.refuse(USER, 200) == "QuotaExceeded"
    play.wait(1_000)
    play.spend(USER, 200)
    play.change("limit", USER, 150)
    play.wait(MINUTE_MS)
    play.spend(USER, 200)
    play.wait(MINUTE_MS)
    assert play.refuse(USER, 10) == "QuotaExceeded"
    play.wait(DAY_MS)
    play.spend(USER, 150)


def fallback(play: Play) -> None:
    """A quota names another model for the calls that it has no room for, unless it only reports."""
    play.change("fallback", USER, 100)
    play.change("limit", TENANT, 40)
    assert play.refuse(USER, 60) == "QuotaExceeded"
    play.change("limit", TENANT, 1_000)
    assert play.refuse(USER, 120) == "QuotaExceeded, then smaller"
    play.change("report", USER, 100)
    assert play.refuse(USER, 120) == "QuotaExceeded"


def report_only(play: Play) -> None:
    """A quota that reports refuses nothing, admits nobody, says what it would refuse, and blocks from a switch on."""
    play.change("report", USER, 100)
    assert play.refuse(USER, 20) == "QuotaExceeded"
    play.change("limit", USER, 2_000, "total")
    [outcome] = play.make(play.reserving(USER, 150))
    assert isinstance(outcome, tuple)
    assert outcome[-1] == (("user-day", "quota_exceeded"),)
    play.wait(MINUTE_MS)
    play.spend(USER, 150)
    play.change("block", USER, 100)
    assert play.refuse(USER, 20) == "QuotaExceeded"


def windows_of_a_calendar(play: Play) -> None:
    """Days, weeks and months of the tenant's time zone, in which it is the next day already."""
    play.both.change_calendar(0, "Asia/Kathmandu", 1)
    for period in ("day", "week", "month"):
        play.change("limit", USER, 1_000, period)
    play.spend(USER, 100)
    play.wait(DAY_MS)
    play.spend(USER, 100)


def change_of_a_calendar(play: Play) -> None:
    """The window that has begun ends as it would have. The next one is no shorter than any of the new calendar."""
    play.change("limit", USER, 100)
    play.both.change_calendar(0, "Pacific/Auckland", 1)
    play.spend(USER, 60)
    assert play.refuse(USER, 60) == "QuotaExceeded"
    play.wait(MINUTE_MS)
    play.spend(USER, 60)
    play.wait(DAY_MS)
    assert play.refuse(USER, 60) == "QuotaExceeded"
    play.wait(DAY_MS)
    play.spend(USER, 60)


SCENARIOS: list[Scenario] = [
    quota_of_a_key,
    quota_of_a_group,
    rollover,
    grants_that_expire,
    overrides,
    fallback,
    report_only,
    windows_of_a_calendar,
    change_of_a_calendar,
]
