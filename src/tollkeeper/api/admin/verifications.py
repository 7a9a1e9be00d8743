"""Verifications of the ledger and of the audit log, for operators. They run in the background."""

from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel

from tollkeeper.administration.verifications import CommandRunner, Run
from tollkeeper.api.admin.caller import AdminCaller, Operator
from tollkeeper.api.formats import Moment, iso
from tollkeeper.audit_log.models import INSTALLATION

router = APIRouter(prefix="/admin", tags=["admin"])


class ProgressResponse(BaseModel):
    """How far a verification is. `share` is from 0 to 1, null if it is not known. `checked` and `about` are counts by
    what is counted: `entries` and `charges` of the ledger, `lines` of the audit log. `about` is an estimate of all.
    """

    share: float | None
    checked: dict[str, int]
    about: dict[str, int]


class VerificationResponse(BaseModel):
    """The last verification that this server process has started: `none`, `running`, `finished` or `failed`.

    `report` is what `tollkeeper ledger verify --json` or `tollkeeper audit verify --json` prints. Its `problem_count`
    is 0 if nothing is wrong. `progress` is null before anything was checked; it stays when the verification has ended.
    """

    state: str
    started_at: Moment | None
    finished_at: Moment | None
    error: str | None
    progress: ProgressResponse | None
    report: dict[str, Any] | None


@router.post("/ledger/verify", status_code=202, summary="Verify the ledger")
async def verify_ledger(caller: Operator) -> VerificationResponse:
    """It takes minutes for millions of calls: GET the same path for the result. While one runs, no other is started."""
    return await _start(caller, caller.services.verifications.ledger, "ledger")


@router.get("/ledger/verify", summary="The last verification of the ledger")
async def get_ledger_verification(caller: Operator) -> VerificationResponse:
    return _response(caller.services.verifications.ledger.last)


@router.post("/audit/verify", status_code=202, summary="Verify the audit log")
async def verify_audit_log(caller: Operator) -> VerificationResponse:
    """A cut at the end is found only with a head that was noted before: `tollkeeper audit verify --head`."""
    return await _start(caller, caller.services.verifications.audit_log, "audit")


@router.get("/audit/verify", summary="The last verification of the audit log")
async def get_audit_log_verification(caller: Operator) -> VerificationResponse:
    return _response(caller.services.verifications.audit_log.last)


async def _start(caller: AdminCaller, runner: CommandRunner, what: str) -> VerificationResponse:
    await caller.admin.note(INSTALLATION, f"{what}.verify", what)
    await caller.admin.commit()
    return _response(runner.start())


def _response(run: Run) -> VerificationResponse:
    return VerificationResponse(
        state=run.state,
        started_at=iso(run.started_ms),
        finished_at=iso(run.finished_ms),
        error=run.error,
        progress=ProgressResponse(**msgspec.structs.asdict(run.progress)) if run.progress is not None else None,
        report=dict(run.report) if run.report is not None else None,
    )
