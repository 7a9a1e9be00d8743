"""What commands show of a quota in its current window: a row of a table, or a JSON object."""

from typing import Any

from tollkeeper.cli.output import format_time, iso_time
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance

UNIT_NAMES = {
    Unit.TOKENS.value: "tokens",
    Unit.MICRO_USD.value: "micro-USD",
    Unit.REQUESTS.value: "requests",
    Unit.CONCURRENCY.value: "calls in flight",
}
BALANCE_COLUMNS = ("whose", "window", "unit", ">limit", ">used", ">reserved", ">remaining", "resets", "when spent")


def balance_row(label: str, balance: Balance) -> tuple[str, ...]:
    """Returns the cells of one quota in its current window, for BALANCE_COLUMNS."""
    return (
        label,
        str(balance.period),
        UNIT_NAMES[balance.unit],
        *(f"{amount:,}" for amount in (balance.limit, balance.used, balance.reserved, balance.remaining)),
        format_time(balance.resets_ms) if balance.resets_ms is not None else "never",
        str(balance.when_spent if balance.fallback_model is None else balance.fallback_model),
    )


def balance_record(label: str, balance: Balance) -> dict[str, Any]:
    """Returns the same as a JSON object."""
    return {
        "whose": label,
        "window": str(balance.period),
        "unit": UNIT_NAMES[balance.unit],
        "limit": balance.limit,
        "used": balance.used,
        "reserved": balance.reserved,
        "remaining": balance.remaining,
        "resets": iso_time(balance.resets_ms),
        "when_spent": str(balance.when_spent),
        "fallback_model": balance.fallback_model,
        "rolled_over": balance.rolled_over,
        "rollover": balance.rollover_cap,
    }
