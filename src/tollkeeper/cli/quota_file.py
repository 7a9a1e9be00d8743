"""A CSV file of quota changes. Every line is read, and each invalid line is reported with its number."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tollkeeper.cli.arguments import parse_reason
from tollkeeper.cli.csv_file import Cells, read_cells
from tollkeeper.cli.quota_arguments import parse_action, parse_amount, parse_unit, parse_window
from tollkeeper.errors import InvalidRequest
from tollkeeper.quota.changes import Action, QuotaChange, Target
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import Period

COLUMNS = ("email", "tenant", "action", "window", "limit", "tokens", "unit", "reason")
FORMAT = """The CSV file starts with a header that names its columns, in any order:
  email or tenant   the owner of the quota: a user, or the tenant itself
  action            set or grant; optional if ACTION is given
  window            minute, hour, day, week, month or total; optional with --window, or if there is only one quota
  limit             for set: the new limit
  tokens            for grant: how many to add, in the current window
  unit              tokens, usd (a money quota in micro-USD), requests or concurrency; tokens by default
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
    for line, cells in read_cells(path, COLUMNS):
        if isinstance(cells, str):
            yield f"line {line}: {cells}"
            continue
        try:
            yield _parse_row(line, cells, defaults)
        except InvalidRequest as error:
            yield f"line {line}: {error.detail}"


def _parse_row(line: int, given: Cells, defaults: Defaults) -> Row:
    """Raises InvalidRequest."""
    if ("email" in given) == ("tenant" in given):
        raise InvalidRequest("Give either an email or a tenant, not both.")
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
