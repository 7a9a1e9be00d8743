"""GET /admin/doctor: the checks of `tollkeeper doctor`, of the process that answers."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from tollkeeper.api.admin.caller import Operator
from tollkeeper.api.formats import Moment, iso

router = APIRouter(prefix="/admin/doctor", tags=["admin"])

State = Literal["ok", "warning", "failed"]


class CheckResponse(BaseModel):
    """What a check found. `advice` is what to do; null if there is nothing to do, or if `detail` says it."""

    check: str
    state: State
    detail: str
    advice: str | None


class DoctorResponse(BaseModel):
    """The checks of a server, and the worst of their states."""

    state: State
    checked_at: Moment
    checks: list[CheckResponse]


@router.get("", summary="Check the installation")
async def examine(caller: Operator) -> DoctorResponse:
    """The checks of `tollkeeper doctor`, without a request to a provider, for the host that answers: settings, secrets,
    database, clock, disks, files, providers. The findings of the last 10 seconds are returned again.
    """
    found = await caller.outside_transaction(caller.services.doctor.examine())
    return DoctorResponse(
        state=found.state.value,
        checked_at=iso(found.checked_ms),
        checks=[
            CheckResponse(check=one.check, state=one.state.value, detail=one.detail, advice=one.advice)
            for one in found.findings
        ],
    )
