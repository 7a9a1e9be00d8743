"""CSV files of bounded size, with a header that names their columns."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tollkeeper.cli.arguments import quote
from tollkeeper.cli.output import print_line
from tollkeeper.errors import InvalidRequest

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_PROBLEMS_SHOWN = 20

Cells = dict[str, str]


def read_cells(
    path: Path, columns: Collection[str], verbatim: Collection[str] = ()
) -> Iterator[tuple[int, Cells | str]]:
    """Yields for each line its number, and either its cells that are not empty, by column, or what is wrong with it.

    Cells have no space around them, but those of the columns `verbatim`. Raises InvalidRequest for a file that cannot
    be read or has no valid header.
    """
    lines = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = _parse_header(next(lines, []), columns)
    except csv.Error as error:
        raise InvalidRequest(f"The first line of {path} is not valid CSV ({error}).") from None
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield lines.line_num, f"this is not valid CSV ({error})."
            return
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            yield lines.line_num, f"The line has {len(cells)} cells, but the header has {len(header)} columns."
            continue
        given = {
            name: cell if name in verbatim else cell.strip() for name, cell in zip(header, cells, strict=True) if cell
        }
        yield lines.line_num, {name: cell for name, cell in given.items() if cell}


def print_problems(program: str, problems: Sequence[str]) -> None:
    """Print the first of the problems to standard error, and how many there are beyond."""
    for problem in problems[:MAX_PROBLEMS_SHOWN]:
        print_line(f"{program}: {problem}", error=True)
    if len(problems) > MAX_PROBLEMS_SHOWN:
        print_line(f"{program}: and {len(problems) - MAX_PROBLEMS_SHOWN:,} more", error=True)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"The file {path.absolute()} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"The file {path.absolute()} is not UTF-8 text.") from None
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequest(f"The file {path.absolute()} is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB.")
    return text


def _parse_header(cells: list[str], columns: Collection[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    unknown = [name for name in header if name not in columns]
    if unknown or not header:
        found = f", not {quote(unknown[0])}" if unknown else ""
        raise InvalidRequest(f"The first line must name columns. Valid names are {', '.join(columns)}{found}.")
    if len(set(header)) < len(header):
        raise InvalidRequest("The first line names a column twice.")
    return header
