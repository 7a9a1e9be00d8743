"""Has a share of the tenant's answers rated after they were given, at the cost of the tenant's service account.

No caller waits for it, and none receives the score: it is counted.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import Candidate, ModelCall
from tollkeeper.gateway.classifiers import FindAccount
from tollkeeper.gateway.evaluation import TIMEOUT_S, Evaluator, Judge, Judges, MakeCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.gateway.verdict import RatedAnswer, Verdict
from tollkeeper.quota.rules.operations import Replayed

MAX_RUNNING = 16
"""Answers of the samples that a process has rated at the same time. A further one is left out."""
STOP_S = 5.0
"""How long a process that stops waits for its judges."""

NoteRated = Callable[[RatedAnswer], None]

log = structlog.get_logger("tollkeeper.evaluation")


class SampledEvaluations:
    """Notes the verdicts on answers, and has a share of the others rated. `draw` returns a number from 0 to 1."""

    def __init__(
        self,
        judges: Judges,
        evaluator: Evaluator,
        find_account: FindAccount,
        make_call: MakeCall,
        note: NoteRated,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._judges = judges
        self._evaluator = evaluator
        self._find_account = find_account
        self._make_call = make_call
        self._note = note
        self._draw = draw
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, record: CallRecord, call: ModelCall, result: CallResult | Replayed) -> None:
        """Take the result of a call, before anything is put back that was redacted."""
        if isinstance(result, Replayed) or call.without_output:
            return
        if result.outcome.verdict is not None:
            self._note_rated(record, result, result.outcome.verdict, is_sampled=False)
            return
        judge = self._judges.sampling(record.caller.tenant_id)
        if judge is None or result.from_cache or result.outcome.cut_short or self._draw() >= judge.share:
            return
        if len(self._tasks) >= MAX_RUNNING:
            self._note_rated(record, result, Verdict(None, "busy", judge.model), is_sampled=True)
            return
        task = asyncio.create_task(self._rate(record, judge, result), name="sampled evaluation")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait a while for the judges that work, then cancel their calls: each is charged as one that is cancelled."""
        if not self._tasks:
            return
        _, working = await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    async def _rate(self, record: CallRecord, judge: Judge, result: CallResult) -> None:
        try:
            verdict = await self._verdict_on(record, judge, result)
        except TollkeeperError as error:
            log.warning("evaluation.not_begun", tenant_id=record.caller.tenant_id, code=error.code)
            verdict = Verdict(None, "judge_refused", judge.model)
        except Exception:
            log.exception("evaluation.failed")
            return
        self._note_rated(record, result, verdict, is_sampled=True)

    async def _verdict_on(self, record: CallRecord, judge: Judge, result: CallResult) -> Verdict:
        """Raises what preparing the judge's call raises, and DatabaseUnavailable."""
        tenant_id = record.caller.tenant_id
        account = await self._find_account(tenant_id, judge.account) if judge.account is not None else None
        if account is None:
            return Verdict(None, "judge_refused", judge.model)
        evaluation = self._evaluator.of(judge, tenant_id, result.outcome.candidate.call)

        async def make_call(own: CallRecord, candidate: Candidate) -> CallResult:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._make_call(own, candidate)

        return await evaluation.rate_later(record, account, result.outcome, make_call)

    def _note_rated(self, record: CallRecord, result: CallResult, verdict: Verdict, *, is_sampled: bool) -> None:
        self._note(RatedAnswer(record.caller.tenant_id, result.model, result.charge, verdict, is_sampled))
