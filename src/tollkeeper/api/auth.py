"""Login with a password."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollkeeper.api import strict_json
from tollkeeper.api.auth_tokens import TokenResponse, client_of, token_response
from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import ServicesDep
from tollkeeper.api.forms import FORM, fields_of
from tollkeeper.api.middleware import read_body
from tollkeeper.errors import InvalidCredentials, InvalidRequest, UnsupportedMediaType
from tollkeeper.server.limits import source_of

router = APIRouter(prefix="/auth", tags=["auth"])

JSON = "application/json"
MAX_BODY_BYTES = 16 * 1024
MAX_FIELD_LENGTH = 4096
MAX_CODE_LENGTH = 64


class Credentials(BaseModel):
    """The username is the e-mail address. `totp` is a code of the second factor, or a recovery code."""

    model_config = ConfigDict(extra="forbid", strict=True)

    username: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]
    password: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]
    totp: Annotated[str, Field(max_length=MAX_CODE_LENGTH)] | None = None


class LoginRequest(Credentials):
    """With `cookie`, the refresh token is put into a cookie, for the console."""

    cookie: bool = False


class LoginForm(Credentials):
    """The OAuth2 password form. Its other fields have no effect."""

    grant_type: str = "password"
    scope: str = ""
    client_id: str | None = None
    client_secret: str | None = None


EXAMPLE = {"username": "ada@example.com", "password": "correct horse battery staple"}
REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {"schema": LoginForm.model_json_schema(), "example": EXAMPLE | {"grant_type": "password"}},
            JSON: {"schema": LoginRequest.model_json_schema(), "example": EXAMPLE},
        },
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The password is wrong, or there is no such user; or the code is missing or wrong"},
    415: {"description": "The body is neither a form nor JSON, or not in UTF-8"},
}


@router.post("/login", openapi_extra=REQUEST_BODY, responses=ERRORS, response_model_exclude_none=True, summary="Log in")
async def login(request: Request, response: Response, services: ServicesDep) -> TokenResponse:
    """Exchange an e-mail address and a password for tokens: the OAuth2 password form, or JSON. A user with a second
    factor sends a code with it.
    """
    address = client_address(request.scope)
    await services.throttle.check_failures(address)  # first: its window ends last
    await services.throttle.check_logins(address)
    sent = await _read_login(request)
    await services.throttle.check_login(sent.username.strip().lower(), address)
    client = client_of(request)
    try:
        issued = await services.logins.log_in(sent.username, sent.password, sent.totp, client)
    except InvalidCredentials:
        services.failed_logins.count(source_of(address))
        await services.throttle.count_failure(address)
        raise
    as_cookie = isinstance(sent, LoginRequest) and sent.cookie
    return token_response(request, response, services, issued, as_cookie=as_cookie)


async def _read_login(request: Request) -> Credentials:
    """Raises UnsupportedMediaType, BodyTooLarge, InvalidJson, InvalidRequest; none contains any of the input."""
    media_type = _media_type(request.headers.getlist("content-type"))
    body = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
    try:
        if media_type == JSON:
            return LoginRequest.model_validate(strict_json.parse(body))
        return LoginForm.model_validate(fields_of(body))
    except ValidationError as error:
        fields = sorted(
            {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
            & {"username", "password", "totp", "cookie"}
        )
        raise InvalidRequest(
            f"A login has a username and a password. Invalid: {', '.join(fields) or 'the body'}."
        ) from None


def _media_type(values: list[str]) -> str:
    """The format of a login, before anything of its body is read. Raises UnsupportedMediaType.

    The charset is UTF-8. Others are refused: Python has decoders whose time grows with the square of their input.
    """
    media_type, _, parameter = values[0].partition(";") if len(values) == 1 else ("", "", "")
    media_type, parameter = media_type.strip().lower(), parameter.replace(" ", "").replace('"', "").lower()
    if media_type not in (FORM, JSON) or parameter not in ("", "charset=utf-8", "charset=utf8"):
        raise UnsupportedMediaType(f"Send the login as {FORM} (the OAuth2 password form) or as {JSON}, in UTF-8.")
    return media_type
