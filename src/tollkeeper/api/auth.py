"""Logging in."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollkeeper.api import strict_json
from tollkeeper.api.dependencies import Parts
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.throttle import Throttle

MAX_FIELD_LENGTH = 4096


class Credentials(BaseModel):
    """What one logs in with. The username is the e-mail address."""

    model_config = ConfigDict(extra="forbid", strict=True)

    username: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]
    password: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]


class Form(Credentials):
    """The same as the OAuth2 password form, whose other fields say nothing here."""

    grant_type: str = "password"
    scope: str = ""
    client_id: str | None = None
    client_secret: str | None = None


class Token(BaseModel):
    """A bearer token, good for `expires_in` seconds."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the name of a scheme
    expires_in: int


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {"schema": Form.model_json_schema()},
            "application/json": {"schema": Credentials.model_json_schema()},
        },
    }
}
REFUSED: dict[int | str, dict[str, Any]] = {401: {"description": "Not the password of that e-mail address"}}


def auth_router(throttle: Throttle) -> APIRouter:
    """The routes of `/auth`, with the throttle's limits on them."""
    router = APIRouter(prefix="/auth", tags=["auth"])

    async def login(request: Request, parts: Parts) -> Token:
        """Exchange an e-mail address and a password for a bearer token: the OAuth2 password form, or JSON."""
        credentials = await _credentials(request)
        throttle.check_login(credentials.username.strip().lower())
        caller = await accounts.login(parts.database, parts.passwords, credentials.username, credentials.password)
        return Token(access_token=parts.tokens.issue(caller), expires_in=parts.tokens.seconds)

    if throttle.login != "off":
        login = throttle.limiter.limit(throttle.login)(login)
    router.post("/login", openapi_extra=BODY, responses=REFUSED, summary="Log in")(login)
    return router


async def _credentials(request: Request) -> Credentials:
    """Raises InvalidRequest, never with anything of the input in it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            body = await request.body()
            strict_json.check(body)
            return Credentials.model_validate_json(body)
        if kind in {"application/x-www-form-urlencoded", "multipart/form-data"}:
            async with request.form(max_files=0, max_fields=10) as form:
                return Form.model_validate(dict(form))
    except ValidationError as error:
        fields = sorted(
            {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]} & {"username", "password"}
        )
        raise InvalidRequest(
            f"A login has a username and a password. Look at: {', '.join(fields) or 'the body'}."
        ) from None
    raise InvalidRequest("Send the OAuth2 password form, or JSON with username and password.")
