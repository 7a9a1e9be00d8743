"""Scenarios of templates: of users, keys, conversations and tags that have the quota of one."""

from play import COLLEAGUE, KEY, USER, Play, Scenario
from side_by_side import EACH_TAG, OTHERWISE_TAGGED, TAGGED, TALKING

EACH_USER, EACH_KEY, EACH_CONVERSATION = 7, 8, 9
"""Templates, as `SideBySide` numbers the owners of quotas; what the first user has of each is three later."""
DAY_MS = 86_400_000


def template_of_each_user(play: Play) -> None:
    """Each has windows of its own from the first call on; a quota of one's own replaces them, until it is spent."""
    play.change("limit", EACH_USER, 100)
    play.spend(USER, 60)
    assert play.refuse(USER, 60) == "QuotaExceeded"
    play.spend(COLLEAGUE, 90)
    play.change("limit", USER, 1_000, "month")
    assert play.refuse(USER, 60) == "QuotaExceeded"
    play.change("limit", USER, 1_000)
    play.spend(USER, 300)
    assert play.refuse(COLLEAGUE, 20) == "QuotaExceeded"
    play.wait(DAY_MS)
    play.spend(COLLEAGUE, 100)


def template_that_changes(play: Play) -> None:
    """The windows follow it before anything is decided, and before they are shown; a grant stays on top."""
    play.change("limit", EACH_USER, 100, "total")
    play.spend(USER, 80)
    play.change("grant", EACH_USER + 3, 10, "total")
    play.change("limit", EACH_USER, 200, "total")
    play.make(play.both.booking_free(USER, play.terms(10)))
    play.spend(USER, 100)
    name = play.both.quota_name(EACH_USER, "tokens", "total")
    play.make(play.both.administering([("limit", name, 50)]), play.reserving(USER, 20))
    play.change("report", EACH_USER, 50, "total")
    play.make(play.both.booking_free(USER, play.terms(10)))
    play.change("limit", USER, 1_000)
    play.spend(USER, 20)
    play.change("block", EACH_USER, 50, "total")
    assert play.refuse(USER, 20) == "QuotaExceeded"


def templates_of_keys_and_conversations(play: Play) -> None:
    """They limit further. A key's own quota of the same unit and window replaces the template."""
    play.change("limit", EACH_KEY, 100)
    play.change("limit", EACH_CONVERSATION, 60, "total")
    assert play.refuse(KEY, 20) == "QuotaExceeded"
    play.change("limit", USER, 1_000)
    play.spend(KEY, 90)
    assert play.refuse(KEY, 20) == "QuotaExceeded"
    play.change("limit", KEY, 50)
    play.spend(KEY, 40)
    play.spend(TALKING, 50)
    assert play.refuse(TALKING, 20) == "QuotaExceeded"
    play.spend(USER, 100)


def template_of_a_tag(play: Play) -> None:
    """Each value has windows of its own. Its own quota replaces the template, and no other value's does."""
    play.change("limit", USER, 10_000)
    play.change("limit", EACH_TAG, 100)
    play.spend(TAGGED, 90)
    assert play.refuse(TAGGED, 20) == "QuotaExceeded"
    play.spend(OTHERWISE_TAGGED, 80)
    play.change("grant", EACH_TAG + 1, 10)
    play.spend(TAGGED, 20)
    play.change("limit", EACH_TAG, 120)
    play.spend(TAGGED, 20)
    play.change("limit", TAGGED, 500)
    play.spend(TAGGED, 200)
    assert play.refuse(OTHERWISE_TAGGED, 50) == "QuotaExceeded"
    play.spend(USER, 200)


SCENARIOS: list[Scenario] = [
    template_of_each_user,
    template_that_changes,
    templates_of_keys_and_conversations,
    template_of_a_tag,
]
