"""The caller's second factor: set up, confirm with a code, remove. Each needs a fresh login, but the confirmation."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from pydantic import BaseModel, Field

from tollkeeper.api import strict_json
from tollkeeper.api.auth import MAX_CODE_LENGTH
from tollkeeper.api.auth_tokens import client_of
from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import AuthenticatedUser, KeyOwner, Services, ServicesDep, SessionDep
from tollkeeper.api.middleware import read_body
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.audit_log.log import Act
from tollkeeper.errors import InvalidTotpCode, StepUpRequired
from tollkeeper.identity.totp import RECOVERY_CODES

router = APIRouter(prefix="/auth/totp", tags=["auth"])

MAX_BODY_BYTES = 1024


class CodeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A code of the authenticator app, or, to remove the second factor, a recovery code."""

    code: Annotated[str, Meta(min_length=1, max_length=MAX_CODE_LENGTH)]


class EnrolmentResponse(BaseModel):
    """The secret, which is shown only this once, and the URI for an authenticator app, to be shown as a QR code."""

    secret: str = Field(repr=False)
    uri: str = Field(repr=False)


class RecoveryCodesResponse(BaseModel):
    """Codes that replace one of the app's each, shown only this once."""

    recovery_codes: list[str] = Field(repr=False, min_length=RECOVERY_CODES)


CODE_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The code is wrong, or was used before"},
    404: {"description": "There is no second factor"},
}
CODE_BODY = json_body(CodeRequest, {"code": "123456"})


@router.post("", status_code=201, summary="Set up a second factor")
async def start_totp(
    request: Request, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> EnrolmentResponse:
    """It has no effect until a code of it is confirmed."""
    _require_fresh_login(caller, services)
    enrolment = await services.second_factors.start(session, caller.user)
    await _note(request, caller, session, services, "totp.start")
    return EnrolmentResponse(secret=enrolment.secret, uri=enrolment.uri)


@router.post("/confirm", openapi_extra=CODE_BODY, responses=CODE_ERRORS, summary="Confirm the second factor")
async def confirm_totp(
    request: Request, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> RecoveryCodesResponse:
    """From now on, each login with the password needs a code."""
    await _prove(request, caller, session, services, to_confirm=True)
    await services.authenticator.load_account(session, caller.principal)
    codes = await services.second_factors.confirm(session, caller.user)
    await _note(request, caller, session, services, "totp.confirm")
    return RecoveryCodesResponse(recovery_codes=codes)


@router.delete("", status_code=204, openapi_extra=CODE_BODY, responses=CODE_ERRORS, summary="Remove the second factor")
async def remove_totp(request: Request, caller: KeyOwner, session: SessionDep, services: ServicesDep) -> None:
    _require_fresh_login(caller, services)
    await _prove(request, caller, session, services)
    await services.authenticator.load_account(session, caller.principal)
    if await services.second_factors.remove(session, caller.user):
        await _note(request, caller, session, services, "totp.remove")


def _require_fresh_login(caller: AuthenticatedUser, services: Services) -> None:
    if not services.authenticator.is_fresh(caller.principal):
        raise StepUpRequired


async def _prove(
    request: Request, caller: AuthenticatedUser, session: SessionDep, services: Services, *, to_confirm: bool = False
) -> None:
    """Consume the code in the body. A wrong one counts as a failed authentication of the client's address."""
    await session.commit()  # no transaction is open while the client sends the body
    session.expire_all()
    sent = strict_json.decode(CodeRequest, await read_body(request.scope, request.receive, MAX_BODY_BYTES))
    user, _ = await services.authenticator.load_account(session, caller.principal)
    await session.commit()
    address = client_address(request.scope)
    await services.throttle.check_failures(address)
    try:
        await services.second_factors.prove(services.database, user, sent.code, to_confirm=to_confirm)
    except InvalidTotpCode:
        await services.throttle.count_failure(address)
        raise


async def _note(
    request: Request, caller: AuthenticatedUser, session: SessionDep, services: Services, action: str
) -> None:
    client, user_id = client_of(request), caller.principal.user_id
    act = Act(
        caller.principal.tenant_id,
        f"user:{user_id}",
        action,
        f"user:{user_id}",
        address=client.address,
        correlation_id=client.correlation_id,
    )
    await services.audit_log.add(session, act, services.clock.now_ms())
