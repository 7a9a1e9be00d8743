"""Parsers of the arguments that describe a quota. Each raises InvalidRequest."""

from tollkeeper.cli.arguments import parse_choice, parse_number
from tollkeeper.quota.changes import Action
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period

UNITS = {"tokens": Unit.TOKENS, "usd": Unit.MICRO_USD}


def parse_amount(text: str, label: str, *, minimum: int = 1) -> int:
    """Returns a whole number from `minimum` to MAX_GRANTED. `label` names the option or column in the error."""
    return parse_number(text, label, minimum, MAX_GRANTED)


def parse_window(text: str) -> Period:
    return Period(parse_choice(text, "window", [period.value for period in Period]))


def parse_unit(text: str) -> Unit:
    return UNITS[parse_choice(text, "unit", list(UNITS))]


def parse_action(text: str) -> Action:
    return Action(parse_choice(text, "action", [action.value for action in Action]))
