"""Writes the changes of a page on PostgreSQL: one statement per table and kind of change."""

from collections.abc import Iterable
from typing import Any

from tollkeeper.quota.rules.charge_row import INSERTED_COLUMNS, UPDATED_COLUMNS
from tollkeeper.quota.rules.models import Charge, Entry
from tollkeeper.quota.rules.page import EntryRow, Page
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.postgres.idempotency_keys import write_keys
from tollkeeper.quota.stores.rows import inserted_values, updated_values


def _types(table: type[Charge] | type[Entry], columns: Iterable[str]) -> list[str]:
    """The PostgreSQL type of each column. It is taken from the model, so that statements and schema always agree."""
    kinds = {"BIGINT": "bigint", "INTEGER": "integer", "BOOLEAN": "boolean"}
    described = {column.name: str(column.type) for column in table.__table__.columns}  # type: ignore[union-attr]
    return [kinds.get(described[column], "text") for column in columns]


def _unnest(types: Iterable[str]) -> str:
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))


_INSERT_CHARGES = (
    f"INSERT INTO charges ({', '.join(INSERTED_COLUMNS)})"
    f" SELECT * FROM unnest({_unnest(_types(Charge, INSERTED_COLUMNS))})"
)
_CHARGE_KEY = ("tenant_id", "month", "id")
_UPDATE_CHARGES = (
    f"UPDATE charges SET {', '.join(f'{column} = new.{column}' for column in UPDATED_COLUMNS)}"
    f" FROM unnest({_unnest(_types(Charge, (*_CHARGE_KEY, *UPDATED_COLUMNS)))})"
    f" AS new ({', '.join((*_CHARGE_KEY, *UPDATED_COLUMNS))})"
    " WHERE charges.tenant_id = new.tenant_id AND charges.month = new.month AND charges.id = new.id"
)
_BALANCES = ("granted", "settled", "pending", "forgiven", "sequence")
_UPDATE_WINDOWS = (
    f"UPDATE windows SET {', '.join(f'{column} = new.{column}' for column in _BALANCES)}"
    f" FROM unnest({_unnest(['integer', *['bigint'] * 6])}) AS new (tenant_id, id, {', '.join(_BALANCES)})"
    " WHERE windows.tenant_id = new.tenant_id AND windows.id = new.id"
)
_UPDATE_LIMITS = (
    "UPDATE quotas SET granted = new.granted FROM unnest($1::integer[], $2::bigint[]) AS new (id, granted)"
    " WHERE quotas.id = new.id"
)
_INSERT_ENTRIES = (
    f"INSERT INTO entries ({', '.join(EntryRow._fields)})"
    f" SELECT * FROM unnest({_unnest(_types(Entry, EntryRow._fields))})"
)


async def write(connection: Connection, page: Page) -> None:
    """Write everything that the page changed."""
    if page.new_charges:
        await connection.execute(_INSERT_CHARGES, *_columns(map(inserted_values, page.new_charges)))
    if page.changed_charges:
        charges = page.changed_charges.values()
        updates = ((row.tenant_id, row.month, row.id, *updated_values(row)) for row in charges)
        await connection.execute(_UPDATE_CHARGES, *_columns(updates))
    if page.changed_limits:
        limits = page.changed_limits.values()
        await connection.execute(_UPDATE_LIMITS, *_columns((row.id, row.granted) for row in limits))
    if page.changed_windows:
        windows = page.changed_windows.values()
        balances = (
            (row.tenant_id, row.id, row.granted, row.settled, row.pending, row.forgiven, row.sequence)
            for row in windows
        )
        await connection.execute(_UPDATE_WINDOWS, *_columns(balances))
        await connection.execute(_INSERT_ENTRIES, *_columns(page.new_entries))
    if page.changed_keys:
        await write_keys(connection, page.changed_keys.values())


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Transpose rows into the arrays of columns that `unnest` takes."""
    return list(zip(*rows, strict=True))
