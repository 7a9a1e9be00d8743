"""How far a verification is: for a person at a terminal, or as lines for the program that has started it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from tollkeeper.cli.output import make_console, print_line

INTERVAL_S = 0.5
AsLines = Annotated[
    bool,
    typer.Option("--progress", help="Print on stderr how far it is, twice a second: lines of JSON with `progress`."),
]


class ProgressLines:
    """Prints what was checked, of `about` how many, by what is counted."""

    def __init__(self, about: Mapping[str, int]) -> None:
        self._about = about
        self._next_at = 0.0

    def show(self, checked: Mapping[str, int], *, is_last: bool = False) -> None:
        """Print a line, unless one was just printed. After the last one, nothing is left."""
        if not is_last and time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + INTERVAL_S
        about = checked if is_last else {name: max(most, checked[name]) for name, most in self._about.items()}
        share = 1.0 if is_last else share_of(checked, about)
        print_line(
            orjson.dumps({"progress": {"share": share, "checked": checked, "about": about}}).decode(), error=True
        )


def share_of(checked: Mapping[str, int], about: Mapping[str, int]) -> float | None:
    """How much of the work is done, from 0 to 1; None if it is not known. Each of what is counted is the same part."""
    if not about:
        return None
    return round(sum(checked[name] / most if most else 1 for name, most in about.items()) / len(about), 4)


@contextmanager
def spinner(begin: str) -> Iterator[Any]:
    """A line that changes, on a terminal. Yields the function that sets its text."""
    console = make_console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(begin)
        yield lambda text: progress.update(task, description=text)
