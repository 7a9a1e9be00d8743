"""What becomes of the answer of a job: it is rated, if its call asks for that, and stored with the settle."""

from collections.abc import Callable

from tollkeeper.gateway.call_guard import CallGuard
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.evaluation import Evaluator
from tollkeeper.gateway.guarded_calls import restored
from tollkeeper.gateway.results import CallResult, Outcome, RenderResult, ReservedJob
from tollkeeper.gateway.verdict import Verdict
from tollkeeper.quota.job_reservation import JobReservation


def store_result(reservation: JobReservation, guard: CallGuard | None, render: RenderResult, outcome: Outcome) -> None:
    """Store the result of a job, as its caller is to see it, with the settle of its charge."""
    shown, fallback_for = restored(guard, outcome), reservation.fallback_for
    reservation.store_result(lambda closed: render(CallResult(closed, shown, fallback_for=fallback_for)))


async def rate_job(
    evaluator: Evaluator,
    record: CallRecord,
    reservation: JobReservation,
    job: ReservedJob | str,
    outcome: Outcome,
    keep: Callable[[Outcome], None],
) -> Outcome:
    """The outcome with the verdict of the judge that was reserved with the job, or the reason why there is none.

    `keep` receives the outcome that is stored if the process stops while the judge works.
    """
    terms = job.judge_terms if isinstance(job, ReservedJob) else None
    if terms is None:
        return outcome._replace(verdict=Verdict(None, "judge_refused", "unknown"))
    judged = evaluator.reserved(record.caller, outcome.candidate.call, terms)
    if judged is None:
        return outcome._replace(verdict=Verdict(None, "judge_refused", terms.model))
    keep(outcome._replace(verdict=Verdict(None, "cancelled", terms.model)))
    return await judged.rate(record, reservation, outcome)
