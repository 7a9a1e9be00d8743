"""Reads charges and their entries in chunks, in the order of tenants and ids.

A chunk is one range of charges, and the same range of entries. It is read as the ranges of plain columns that it
consists of: PostgreSQL does not stop an index scan at the upper end of a range of row values.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Row, TextClause, bindparam, text

from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.facts import ChargeFacts, EntryFacts, Values
from tollkeeper.quota.audit.reading import BEFORE_ALL_TENANTS, read, read_values
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, month_of

_ENTRIES_PER_CHARGE = 8
"""A chunk ends early if its charges have more entries than this, on average."""
_NO_LIMIT = 2**31
_NTH_CHARGE = text(
    "SELECT tenant_id, month, id FROM charges WHERE (tenant_id, month, id) > (:tenant_id, :month, :id)"
    " AND id <= :newest AND month > :cut ORDER BY tenant_id, month, id LIMIT 1 OFFSET :most"
)
_NTH_ENTRY = text(
    "SELECT tenant_id, month, source_id AS id FROM entries WHERE (tenant_id, source_id) > (:tenant_id, :id)"
    f" AND source_id <= :newest AND source_id LIKE '{CHARGE_PREFIX}%' AND month > :cut"
    " ORDER BY tenant_id, source_id, kind, window_id LIMIT 1 OFFSET :most"
)
_CHARGE_COLUMNS, _ENTRY_COLUMNS = ", ".join(ChargeFacts._fields), ", ".join(EntryFacts._fields)
_NEXT_CHARGES = text(
    f"SELECT {_CHARGE_COLUMNS} FROM charges WHERE (tenant_id, month, id) > (:tenant_id, :month, :id)"
    " AND id <= :newest AND month > :cut ORDER BY tenant_id, month, id LIMIT :most"
)
_SPLIT = len(ChargeFacts._fields)
_BETWEEN_TENANTS = "tenant_id > :tenant_id AND tenant_id < :last_tenant_id"
_charge_of = itemgetter(*map(EntryFacts._fields.index, ("tenant_id", "source_id")))


class Position(NamedTuple):
    """The key of a charge, or of the charge of an entry."""

    tenant_id: int
    month: int
    id: str


BEGIN = Position(BEFORE_ALL_TENANTS, 0, "")
END = Position(2**31 - 1, 2**31 - 1, "")


class Chunk(NamedTuple):
    """Charges, and the entries of each by tenant and charge id, with the columns of EntryFacts; also entries of charges
    that there are not.
    """

    charges: Sequence[ChargeFacts]
    entries: dict[tuple[int, str], list[Values]]


class ChargeReader:
    """Reads the charges and entries up to the id `newest`, and about `most` charges at once; none up to month `cut`."""

    def __init__(self, database: Database, newest: str, most: int, cut: int) -> None:
        self._database = database
        self._newest = newest
        self._most = most
        self._cut = cut
        self._ends_are_searched = False

    async def read_next(self, after: Position) -> tuple[Position, Chunk]:
        """The chunk after `after`, and its last position: charges and entries in one snapshot each.

        It ends after so many charges. If they have more entries than a chunk may have, its end is searched, here and in
        all chunks after it.
        """
        if not self._ends_are_searched:
            values = after._asdict() | {"newest": self._newest, "cut": self._cut}
            charges = await read_values(self._database, _NEXT_CHARGES, most=self._most, **values)
            last = _position_of(Position._make(charges[-1][:3])) if len(charges) == self._most else END
            most = self._most * _ENTRIES_PER_CHARGE
            entries = await self._read(_entries_statement, after, last, most=most)
            self._ends_are_searched = len(entries) == most
            if not self._ends_are_searched and (last == END or last.month == charges[-1][1]):
                return last, _make_chunk(charges, entries)
        last = await self.find_last(after)
        return last, await self.read(after, last)

    async def find_last(self, after: Position) -> Position:
        """The last position of the chunk after `after`: so many charges or entries later, or END."""
        values = after._asdict() | {"newest": self._newest, "cut": self._cut}
        rows = [
            *await read(self._database, _NTH_CHARGE, most=self._most - 1, **values),
            *await read(self._database, _NTH_ENTRY, most=self._most * _ENTRIES_PER_CHARGE - 1, **values),
        ]
        return min(map(_position_of, rows), key=lambda last: (last.tenant_id, last.id), default=END)

    async def read(self, after: Position, last: Position) -> Chunk:
        """The rows after `after` up to `last`: charges and entries in one snapshot each."""
        charges = await self._read(_charges_statement, after, last)
        return _make_chunk(charges, await self._read(_entries_statement, after, last))

    async def read_at_once(self, after: Position, last: Position) -> Chunk:
        """The same, in one snapshot. It takes twice the time."""
        return _split(await self._read(_both_statement, after, last))

    async def read_charges(self, tenant_id: int, ids: Sequence[str]) -> Chunk:
        """These charges of one tenant, and their entries: charges and entries in one snapshot each."""
        values = _values_of(tenant_id, ids) | {"cut": self._cut}
        charges = await read_values(self._database, _CHARGES_OF_IDS, **values)
        entries = await read_values(self._database, _ENTRIES_OF_IDS, **values)
        return _make_chunk(charges, entries)

    async def read_charges_at_once(self, tenant_id: int, ids: Sequence[str]) -> Chunk:
        """The same, in one snapshot."""
        values = _values_of(tenant_id, ids) | {"cut": self._cut}
        return _split(await read_values(self._database, _BOTH_OF_IDS, **values))

    async def _read(
        self, make_statement: Any, after: Position, last: Position, *, most: int = _NO_LIMIT
    ) -> list[Values]:
        statement = make_statement(after.tenant_id == last.tenant_id, after.month == last.month)
        bounds = after._asdict() | {f"last_{name}": value for name, value in last._asdict().items()}
        return await read_values(self._database, statement, newest=self._newest, cut=self._cut, most=most, **bounds)


def _position_of(row: Row[Any] | Position) -> Position:
    """The position of a charge or entry. A wrong month of one row must not split the chunks in another place."""
    try:
        return Position(row.tenant_id, month_of(row.id), row.id)
    except ValueError:
        return Position._make(row)


@lru_cache
def _charges_statement(same_tenant: bool, same_month: bool) -> TextClause:
    return text(_select_charges(same_tenant, same_month))


@lru_cache
def _entries_statement(same_tenant: bool, _same_month: bool) -> TextClause:
    return text(f"{_select_entries(same_tenant)} ORDER BY tenant_id, source_id, kind, window_id LIMIT :most")


@lru_cache
def _both_statement(same_tenant: bool, same_month: bool) -> TextClause:
    return text(_union_of_both(_select_charges(same_tenant, same_month), _select_entries(same_tenant)))


def _union_of_both(charges: str, entries: str) -> str:
    """Charges and entries are not joined: without statistics the planner compares every charge with every entry."""
    tenant_column = _SPLIT + EntryFacts._fields.index("tenant_id") + 1
    return (
        f"SELECT {_CHARGE_COLUMNS}, {_null_columns(_ENTRY_COLUMNS)} FROM ({charges}) AS charge"
        f" UNION ALL SELECT {_null_columns(_CHARGE_COLUMNS)}, {_ENTRY_COLUMNS} FROM ({entries}) AS entry"
        f" ORDER BY {tenant_column}, source_id, kind, window_id"
    )


def _select_charges(same_tenant: bool, same_month: bool) -> str:
    first, last = "tenant_id = :tenant_id", "tenant_id = :last_tenant_id"
    if same_tenant and same_month:
        ranges = [f"{first} AND month = :month AND id > :id AND id <= :last_id"]
    else:
        months = f"{first} AND month > :month"
        between = [months, _BETWEEN_TENANTS, f"{last} AND month < :last_month"]
        ranges = [
            f"{first} AND month = :month AND id > :id",
            *([f"{months} AND month < :last_month"] if same_tenant else between),
            f"{last} AND month = :last_month AND id <= :last_id",
        ]
    return _union(f"SELECT {_CHARGE_COLUMNS} FROM charges WHERE {{}} AND id <= :newest AND month > :cut", ranges)


def _select_entries(same_tenant: bool) -> str:
    if same_tenant:
        ranges = ["tenant_id = :tenant_id AND source_id > :id AND source_id <= :last_id"]
    else:
        first, last = "tenant_id = :tenant_id AND source_id > :id", "tenant_id = :last_tenant_id"
        ranges = [first, _BETWEEN_TENANTS, f"{last} AND source_id <= :last_id"]
    of_charges = f"source_id <= :newest AND source_id LIKE '{CHARGE_PREFIX}%' AND month > :cut"
    return _union(f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE {{}} AND {of_charges}", ranges)


def _union(select: str, ranges: Iterable[str]) -> str:
    return " UNION ALL ".join(map(select.format, ranges))


def _null_columns(columns: str) -> str:
    """A select list with NULL for each of these columns."""
    return ", ".join(f"NULL AS {column}" for column in columns.split(", "))


def _make_chunk(charges: Iterable[Values], entries: Iterable[Values]) -> Chunk:
    """`entries` are in the order of charges."""
    by_charge = {key: list(group) for key, group in groupby(entries, key=_charge_of)}
    return Chunk(list(map(ChargeFacts._make, charges)), by_charge)


def _split(rows: Iterable[Values]) -> Chunk:
    """Separate charges from entries."""
    charges, entries = list[Values](), list[Values]()
    for row in rows:
        if row[0] is None:
            entries.append(row[_SPLIT:])
        else:
            charges.append(row[:_SPLIT])
    return _make_chunk(charges, entries)


def _values_of(tenant_id: int, ids: Sequence[str]) -> dict[str, Any]:
    return {"tenant_id": tenant_id, "ids": list(ids), "months": sorted(set(filter(None, map(_month_of, ids))))}


def _month_of(charge_id: str) -> int | None:
    try:
        return month_of(charge_id)
    except ValueError:
        return None  # such a charge is found by no key


def _with_ids(statement: str) -> TextClause:
    lists: list[BindParameter[Any]] = [
        bindparam(name, expanding=True) for name in ("ids", "months") if f":{name}" in statement
    ]
    return text(statement).bindparams(*lists)


_SELECT_CHARGES = (
    f"SELECT {_CHARGE_COLUMNS} FROM charges WHERE tenant_id = :tenant_id AND month IN :months AND id IN :ids"
    " AND month > :cut"
)
_SELECT_ENTRIES = (
    f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE tenant_id = :tenant_id AND source_id IN :ids AND month > :cut"
)
_CHARGES_OF_IDS, _BOTH_OF_IDS = _with_ids(_SELECT_CHARGES), _with_ids(_union_of_both(_SELECT_CHARGES, _SELECT_ENTRIES))
_ENTRIES_OF_IDS = _with_ids(f"{_SELECT_ENTRIES} ORDER BY tenant_id, source_id, kind, window_id")
