"""Output for people: tables that never cut an e-mail address or an id short, on a terminal or through a pipe."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance

PIPE_COLUMNS = 4_000
"""A pipe has no width: wide enough for the longest row."""

UNIT_NAMES = {Unit.TOKENS.value: "tokens", Unit.MICRO_USD.value: "micro-USD"}
BALANCE_COLUMNS = ("whose", "window", "unit", ">limit", ">used", ">reserved", ">remaining", "resets")


def console(*, stderr: bool = False) -> Console:
    """Writes text as it is: what users named is never taken for markup."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=None if terminal else PIPE_COLUMNS)


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. A column whose name starts with ">" holds numbers, and is set to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    console().print(table)


def show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold", style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    console().print(table)


def balance_row(whose: str, balance: Balance) -> tuple[str, ...]:
    """A quota in its window, under BALANCE_COLUMNS."""
    return (
        whose,
        str(balance.period),
        UNIT_NAMES[balance.unit],
        *(f"{amount:,}" for amount in (balance.limit, balance.used, balance.reserved, balance.remaining)),
        moment(balance.resets_ms) if balance.resets_ms is not None else "never",
    )


def moment(ms: int) -> str:
    """A time in UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
