"""Login with a password."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollkeeper.api import strict_json
from tollkeeper.api.dependencies import ServicesDep
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.throttle import Throttle

MAX_FIELD_LENGTH = 4096


class LoginRequest(BaseModel):
    """The username is the e-mail address."""

    model_config = ConfigDict(extra="forbid", strict=True)

    username: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]
    password: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]


class LoginForm(LoginRequest):
    """The OAuth2 password form. Its other fields have no effect."""

    grant_type: str = "password"
    scope: str = ""
    client_id: str | None = None
    client_secret: str | None = None


class TokenResponse(BaseModel):
    """A bearer token, valid for `expires_in` seconds."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the name of a scheme
    expires_in: int


REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {"schema": LoginForm.model_json_schema()},
            "application/json": {"schema": LoginRequest.model_json_schema()},
        },
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {401: {"description": "The password is wrong, or there is no such user"}}


def auth_router(throttle: Throttle) -> APIRouter:
    """The routes of `/auth`, with the throttle's limits on them."""
    router = APIRouter(prefix="/auth", tags=["auth"])

    async def login(request: Request, services: ServicesDep) -> TokenResponse:
        """Exchange an e-mail address and a password for a bearer token: the OAuth2 password form, or JSON."""
        sent = await _read_login(request)
        throttle.check_login(sent.username.strip().lower())
        caller = await accounts.login(services.database, services.passwords, sent.username, sent.password)
        return TokenResponse(access_token=services.tokens.issue(caller), expires_in=services.tokens.lifetime_s)

    if throttle.login != "off":
        login = throttle.limiter.limit(throttle.login)(login)
    router.post("/login", openapi_extra=REQUEST_BODY, responses=ERRORS, summary="Log in")(login)
    return router


async def _read_login(request: Request) -> LoginRequest:
    """Raises InvalidJson, InvalidRequest; neither contains any of the input."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type == "application/json":
            body = await request.body()
            strict_json.check(body)
            return LoginRequest.model_validate_json(body)
        if media_type in {"application/x-www-form-urlencoded", "multipart/form-data"}:
            async with request.form(max_files=0, max_fields=10) as form:
                return LoginForm.model_validate(dict(form))
    except ValidationError as error:
        fields = sorted(
            {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]} & {"username", "password"}
        )
        raise InvalidRequest(
            f"A login has a username and a password. Invalid: {', '.join(fields) or 'the body'}."
        ) from None
    raise InvalidRequest("Send the OAuth2 password form, or JSON with username and password.")
