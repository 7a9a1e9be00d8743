"""Scenarios of quotas and templates that are removed, and set again."""

from play import COLLEAGUE, TENANT, USER, Play, Scenario

EACH_USER = 7
"""The template for each user, as `SideBySide` numbers the owners of quotas."""


def removal(play: Play) -> None:
    """It counts from the next call on; what is held is settled. A quota that is set later has nothing of it."""
    play.change("limit", USER, 100)
    play.change("limit", USER, 50, "month", "requests")
    play.change("limit", TENANT, 1_000)
    play.spend(USER, 30)
    held, released = play.reserve(USER, 40), play.reserve(USER, 20)
    play.change("remove", USER, 0)
    assert play.refuse(USER, 20) == "QuotaExceeded"
    play.settle(held, 35)
    play.make(play.both.releasing(released))
    play.change("limit", USER, 100)
    play.spend(USER, 100)
    assert play.refuse(USER, 20) == "QuotaExceeded"
    play.change("remove", TENANT, 0)
    play.change("grant", USER, 2_000)
    play.spend(USER, 1_500)
    play.change("remove", USER, 0)
    play.change("limit", USER, 10, "total")
    play.spend(USER, 10)


def removal_of_a_template(play: Play) -> None:
    """Who has a quota of it has none any more; one of one's own that is removed leaves the template."""
    play.change("limit", EACH_USER, 100)
    play.change("limit", USER, 20)
    play.spend(COLLEAGUE, 60)
    play.change("remove", USER, 0)
    play.spend(USER, 90)
    held = play.reserve(COLLEAGUE, 40)
    play.change("remove", EACH_USER, 0)
    assert play.refuse(USER, 10) == "QuotaExceeded"
    assert play.refuse(COLLEAGUE, 10) == "QuotaExceeded"
    play.settle(held, 40)
    play.change("limit", EACH_USER, 100)
    play.spend(COLLEAGUE, 100)


SCENARIOS: list[Scenario] = [removal, removal_of_a_template]
