"""What people type, read strictly: each mistake is one sentence that says what would be right."""

import re
import sys

import typer

from tollkeeper.errors import InvalidRequest
from tollkeeper.identity.keys import GRANTABLE, MAX_DAYS
from tollkeeper.principal import Access, Role
from tollkeeper.quota.changes import Action
from tollkeeper.quota.rules.decide import MAX_GRANTED
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import Period

MAX_REASON_LENGTH = 500
MAX_PASSWORD_LINE_LENGTH = 4096
UNITS = {"tokens": Unit.TOKENS, "usd": Unit.MICRO_USD}


_WHOLE_NUMBER = re.compile(r"[0-9]{1,16}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def amount(text: str, name: str, *, least: int = 1) -> int:
    """A plain whole number from `least` to MAX_GRANTED. Raises InvalidRequest."""
    number = int(text) if _WHOLE_NUMBER.fullmatch(text) else -1
    if not least <= number <= MAX_GRANTED:
        raise InvalidRequest(f"{name} takes a whole number from {least} to {MAX_GRANTED}, not {shown(text)}.")
    return number


def window(text: str) -> Period:
    """Raises InvalidRequest."""
    return Period(_one_of(text, "window", [period.value for period in Period]))


def unit(text: str) -> Unit:
    """Raises InvalidRequest."""
    return UNITS[_one_of(text, "unit", list(UNITS))]


def role(text: str) -> Role:
    """Raises InvalidRequest."""
    return Role(_one_of(text, "role", [role.value for role in Role]))


def scopes(text: str) -> set[Access]:
    """What an API key opens, separated by commas. Raises InvalidRequest."""
    names = [scope.value for scope in GRANTABLE]
    return {Access(_one_of(name.strip(), "scope", names)) for name in text.split(",")}


def days(text: str) -> int:
    """Raises InvalidRequest."""
    number = int(text) if _WHOLE_NUMBER.fullmatch(text) else 0
    if not 1 <= number <= MAX_DAYS:
        raise InvalidRequest(f"--days takes a whole number from 1 to {MAX_DAYS}, not {shown(text)}.")
    return number


def action(text: str) -> Action:
    """Raises InvalidRequest."""
    return Action(_one_of(text, "action", [action.value for action in Action]))


def reason(text: str) -> str:
    """Raises InvalidRequest for none, or one that does not fit an entry."""
    text = text.strip()
    if not text:
        raise InvalidRequest("A reason is needed: it is written into the ledger.")
    if len(text) > MAX_REASON_LENGTH or _CONTROL.search(text):
        raise InvalidRequest(f"A reason is one line of at most {MAX_REASON_LENGTH} characters.")
    return text


def name(text: str) -> str:
    """A tenant's name, a charge's id or an e-mail address, as typed. Raises InvalidRequest for control characters."""
    if _CONTROL.search(text) or not text.strip():
        raise InvalidRequest(f"There is nothing named {shown(text)}.")
    return text.strip()


def password(*, from_stdin: bool) -> str:
    """A password: one line of standard input, or asked for twice, unseen, at a terminal. Raises InvalidRequest."""
    if not from_stdin:
        if not sys.stdin.isatty():
            raise InvalidRequest("Give the password on standard input, with --password-stdin.")
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    try:
        line = sys.stdin.buffer.readline(MAX_PASSWORD_LINE_LENGTH).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The password is not valid UTF-8.") from None
    return line.removesuffix("\n").removesuffix("\r")


def _one_of(text: str, noun: str, choices: list[str]) -> str:
    if text in choices:
        return text
    *others, last = choices
    raise InvalidRequest(f"There is no {noun} {shown(text)}: it is {', '.join(others)} or {last}.")


def shown(text: str) -> str:
    """What was typed, as it may be repeated: quoted, escaped, and not too long."""
    return repr(text if len(text) <= 60 else text[:60] + "…")
