"""A CSV file of quota changes. Every line is read, and each invalid line is reported with its number."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tollkeeper.cli.arguments import parse_action, parse_amount, parse_reason, parse_unit, parse_window, quote
from tollkeeper.errors import InvalidRequest
from tollkeeper.quota.changes import Action, QuotaChange, Target
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import Period

COLUMNS = ("email", "tenant", "action", "window", "limit", "tokens", "unit", "reason")
MAX_FILE_BYTES = 4 * 1024 * 1024
FORMAT = """The CSV file starts with a header that names its columns, in any order:
  email or tenant   the owner of the quota: a user, or the tenant itself
  action            set or grant; optional if ACTION is given
  window            minute, hour, day, month or total; optional with --window, or if there is only one quota
  limit             for set: the new limit
  tokens            for grant: how many to add, in the current window
  unit              tokens, or usd for a money quota in micro-USD; tokens by default
  reason            recorded in the ledger; optional with --reason
For example:
  email,tenant,action,window,limit,tokens,reason
  ada@example.com,,set,day,200000,,new project
  ,acme,grant,month,,50000,month end
"""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The values for columns that a row leaves empty."""

    action: Action | None = None
    window: Period | None = None
    unit: Unit = Unit.TOKENS
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One requested change. Line 0 is a change from the command's options."""

    line: int
    email: str | None
    tenant: str | None
    action: Action
    amount: int
    window: Period | None
    unit: Unit
    reason: str

    def to_change(self, target: Target) -> QuotaChange:
        return QuotaChange(target, self.action, self.amount, self.reason, self.window, self.unit)


def read_rows(path: Path, defaults: Defaults) -> Iterator[Row | str]:
    """Yields each row, or an error message for a line that is invalid.

    Raises InvalidRequest for a file that cannot be read or has no valid header.
    """
    lines = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = _parse_header(next(lines, []))
    except csv.Error as error:
        raise InvalidRequest(f"The first line of {path} is not valid CSV ({error}).") from None
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"line {lines.line_num}: this is not valid CSV ({error})."
            return
        if not any(cell.strip() for cell in cells):
            continue
        try:
            yield _parse_row(lines.line_num, header, cells, defaults)
        except InvalidRequest as error:
            yield f"line {lines.line_num}: {error.detail}"


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"The file {path} is not UTF-8 text.") from None
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequest(f"The file {path} is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB.")
    return text


def _parse_header(cells: list[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or not header:
        found = f", not {quote(unknown[0])}" if unknown else ""
        raise InvalidRequest(f"The first line must name columns. Valid names are {', '.join(COLUMNS)}{found}.")
    if len(set(header)) < len(header):
        raise InvalidRequest("The first line names a column twice.")
    return header


def _parse_row(line: int, header: list[str], cells: list[str], defaults: Defaults) -> Row:
    """Raises InvalidRequest."""
    if len(cells) != len(header):
        raise InvalidRequest(f"The line has {len(cells)} cells, but the header has {len(header)} columns.")
    given = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    if ("email" in given) == ("tenant" in given):
        raise InvalidRequest("Specify either an email or a tenant.")
    action = parse_action(given["action"]) if "action" in given else defaults.action
    if action is None:
        raise InvalidRequest("The action is missing. Specify set or grant.")
    needed, unused = ("limit", "tokens") if action is Action.SET else ("tokens", "limit")
    if needed not in given or unused in given:
        raise InvalidRequest(f"The action {action} needs a number in the column {needed} and none in {unused}.")
    reason = given.get("reason", defaults.reason)
    if reason is None:
        raise InvalidRequest("The reason is missing. Add one to the line, or use --reason for all lines.")
    return Row(
        line,
        given.get("email"),
        given.get("tenant"),
        action,
        parse_amount(given[needed], f"The column {needed}", minimum=0 if action is Action.SET else 1),
        parse_window(given["window"]) if "window" in given else defaults.window,
        parse_unit(given["unit"]) if "unit" in given else defaults.unit,
        parse_reason(reason),
    )
