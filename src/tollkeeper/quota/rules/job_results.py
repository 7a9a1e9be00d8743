"""Stores the results of jobs. No I/O."""

import structlog

from tollkeeper.quota.rules.calls import ClosedCharge
from tollkeeper.quota.rules.jobs import JobChange, JobResult, JobStatus
from tollkeeper.quota.rules.page import Page

log = structlog.get_logger("tollkeeper.ledger")


def store_result(page: Page, result: JobResult, tenant_id: int, closed: ClosedCharge) -> None:
    """Complete a job with the result of its call. Errors are logged, not raised: the job then has failed."""
    status, outcome = JobStatus.COMPLETED, None
    try:
        outcome = result.render(closed)
    except Exception:
        log.exception("ledger.result_not_kept", charge_id=closed.charge_id)
        status = JobStatus.FAILED
    page.put_job(
        JobChange(tenant_id, result.job_id, closed.charge_id, str(status), completed_ms=page.now_ms, outcome=outcome)
    )
