"""A file of changes: CSV with a header. Read strictly, and wholly: each wrong line is told with its number."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tollkeeper.cli import values
from tollkeeper.errors import InvalidRequest
from tollkeeper.quota.changes import Action, QuotaChange, Target
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import Period

COLUMNS = ("email", "tenant", "action", "window", "limit", "tokens", "unit", "reason")
MAX_BYTES = 4 * 1024 * 1024
FORMAT = """The CSV file starts with a header that names its columns, in any order:
  email or tenant   whose quota: a user's, or a tenant's own
  action            set or grant; may be left out where ACTION is given
  window            minute, hour, day, month or total; not needed where there is one quota, or with --window
  limit             for set: the new limit
  tokens            for grant: how many more, in the current window
  unit              tokens, or usd for a money quota counted in micro-USD; tokens if left out
  reason            why; not needed with --reason
For example:
  email,tenant,action,window,limit,tokens,reason
  ada@example.com,,set,day,200000,,new project
  ,acme,grant,month,,50000,month end
"""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a row means where it leaves a column out."""

    action: Action | None = None
    window: Period | None = None
    unit: Unit = Unit.TOKENS
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One change, as a line of the file asks for it. Line 0 is the command's own."""

    line: int
    email: str | None
    tenant: str | None
    action: Action
    amount: int
    window: Period | None
    unit: Unit
    reason: str

    def change(self, target: Target) -> QuotaChange:
        return QuotaChange(target, self.action, self.amount, self.reason, self.window, self.unit)


def read(path: Path, defaults: Defaults) -> Iterator[Row | str]:
    """Each row in turn, or the sentence that says what is wrong with its line.

    Raises InvalidRequest for a file that cannot be read, or whose header is not one.
    """
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = _header(next(lines, []))
    except csv.Error as error:
        raise InvalidRequest(f"The first line of {path} is not CSV ({error}).") from None
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"line {lines.line_num}: this is not CSV ({error})."
            return
        if not any(cell.strip() for cell in cells):
            continue
        try:
            yield _row(lines.line_num, header, cells, defaults)
        except InvalidRequest as error:
            yield f"line {lines.line_num}: {error.detail}"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"The file {path} is not UTF-8 text.") from None
    if len(content) > MAX_BYTES:
        raise InvalidRequest(f"The file {path} is larger than {MAX_BYTES // 1024 // 1024} MiB.")
    return text


def _header(cells: list[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    wrong = [name for name in header if name not in COLUMNS]
    if wrong or not header:
        named = f", not {values.shown(wrong[0])}" if wrong else ""
        raise InvalidRequest(f"The first line names the columns; they are {', '.join(COLUMNS)}{named}.")
    if len(set(header)) < len(header):
        raise InvalidRequest("The first line names a column twice.")
    return header


def _row(line: int, header: list[str], cells: list[str], defaults: Defaults) -> Row:
    """Raises InvalidRequest."""
    if len(cells) != len(header):
        raise InvalidRequest(f"There are {len(cells)} cells where the header names {len(header)} columns.")
    given = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    if ("email" in given) == ("tenant" in given):
        raise InvalidRequest("It names an email or a tenant, one of the two.")
    action = values.action(given["action"]) if "action" in given else defaults.action
    if action is None:
        raise InvalidRequest("The action is missing: set or grant.")
    needed, stray = ("limit", "tokens") if action is Action.SET else ("tokens", "limit")
    if needed not in given or stray in given:
        raise InvalidRequest(f"The action {action} takes a number in the column {needed}, and none in {stray}.")
    reason = given.get("reason", defaults.reason)
    if reason is None:
        raise InvalidRequest("The reason is missing; --reason gives one for all lines.")
    return Row(
        line,
        given.get("email"),
        given.get("tenant"),
        action,
        values.amount(given[needed], f"The column {needed}", least=0 if action is Action.SET else 1),
        values.window(given["window"]) if "window" in given else defaults.window,
        values.unit(given["unit"]) if "unit" in given else defaults.unit,
        values.reason(reason),
    )
