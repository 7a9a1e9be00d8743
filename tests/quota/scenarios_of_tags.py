"""Scenarios of tags: on whose quotas a call counts, and which calls are refused."""

from play import USER, Play, Scenario
from side_by_side import OTHERWISE_TAGGED, TAGGED


def quota_of_a_tag(play: Play) -> None:
    """It limits the calls with this tag and this value, answers from the cache and jobs among them."""
    play.change("limit", USER, 10_000)
    play.change("limit", TAGGED, 3, unit="requests")
    play.spend(TAGGED, 20)
    play.reserve(TAGGED, 20, dispatch=False)
    play.make(play.both.booking_free(TAGGED, play.terms(10)))
    assert play.refuse(TAGGED, 20) == "QuotaHeld"
    for caller in (USER, OTHERWISE_TAGGED):
        play.spend(caller, 20)


def declared_tags(play: Play) -> None:
    """A change counts at the next reserve, in every process; a job is released that cannot start any more."""
    play.change("limit", USER, 10_000)
    job = play.reserve(TAGGED, 20, dispatch=False)
    refused: dict[str, tuple[int, ...]] = {
        "one value": (OTHERWISE_TAGGED,),
        "required": (USER,),
        "any": (),
        "closed": (TAGGED, OTHERWISE_TAGGED),
    }
    for state, callers in refused.items():
        play.both.change_tag(state)
        for caller in (USER, TAGGED, OTHERWISE_TAGGED):
            play.both.process = 1 - play.both.process
            if caller in callers:
                assert play.refuse(caller, 20) == "TagRefused", state
            else:
                play.spend(caller, 20)
    assert play.make(play.both.dispatching(job)) == ["TagRefused"]


SCENARIOS: list[Scenario] = [quota_of_a_tag, declared_tags]
