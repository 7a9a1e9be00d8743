"""Scenarios of calls that are repeated with an idempotency key."""

from keyed_model import DAY_MS
from play import USER, Play, Scenario


def answer_of_a_key(play: Play) -> None:
    """It is kept by the key's own call alone, given again for a day, and then forgotten."""
    play.change("limit", USER, 1_000, "total")
    other = play.reserve(USER, 100)
    call = _reserve(play)
    for one in (other, call):
        play.make(play.both.storing(one, "a", (10, 20, 0), "stored"))
    [outcome] = play.make(play.both.reserving(USER, play.terms(100), dispatch=True, keyed_call=("a", "one")))
    assert isinstance(outcome, tuple)
    assert outcome[0] == "replayed"
    play.wait(DAY_MS)
    _reserve(play)


def key_within_a_batch(play: Play) -> None:
    """What the very transaction does to the call of a key counts for the next operation of it."""
    play.change("limit", USER, 1_000, "total")
    call = _reserve(play)
    again = play.both.reserving(USER, play.terms(100), dispatch=True, keyed_call=("a", "one"))
    outcomes = play.make(play.both.storing(call, "a", (10, 20, 0), "stored"), again)
    assert isinstance(outcomes[1], tuple)
    assert outcomes[1][0] == "replayed"


def _reserve(play: Play) -> str:
    """Reserve with a key, and return the call's id. It is admitted."""
    [outcome] = play.make(play.both.reserving(USER, play.terms(100), dispatch=True, keyed_call=("a", "one")))
    assert isinstance(outcome, tuple), outcome
    assert outcome[0] == "held"
    return list(play.both.model.calls)[-1]


SCENARIOS: list[Scenario] = [answer_of_a_key, key_within_a_batch]
