"""The row of an archive, by which a command that was interrupted is continued, and two never work on the same months.

The state goes from `exporting` to `removing` to `done`. From `exporting` on, no operation changes a charge of its
months. From `removing` on, its rows do not count any more, and are deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database.engine import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.quota.audit.cut import DONE, EXPORTING, REMOVING, WholeWindows
from tollkeeper.quota.partition_months import written

LEASE_MS = 60_000
"""How long another command waits for one that says nothing, and may be gone. In its own folder it need not wait."""
_UNFINISHED = text(
    f"SELECT first_month, month, state, owner, lease_ms, manifest_hash FROM archives WHERE state <> '{DONE}'"
    " ORDER BY month LIMIT 1"
)
_INSERT = text(
    "INSERT INTO archives (month, first_month, state, owner, lease_ms, ledger, started_ms)"
    " VALUES (:month, :first_month, :state, :owner, :lease_ms, :ledger, :started_ms) ON CONFLICT DO NOTHING"
)
_CLAIM = text(
    "UPDATE archives SET owner = :owner, lease_ms = :lease_ms WHERE month = :month"
    " AND (owner = :owner OR lease_ms < :now_ms)"
)
_RENEW = text("UPDATE archives SET lease_ms = :lease_ms WHERE month = :month AND owner = :owner AND state = :state")
_WHOLE = ", ".join(f"whole_{name} = :{name}" for name in WholeWindows._fields)
_EXPORTED = text(
    f"UPDATE archives SET state = '{REMOVING}', manifest_hash = :manifest_hash, charges = :charge_rows,"
    f" entries = :entry_rows, {_WHOLE} WHERE month = :month AND owner = :owner AND state = '{EXPORTING}'"
)
_DONE = text(f"UPDATE archives SET state = '{DONE}', finished_ms = :now_ms WHERE month = :month AND owner = :owner")
_OPEN = text("SELECT count(*) FROM charges WHERE closed_ms IS NULL AND month BETWEEN :first_month AND :month")


class Months(NamedTuple):
    """The months of one archive. `first_month` is 0 if it has all earlier ones, too."""

    first_month: int
    month: int

    @property
    def label(self) -> str:
        """As people read it, and the name of the folder."""
        if self.first_month == self.month:
            return written(self.month)
        return f"until-{written(self.month)}"


class Unfinished(NamedTuple):
    """An archive that an earlier command has begun."""

    months: Months
    state: str
    manifest_hash: str | None


@dataclass(frozen=True, slots=True)
class Registry:
    """The archives of one ledger, for one `owner`: a host and a folder."""

    database: Database
    owner: str

    async def take_unfinished(self, now_ms: int) -> Unfinished | None:
        """Take over an archive that has not ended, if there is one. Raises ConfigurationError, DatabaseUnavailable."""
        async with self.database.session() as session:
            found = await _rows(session, _UNFINISHED)
            if not found:
                return None
            first_month, month, state, owner, _, manifest_hash = found[0]
            values = {"owner": self.owner, "lease_ms": now_ms + LEASE_MS, "month": month, "now_ms": now_ms}
            if await _count(session, _CLAIM, values) == 0:
                raise ConfigurationError(
                    f"{written(month)} is being archived by {owner}. If that has ended, try again in a minute."
                )
        return Unfinished(Months(first_month, month), state, manifest_hash)

    async def begin(self, months: Months, ledger: str, now_ms: int) -> None:
        """Enter a new archive: its charges do not change any more. Raises ConfigurationError, DatabaseUnavailable."""
        values = {"month": months.month, "first_month": months.first_month}
        async with self.database.session() as session:
            entered = {"owner": self.owner, "lease_ms": now_ms + LEASE_MS, "ledger": ledger, "started_ms": now_ms}
            await _require(session, _INSERT, values | entered | {"state": EXPORTING})
            [(open_charges,)] = await _rows(session, _OPEN, values)
            if open_charges:
                raise ConfigurationError(
                    f"Open charges of {months.label}: {open_charges:,}. Start a server, whose sweep closes them."
                )

    async def renew(self, session: AsyncSession, months: Months, state: str, now_ms: int) -> None:
        """Within a transaction of this archive. Raises ConfigurationError if another command has taken it over."""
        values = {"lease_ms": now_ms + LEASE_MS, "month": months.month, "owner": self.owner, "state": state}
        await _require(session, _RENEW, values)

    async def exported(
        self, session: AsyncSession, months: Months, manifest_hash: str, rows: tuple[int, int], whole: WholeWindows
    ) -> None:
        """The export is complete: from the commit on, the rows do not count. `rows` are charges and entries."""
        counts = {"charge_rows": rows[0], "entry_rows": rows[1], **whole._asdict()}
        values = {"manifest_hash": manifest_hash, "month": months.month, "owner": self.owner, **counts}
        await _require(session, _EXPORTED, values)

    async def finish(self, months: Months, now_ms: int) -> None:
        """All rows are gone. Raises DatabaseUnavailable."""
        async with self.database.session() as session:
            await _require(session, _DONE, {"month": months.month, "owner": self.owner, "now_ms": now_ms})


async def has_unfinished(database: Database) -> bool:
    """Whether an archive, of this process or another, has not ended. Raises DatabaseUnavailable."""
    async with database.session() as session:
        return bool(await _rows(session, _UNFINISHED))


async def _rows(session: AsyncSession, statement: Any, values: dict[str, Any] | None = None) -> Sequence[Any]:
    return (await (await session.connection()).execute(statement, values or {})).all()


async def _count(session: AsyncSession, statement: Any, values: dict[str, Any]) -> int:
    return int((await (await session.connection()).execute(statement, values)).rowcount)


async def _require(session: AsyncSession, statement: Any, values: dict[str, Any]) -> None:
    if await _count(session, statement, values) == 0:
        raise ConfigurationError(f"Another command archives {written(values['month'])}. Wait for its end.")
