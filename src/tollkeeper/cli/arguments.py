"""Parsers of command arguments. Each raises InvalidRequest with one sentence that names the valid values."""

import re
import sys

import typer

from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Role

MAX_REASON_LENGTH = 500
MAX_PASSWORD_LINE_BYTES = 4096
MAX_QUOTED_LENGTH = 60

_WHOLE_NUMBER = re.compile(r"[0-9]{1,16}")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def parse_number(text: str, label: str, minimum: int, maximum: int) -> int:
    """Returns a whole number. `label` names the option or column in the error."""
    number = int(text) if _WHOLE_NUMBER.fullmatch(text) else -1
    if not minimum <= number <= maximum:
        raise InvalidRequest(f"{label} must be a whole number from {minimum} to {maximum}, not {quote(text)}.")
    return number


def parse_choice(text: str, noun: str, choices: list[str]) -> str:
    if text in choices:
        return text
    *others, last = choices
    raise InvalidRequest(f"Unknown {noun} {quote(text)}. Choose {', '.join(others)} or {last}.")


def parse_role(text: str) -> Role:
    return Role(parse_choice(text, "role", [role.value for role in Role]))


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
