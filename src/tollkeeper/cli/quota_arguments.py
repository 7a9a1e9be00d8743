"""Parsers of the arguments that describe a quota. Each raises InvalidRequest."""

from datetime import UTC, datetime

from tollkeeper.cli.arguments import parse_choice, parse_number
from tollkeeper.errors import InvalidRequest
from tollkeeper.moments import epoch_ms
from tollkeeper.quota.changes import Action
from tollkeeper.quota.rules.models import Unit, WhenSpent
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period

UNITS = {
    "tokens": Unit.TOKENS,
    "usd": Unit.MICRO_USD,
    "requests": Unit.REQUESTS,
    "concurrency": Unit.CONCURRENCY,
}


def parse_amount(text: str, label: str, *, minimum: int = 1) -> int:
    """Returns a whole number from `minimum` to MAX_GRANTED. `label` names the option or column in the error."""
    return parse_number(text, label, minimum, MAX_GRANTED)


def parse_window(text: str) -> Period:
    return Period(parse_choice(text, "window", [period.value for period in Period]))


def parse_unit(text: str) -> Unit:
    return UNITS[parse_choice(text, "unit", list(UNITS))]


def parse_when_spent(text: str) -> WhenSpent:
    return WhenSpent(parse_choice(text, "--when-spent", [choice.value for choice in WhenSpent]))


def parse_time(text: str | None, label: str) -> int | None:
    """Milliseconds since the epoch, of an ISO 8601 time; without an offset, it is UTC. None for None."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{label} is not a time. Write it as 2038-01-15T00:00:00Z.") from None
    return epoch_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def parse_action(text: str) -> Action:
    return Action(parse_choice(text, "action", [Action.SET.value, Action.GRANT.value]))
