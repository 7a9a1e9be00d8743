"""What commands print: lines, and tables that never truncate an e-mail address or an id, on a terminal or in a pipe.

Text from users, the database and providers can contain characters that control a terminal. So everything printed here
has escapes in place of characters that are not printable.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tollkeeper.printable import escape_unprintable

PIPE_COLUMNS = 4_000
"""A pipe has no width of its own. This is wider than the longest row."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def make_console(*, stderr: bool = False) -> Console:
    """Returns a console that prints text unchanged: a name from a user is never interpreted as markup."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=None if terminal else PIPE_COLUMNS)


def print_line(text: str = "", *, error: bool = False) -> None:
    """Print one line to standard output, or to standard error. A line feed in the text is escaped, too."""
    typer.echo(escape_unprintable(text), err=error)


def print_json(document: object) -> None:
    """Print a JSON document. Characters beyond ASCII are escaped, so that it is valid in any encoding."""
    typer.echo(json.dumps(document, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under column names. A name that starts with ">" marks a column of numbers, aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(escape_unprintable, row))
    make_console().print(table)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold", style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(escape_unprintable(name), escape_unprintable(value))
    make_console().print(table)


def iso_time(time_ms: int | None) -> str | None:
    """Returns milliseconds since 1970 as an ISO 8601 time in UTC; None for None."""
    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def command_name() -> str:
    """Returns how to call this command in a shell of the present folder."""
    if shutil.which("tollkeeper") is not None:
        return "tollkeeper"
    python = Path(sys.executable)
    python = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shlex.quote(str(python))} -m tollkeeper"


def format_time(time_ms: int) -> str:
    """Returns milliseconds since 1970 as a UTC time, to the second."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
