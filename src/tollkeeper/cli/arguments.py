"""Parsers of command arguments. Each raises InvalidRequest with one sentence that names the valid values."""

import re
import sys

import typer

from tollkeeper.errors import InvalidRequest
from tollkeeper.identity.keys import GRANTABLE_SCOPES, MAX_LIFETIME_DAYS
from tollkeeper.principal import Access, Role
from tollkeeper.quota.changes import Action
from tollkeeper.quota.rules.decide import MAX_GRANTED
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import Period

MAX_REASON_LENGTH = 500
MAX_PASSWORD_LINE_BYTES = 4096
MAX_QUOTED_LENGTH = 60
UNITS = {"tokens": Unit.TOKENS, "usd": Unit.MICRO_USD}

_WHOLE_NUMBER = re.compile(r"[0-9]{1,16}")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def parse_amount(text: str, label: str, *, minimum: int = 1) -> int:
    """Returns a whole number from `minimum` to MAX_GRANTED. `label` names the option or column in the error."""
    return _parse_number(text, label, minimum, MAX_GRANTED)


def parse_days(text: str) -> int:
    """Returns a whole number from 1 to MAX_LIFETIME_DAYS."""
    return _parse_number(text, "--days", 1, MAX_LIFETIME_DAYS)


def parse_window(text: str) -> Period:
    return Period(_parse_choice(text, "window", [period.value for period in Period]))


def parse_unit(text: str) -> Unit:
    return UNITS[_parse_choice(text, "unit", list(UNITS))]


def parse_role(text: str) -> Role:
    return Role(_parse_choice(text, "role", [role.value for role in Role]))


def parse_action(text: str) -> Action:
    return Action(_parse_choice(text, "action", [action.value for action in Action]))


def parse_scopes(text: str) -> set[Access]:
    """Returns the scopes of an API key, from a list separated by commas."""
    names = [scope.value for scope in GRANTABLE_SCOPES]
    return {Access(_parse_choice(name.strip(), "scope", names)) for name in text.split(",")}


def parse_reason(text: str) -> str:
    """Returns the reason of a ledger entry: one line of 1 to MAX_REASON_LENGTH characters."""
    text = text.strip()
    if not text:
        raise InvalidRequest("The reason is empty. Give one: it is recorded in the ledger.")
    if len(text) > MAX_REASON_LENGTH or _CONTROL_CHARACTER.search(text):
        raise InvalidRequest(f"A reason must be one line of at most {MAX_REASON_LENGTH} characters.")
    return text


def parse_name(text: str) -> str:
    """Returns a tenant's name, a charge's id or an e-mail address without surrounding spaces."""
    if _CONTROL_CHARACTER.search(text) or not text.strip():
        raise InvalidRequest(f"The name {quote(text)} is empty or contains control characters.")
    return text.strip()


def read_password(*, from_stdin: bool) -> str:
    """Returns one line of standard input, or prompts for a password twice at a terminal, without echo."""
    if not from_stdin:
        if not sys.stdin.isatty():
            raise InvalidRequest("There is no terminal. Give the password on standard input, with --password-stdin.")
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    try:
        line = sys.stdin.buffer.readline(MAX_PASSWORD_LINE_BYTES).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The password is not valid UTF-8.") from None
    return line.removesuffix("\n").removesuffix("\r")


def quote(text: str) -> str:
    """Returns the text for an error message: quoted, escaped, and shortened to MAX_QUOTED_LENGTH."""
    return repr(text if len(text) <= MAX_QUOTED_LENGTH else text[:MAX_QUOTED_LENGTH] + "…")


def _parse_number(text: str, label: str, minimum: int, maximum: int) -> int:
    number = int(text) if _WHOLE_NUMBER.fullmatch(text) else -1
    if not minimum <= number <= maximum:
        raise InvalidRequest(f"{label} must be a whole number from {minimum} to {maximum}, not {quote(text)}.")
    return number


def _parse_choice(text: str, noun: str, choices: list[str]) -> str:
    if text in choices:
        return text
    *others, last = choices
    raise InvalidRequest(f"Unknown {noun} {quote(text)}. Choose {', '.join(others)} or {last}.")
