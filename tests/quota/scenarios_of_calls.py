"""Scenarios of one call, from its reserve to whatever comes after its end."""

from ledger_world import Fate
from play import COLLEAGUE, TENANT, USER, Play, Scenario


def forgiveness(play: Play) -> None:
    """The first unknown outcome is forgiven whole; others up to 5 % of the grant, and else cost the hold."""
    play.change("limit", USER, 1_000)
    for basis in ("unknown", "unknown", "counted"):
        play.settle(play.reserve(USER, 100), 10, basis)


def slots(play: Play) -> None:
    """A call in flight has a slot, however it ends; a job has none before it is dispatched."""
    play.change("limit", USER, 1_000, "total")
    play.change("limit", USER, 10, unit="requests")
    play.change("limit", USER, 1, "total", "concurrency")
    job = play.reserve(USER, 20, dispatch=False)
    call = play.reserve(USER, 20)
    assert play.refuse(USER, 20) == "QuotaHeld"
    play.settle(call, 20)
    play.expire(play.reserve(USER, 20))
    play.make(play.both.releasing(play.reserve(USER, 20)))
    assert play.both.model.calls[job].ended_by is None
    [outcome] = play.make(play.both.dispatching(job))
    assert not isinstance(outcome, str), outcome


def answers_from_the_cache(play: Play) -> None:
    """They count where requests are counted, up to the limit, and only for a credential that is valid."""
    play.change("limit", USER, 1_000)
    play.change("limit", USER, 1, unit="requests")
    for version, expected in ((-1, "Unauthenticated"), (0, None), (0, "QuotaExceeded")):
        [outcome] = play.make(play.both.booking_free(USER, play.terms(10), version=version))
        assert isinstance(outcome, tuple) if expected is None else outcome == expected


def refusals(play: Play) -> None:
    """What is in flight counts. Where one quota refuses, none is held on, and the caller has the whole refusal."""
    play.change("limit", USER, 200)
    play.change("limit", TENANT, 150)
    call = play.reserve(USER, 100)
    assert play.refuse(USER, 100) == "QuotaHeld"
    play.change("limit", COLLEAGUE, 1_000)
    assert play.refuse(COLLEAGUE, 160) == "QuotaExceeded"
    play.make(play.both.releasing(call))
    play.spend(COLLEAGUE, 100)


def leases_and_late_truth(play: Play) -> None:
    """A call that is alive is not swept. One that is lost costs its checkpoint, until its truth comes, once."""
    play.change("limit", USER, 1_000)
    call = play.reserve(USER, 100)
    assert play.make(play.both.expiring(call)) == [None]
    play.make(play.both.renewing({call: (10, 20)}))
    play.expire(call)
    play.settle(call, 150)
    play.make(play.both.refunding(call))


def ends(play: Play) -> None:
    """A call ends once."""
    play.change("limit", USER, 1_000)
    call = play.reserve(USER, 100, fate=Fate.ANSWER_LOST)
    first = play.settle(call, 50, "counted")
    assert play.settle(call, 90, "counted") == first
    assert play.make(play.both.releasing(call)) == ["LedgerConflict"]
    play.make(play.both.refunding(call))
    play.make(play.both.releasing(play.reserve(USER, 100)))


def further_attempts(play: Play) -> None:
    """What failed is given back, also if the next attempt is refused."""
    play.change("limit", USER, 200)
    failed = play.reserve(USER, 150)
    play.make(play.both.extending(failed, play.terms(180)))
    second = list(play.both.model.calls)[-1]
    assert play.make(play.both.extending(second, play.terms(300))) == ["QuotaExceeded"]


def jobs_of_another_model(play: Play) -> None:
    """A job is taken over by the terms of another model, if there is room for those; else it keeps what it holds."""
    play.change("limit", USER, 200)
    job = play.reserve(USER, 100, dispatch=False)
    play.spend(USER, 50)
    assert play.make(play.both.dispatching(job, terms=play.terms(160))) == ["QuotaExceeded"]
    assert play.refuse(USER, 60) == "QuotaHeld"
    [outcome] = play.make(play.both.dispatching(job, terms=play.terms(140)))
    assert not isinstance(outcome, str), outcome


def two_processes(play: Play) -> None:
    """Neither remembers what the other has changed."""
    play.change("limit", USER, 200)
    for process in (0, 1, 0, 1):
        play.both.process = process
        play.spend(USER, 50)
    play.both.process = 0
    assert play.refuse(USER, 20) == "QuotaExceeded"


SCENARIOS: list[Scenario] = [
    forgiveness,
    slots,
    answers_from_the_cache,
    refusals,
    leases_and_late_truth,
    ends,
    further_attempts,
    jobs_of_another_model,
    two_processes,
]
